"""An agent of several processes: they share port, identity and limits; one that dies comes back."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh, eventually
from tests.support.processes import Process

ROUTE = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: store}
spec:
  hosts: [store]
  http:
    - fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
      route: [{destination: {host: store}}]
"""
NOTHING = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-nothing, namespace: default}
spec: {}
"""
LIMIT = """\
apiVersion: busmesh/v1
kind: RateLimit
metadata: {name: store}
spec:
  host: store
  limits:
    - {name: all, requests: 50, interval: 1s, burst: 5, scope: local}
"""


def get(instance: Instance, path: str = "/now", host: str = "store") -> int:
    """Ask by a connection of its own, which the system gives to any of the workers; 0 if it was cut."""
    connection = http.client.HTTPConnection(instance.outbound, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (ConnectionError, http.client.HTTPException):  # no TimeoutError: nothing gets stuck
        return 0
    finally:
        connection.close()


def worker(instance: Instance) -> dict[str, Any]:
    (only,) = instance.page("/config")["workers"]
    return dict(only)


def counted(instance: Instance, reporter: str) -> float:
    return instance.metric("busmesh_requests_total", f'reporter="{reporter}"')


def alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended may wait for its new parent to hear of it."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return sys.platform != "linux" or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] != "Z"
    return False


def test_two_workers_are_one_instance(tmp_path: Path, nats_server: NatsServer) -> None:
    with (
        Process.python("tests.support.streamer", directory=tmp_path, name="application") as process,
        Mesh(tmp_path, nats_server) as mesh,
    ):
        url = process.ready()["url"]
        store = mesh.agent("store", "store-0", "--workers", "2", application=url)
        shop = mesh.agent("shop", "shop-0", "--workers", "2", "--upstreams", "store")
        # Each caller has a session of its own with one of the workers.
        callers = [shop, *(mesh.agent("shop", f"shop-{n}", "--upstreams", "store") for n in range(1, 7))]

        statuses = Counter(get(caller) for caller in callers * 10)
        assert statuses == {200: 70}
        eventually(lambda: counted(store, "destination") == 70, "all are counted as one instance's")
        assert 0 < worker(store)["served"] < 70, "both workers serve"
        assert 0 < worker(store)["tasks"] < store.metric("busmesh_tasks"), "the first one has all actors"
        for _ in range(40):
            assert get(shop) == 200
        eventually(lambda: counted(shop, "source") == 50, "the sum of both workers")

        killed = worker(shop)["pid"]
        os.kill(killed, signal.SIGKILL)
        after = Counter(get(shop) for _ in range(40))
        assert set(after) <= {0, 200}, "an error or a whole answer"
        eventually(lambda: worker(shop)["ready"] and worker(shop)["pid"] != killed, "the worker is back")

        killed = worker(store)["pid"]
        os.kill(killed, signal.SIGKILL)
        after = Counter(get(caller) for caller in callers * 10)
        assert after == {200: 70}, "what nobody saw is tried again in a session with the other worker"
        eventually(lambda: worker(store)["ready"] and worker(store)["pid"] != killed, "the worker is back")

        mesh.publish(LIMIT, options=("--wait", "10s"))
        time.sleep(3)  # until the shares of the limit have settled
        began, passed = time.monotonic(), 0
        while time.monotonic() - began < 3:
            passed += sum(get(caller) == 200 for caller in callers)
        rate = passed / (time.monotonic() - began)
        assert 40 <= rate <= 60, f"50 a second over both workers, {rate}"

        mesh.publish(NOTHING, options=("--wait", "10s"))
        refusals = {403}  # authorization is asked before limits
        eventually(lambda: {get(caller) for caller in callers} <= refusals, "nobody passes", 3)
        for _ in range(10):
            assert {get(caller) for caller in callers} <= refusals, "neither worker lets anybody through"

        mesh.publish(ROUTE, options=("--wait", "10s"))
        eventually(lambda: {get(shop) for _ in range(12)} == {418}, "the policy is in force in both", 3)

        pids = [worker(store)["pid"], worker(shop)["pid"]]
        store.agent.terminate()
        shop.agent.kill()
        eventually(lambda: not any(map(alive, pids)), "workers end with their agent")
