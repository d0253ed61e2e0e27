"""Rate limits in a real mesh: for one instance, and for all instances of a service together."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.support.bars import bar, times
from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh
from tests.support.processes import Process

LOCAL = """\
apiVersion: busmesh/v1
kind: RateLimit
metadata: {name: store}
spec:
  host: store
  limits:
    - name: each-caller
      per: [caller]
      requests: 5
      interval: 10s
      scope: local
    - name: tried-out
      requests: 1
      interval: 10s
      scope: local
      enforcing: false
"""
TOGETHER = """\
apiVersion: busmesh/v1
kind: RateLimit
metadata: {name: store}
spec:
  host: store
  limits:
    - {name: all, requests: 100, interval: 1s, burst: 5, scope: mesh}
"""

SETTLE_S = 3
WINDOW_S = times(2, 4)


def get(instance: Instance) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*instance.outbound.split(":"), timeout=10)  # type: ignore[arg-type]
    try:
        connection.request("GET", "/now", headers={"Host": "store"})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@contextmanager
def streamer(directory: Path) -> Iterator[str]:
    with Process.python("tests.support.streamer", directory=directory, name="application") as process:
        yield process.ready()["url"]


def test_a_caller_over_its_limit_hears_429_and_when_to_come_back(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with streamer(tmp_path) as url, Mesh(tmp_path, nats_server, locked=True) as mesh:
        store = mesh.agent("store", "store-0", application=url)
        one = mesh.agent("shop", "shop-0", "--upstreams", "store")
        other = mesh.agent("batch", "batch-0", "--upstreams", "store")
        mesh.run("policy", "publish", "-", "--wait", "10s", stdin=LOCAL)
        answers = [get(one) for _ in range(8)]
        assert [status for status, *_ in answers] == [200] * 5 + [429] * 3
        _, headers, body = answers[-1]
        assert headers["x-busmesh-flags"] == "RL"
        assert 1 <= int(headers["retry-after"]) <= 10
        assert json.loads(body)["error"] == "rate_limited"
        assert "each-caller" in json.loads(body)["message"]
        assert get(other)[0] == 200, "the limit is each caller's own"
        counted = store.page("/breakers")["limits"]
        assert counted["tried-out"]["refused"] > 0, "what is only tried out is counted and refuses nobody"


class Driver:
    """Asks one instance's share of a service as often as it can, and notes when it was let through."""

    def __init__(self, caller: Instance, per_second: float) -> None:
        self.passed: list[float] = []
        self.statuses: set[int] = set()
        self._caller = caller
        self._pause = 1 / per_second
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        address = self._caller.outbound.split(":")
        with closing(http.client.HTTPConnection(*address, timeout=10)) as connection:  # type: ignore[arg-type]
            while not self._stop.wait(self._pause * 4):
                connection.request("GET", "/now", headers={"Host": "store"})
                answer = connection.getresponse()
                answer.read()
                self.statuses.add(answer.status)
                if answer.status == 200:
                    self.passed.append(time.monotonic())

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)


def per_second(driver: Driver, begin: float, end: float) -> float:
    return sum(begin <= at < end for at in driver.passed) / (end - begin)


def test_a_limit_of_the_mesh_holds_over_instances_that_die_and_join(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with streamer(tmp_path) as url, Mesh(tmp_path, nats_server, locked=True) as mesh:
        stores = [mesh.agent("store", f"store-{n}", application=url) for n in range(5)]
        shop = mesh.agent("shop", "shop-0", "--upstreams", "store")
        mesh.run("policy", "publish", "-", "--wait", "10s", stdin=TOGETHER)
        driver = Driver(shop, 300)
        try:
            time.sleep(SETTLE_S)
            now = time.monotonic()
            time.sleep(WINDOW_S)
            steady = per_second(driver, now, now + WINDOW_S)
            stores[0].agent.kill()
            time.sleep(SETTLE_S)
            now = time.monotonic()
            time.sleep(WINDOW_S)
            fewer = per_second(driver, now, now + WINDOW_S)
            mesh.agent("store", "store-5", application=url)
            time.sleep(SETTLE_S)
            now = time.monotonic()
            time.sleep(WINDOW_S)
            more = per_second(driver, now, now + WINDOW_S)
        finally:
            driver.stop()
        assert driver.statuses == {200, 429}
        allowed = bar(5)
        for rate in (steady, fewer, more):
            assert abs(rate - 100) <= allowed, (steady, fewer, more)
