"""Agents of two processes that die, drain and eject under load: what clients and applications see of it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from busmesh.names import ServiceName, SpiffeId
from busmesh.relay.session.handshakes import lot
from tests.e2e.test_workers import alive, counted, get, worker
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.client import Result, at_rate
from tests.support.mesh import Instance, Mesh, eventually
from tests.support.processes import Process

RATE = 150.0
TWO = ("--workers", "2")


def load(client: Instance, count: int, work: Callable[[], object]) -> list[Result]:
    """Send ``count`` requests, each by a connection of its own, while ``work`` is done in a thread.

    So the system spreads them over the caller's processes. Every other one is a POST.
    """

    def make(number: int) -> dict[str, Any]:
        path = "/?delay=0.1" if number % 4 < 2 else "/"
        method = "POST" if posted(number) else "GET"
        return {"method": method, "path": path, "headers": {"x-id": str(number), "connection": "close"}}

    async def main() -> list[Result]:
        sending = asyncio.create_task(at_rate(client.outbound, "orders", rate=RATE, count=count, make=make))
        await asyncio.sleep(1.0)
        await asyncio.to_thread(work)
        return await sending

    return asyncio.run(main())


def posted(number: int) -> bool:
    return number % 2 == 1


def failed(results: list[Result]) -> list[Result]:
    return [result for result in results if result.status != 200]


class Request(threading.Thread):
    """One request by a connection of its own; ``end`` is its status, or why there is none, with the body."""

    def __init__(self, client: Instance, path: str, method: str = "GET", host: str = "orders") -> None:
        super().__init__()
        self._client, self._path, self._method, self._host = client, path, method, host
        self.end: object = None
        self.body = b""
        self.ended = 0.0
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._client.outbound, timeout=20)
        try:
            connection.request(self._method, self._path, headers={"Host": self._host})
            answer = connection.getresponse()
            self.body = answer.read()
            self.end = answer.status
        except (OSError, http.client.HTTPException) as error:
            self.end = error
        finally:
            self.ended = time.monotonic()
            connection.close()


def at_work(client: Instance, path: str, count: int, method: str = "POST") -> list[Request]:
    """Have so many requests at work at the application of orders, in all processes of a caller."""
    requests = [Request(client, path, method) for _ in range(count)]
    time.sleep(0.4)
    return requests


def ends(requests: list[Request]) -> Counter[str]:
    for request in requests:
        request.join(20)
    return Counter(r.end if isinstance(r.end, str) else str(r.end) for r in requests)


def kill_worker(instance: Instance) -> None:
    os.kill(worker(instance)["pid"], signal.SIGKILL)


def is_back(instance: Instance, restarts: int) -> bool:
    """Whether all workers take requests, each after so many restarts."""
    workers = instance.page("/config")["workers"]
    return all(held["ready"] and held["restarts"] >= restarts for held in workers)


# -- a worker dies -----------------------------------------------------------------------------------


def test_a_worker_of_the_only_instance_is_killed(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        orders = mesh.instance("orders", "orders-0", *TWO)
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        results = load(client, 400, lambda: kill_worker(orders))
        lost = failed(results)
        assert [result for result in lost if not posted(result.number)] == [], "those are tried again"
        assert len(lost) <= 15, "what was at work in that process, and nothing else"
        assert {(result.status, result.flags) for result in lost} <= {(502, "UF"), (503, "UF")}
        seen = Counter(int(entry["id"]) for entry in orders.seen())
        assert [number for number, times in seen.items() if times > 1 and posted(number)] == []
        assert max(result.seconds for result in results) < bar(1.5), "nobody waits for a dead process"
        eventually(lambda: is_back(orders, 1), "it is back")
        eventually(
            lambda: worker(orders).get("sessions", 0) > 0, "its caller's session is with it again", bar(2.5)
        )
        before = worker(orders)["served"]
        assert failed(load(client, 100, lambda: None)) == []
        eventually(lambda: worker(orders)["served"] > before, "and so are requests")


def test_a_worker_hangs(tmp_path: Path, nats_server: NatsServer) -> None:
    """The first process announces the instance all the same, so its callers have to find another way in."""
    with Mesh(tmp_path, nats_server) as mesh:
        orders = mesh.instance("orders", "orders-0", *TWO)
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        pid = worker(orders)["pid"]
        results = load(client, 600, lambda: os.kill(pid, signal.SIGSTOP))
        os.kill(pid, signal.SIGCONT)
        lost = failed(results)
        assert [result for result in lost if not posted(result.number)] == []
        assert {(result.status, result.flags) for result in lost} <= {(503, "UF")}
        assert [result for result in lost if result.number >= 450] == [], "only those of the first moment"
        assert max(result.seconds for result in results) < bar(2.0)
        seen = Counter(int(entry["id"]) for entry in orders.seen())
        assert [number for number, times in seen.items() if times > 1 and posted(number)] == []


def test_no_response_is_cut_short_in_silence(tmp_path: Path, nats_server: NatsServer) -> None:
    size = 1_000_000
    with (
        Process.python("tests.support.streamer", directory=tmp_path, name="application") as process,
        Mesh(tmp_path, nats_server) as mesh,
    ):
        store = mesh.agent("orders", "orders-0", *TWO, application=process.ready()["url"])
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        for victim in (store, client):
            path = f"/bytes?n={size}&chunked=1&pause=0.1"
            requests = at_work(client, path, 20, "GET")
            kill_worker(victim)
            results = ends(requests)
            assert results["200"] < 20, "some of them went by that process"
            assert results["200"] > 0, "and some did not"
            assert set(results) - {"200"}, "the others are told"
            assert all(len(r.body) == size for r in requests if r.end == 200), "what ends well is whole"


# -- draining ------------------------------------------------------------------------------------------


def end_by_signal(instance: Instance) -> None:
    assert instance.agent.terminate() == 0


def end_by_signal_to_all(instance: Instance) -> None:
    """As a service manager does: each process of the agent gets the signal."""
    os.kill(worker(instance)["pid"], signal.SIGTERM)
    end_by_signal(instance)


def end_by_request(instance: Instance) -> None:
    with urllib.request.urlopen(f"http://{instance.admin}/drain", data=b"", timeout=5) as answer:
        assert answer.status == 202
    assert instance.agent.wait() == 0


def only_by_the_worker(instance: str) -> str:
    """Return the name of a caller of one process whose session is with the second process of an instance."""
    names = (f"shopper-{number}" for number in range(1, 99))
    shopper = ServiceName("shopper")
    return next(n for n in names if lot(SpiffeId.workload("local", shopper, n), instance, 0) % 2 == 1)


def test_a_drain_loses_nothing_that_is_at_work(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        callers = [
            mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders"),
            mesh.agent("shopper", only_by_the_worker("orders-1"), "--upstreams", "orders"),
        ]
        for number, end in enumerate((end_by_signal_to_all, end_by_request)):
            orders, client = mesh.instance("orders", f"orders-{number}", *TWO), callers[number]
            assert get(client, "/", "orders") == 200
            pid = worker(orders)["pid"]
            time.sleep(1.5)  # what the worker has said of itself is that it is at rest
            requests = [Request(client, "/?delay=2", "POST") for _ in range(16)]
            eventually(lambda: len(orders.seen()) == 17, "all are at work")  # noqa: B023
            began = time.monotonic()
            end(orders)
            took = time.monotonic() - began
            assert ends(requests) == {"200": 16}
            assert 1.0 < took < bar(3.0), "it waits for what is at work, and for no longer"
            assert not alive(pid)
            assert len(orders.seen()) == 17


def test_a_drain_under_load_is_not_noticed(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        old, new = (mesh.instance("orders", f"orders-{number}", *TWO) for number in range(2))
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        pid = worker(old)["pid"]
        results = load(client, 400, lambda: end_by_signal(old))
        assert failed(results) == []
        assert max(Counter(entry["id"] for each in (old, new) for entry in each.seen()).values()) == 1
        eventually(lambda: counted(client, "source") == 400, "a try for each request, and no more")
        assert not alive(pid)


def test_the_first_process_is_killed(tmp_path: Path, nats_server: NatsServer) -> None:
    """Its workers end with it: who waits for them, on either side, hears of it at once."""
    with Mesh(tmp_path, nats_server) as mesh:
        orders = mesh.instance("orders", "orders-0", *TWO)
        other = mesh.agent("shopper", "shopper-1", *TWO, "--upstreams", "orders")
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        for victim, expected in ((client, {""}), (orders, {"503"})):
            pid = worker(victim)["pid"]
            requests = at_work(client if victim is client else other, "/?delay=15", 8)
            victim.agent.kill()
            began = time.monotonic()
            eventually(lambda: not alive(pid), "its worker ends with it", bar(1.0))  # noqa: B023
            found = ends(requests)
            assert max(request.ended for request in requests) - began < bar(1.0)
            if expected == {""}:
                assert all(isinstance(request.end, Exception) for request in requests), found
            else:
                assert set(found) == expected
        with pytest.raises(ConnectionRefusedError):
            http.client.HTTPConnection(client.outbound, timeout=1).connect()


# -- ejection ------------------------------------------------------------------------------------------

OUTLIERS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection:
      consecutive5xxErrors: 4
      interval: 500ms
      baseEjectionTime: 9s
      maxEjectionPercent: 100
"""


@contextmanager
def staged(directory: Path, *names: str) -> Iterator[dict[str, str]]:
    arguments = [f"{name}=" for name in names]
    with Process.python(
        "tests.support.staged", *arguments, directory=directory, name="applications"
    ) as process:
        yield process.ready()["urls"]


def tell(url: str, what: str) -> None:
    urllib.request.urlopen(f"{url}/stage?{what}", data=b"", timeout=5).close()


def seen(url: str) -> int:
    with urllib.request.urlopen(f"{url}/stage", timeout=5) as answer:
        return sum(entry["path"] == "/now" for entry in json.load(answer))


def test_what_one_process_ejects_all_eject(tmp_path: Path, nats_server: NatsServer) -> None:
    with staged(tmp_path, "ill", "well") as urls, Mesh(tmp_path, nats_server) as mesh:
        for name, url in urls.items():
            mesh.agent("orders", f"orders-{name}", application=url)
        client = mesh.agent("shopper", "shopper-0", "--workers", "3", "--upstreams", "orders")
        mesh.publish(OUTLIERS)
        tell(urls["ill"], "status=500")
        # One connection is served by one process, so only that one has its failures in a row; to the others
        # no request has gone so far.
        with contextlib.closing(http.client.HTTPConnection(client.outbound, timeout=10)) as connection:
            for _ in range(8):
                connection.request("GET", "/now", headers={"Host": "orders"})
                connection.getresponse().read()
        assert seen(urls["ill"]) == 4
        for _ in range(2):
            statuses = Counter(ends([Request(client, "/now") for _ in range(30)]))
            assert statuses == {"200": 30}
            assert seen(urls["ill"]) == 4, "nobody else has to find out"
            for held in client.page("/config")["workers"]:
                if held["restarts"] == 0:
                    os.kill(held["pid"], signal.SIGKILL)
            eventually(lambda: is_back(client, 1), "two that know nothing are told")
        tell(urls["ill"], "status=200")

        def half() -> bool:
            before = seen(urls["ill"])
            assert ends([Request(client, "/now") for _ in range(30)]) == {"200": 30}
            return seen(urls["ill"]) - before >= 12

        eventually(half, "it returns in every process, so that it gets its half", 20)
