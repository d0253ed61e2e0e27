"""Limits of agents of two processes: what all of an agent's processes together let through."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

from tests.e2e.test_rate_limits import SETTLE_S, TOGETHER, WINDOW_S, Driver, per_second, streamer
from tests.e2e.test_workers import get
from tests.e2e.test_workers_failures import TWO, Request, at_work, ends, seen, staged, tell
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh, eventually

DEFINITION = """\
apiVersion: busmesh/v1
kind: Agent
service: orders
workers: 2
limits: {maxRequests: 4, maxPending: 4}
"""
CLIENT = """\
apiVersion: busmesh/v1
kind: Agent
service: shopper
workers: 2
limits: {maxConnections: 6, maxBody: 1000}
"""
NOBODY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: default}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: ["/private"]}}]}]
"""


BURST = """\
apiVersion: busmesh/v1
kind: RateLimit
metadata: {name: orders}
spec:
  host: orders
  limits:
    - {name: all, requests: 1, interval: 60s, burst: 6, scope: local}
"""
POOL = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}
"""
BREAKER = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    breaker: {consecutiveFailures: 3}
"""


def test_a_limit_of_the_mesh_holds_over_all_processes(tmp_path: Path, nats_server: NatsServer) -> None:
    with streamer(tmp_path) as url, Mesh(tmp_path, nats_server, locked=True) as mesh, ExitStack() as stack:
        stores = [mesh.agent("store", f"store-{n}", *TWO, application=url) for n in range(2)]
        callers = [mesh.agent("shop", f"shop-{n}", *TWO, "--upstreams", "store") for n in range(2)]
        mesh.run("policy", "publish", "-", "--wait", "10s", stdin=TOGETHER)
        drivers = [Driver(caller, 150) for caller in callers]
        for driver in drivers:
            stack.callback(driver.stop)
        time.sleep(SETTLE_S)
        now = time.monotonic()
        time.sleep(WINDOW_S)
        rate = sum(per_second(driver, now, now + WINDOW_S) for driver in drivers)
        assert abs(rate - 100) <= bar(5), rate
        for store in stores:
            sharing = store.page("/breakers")["sharing"]
            assert sharing["peers"] == 3, "each process shares as an instance of its own"
            assert sharing["forged"] == 0
        for process in (store.agent for store in stores):
            assert "BM3004" not in process.stderr


def test_limits_of_the_definition_are_divided(tmp_path: Path, nats_server: NatsServer) -> None:
    definition, own = tmp_path / "orders.yaml", tmp_path / "shopper.yaml"
    definition.write_text(DEFINITION)
    own.write_text(CLIENT)
    with Mesh(tmp_path, nats_server) as mesh:
        orders = mesh.instance("orders", "orders-0", str(definition))
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        ends([Request(client, "/?delay=0.2") for _ in range(32)])  # now each process has its connections
        before = len(orders.seen())
        requests = at_work(client, "/?delay=1.5", 32)
        assert len(orders.seen()) == before + 4, "2 at the application by each process"
        assert ends(requests) == {"200": 8, "503": 24}, "and 2 wait in each"
        assert len(orders.seen()) == before + 8

        small = mesh.agent("shopper", "shopper-1", str(own), "--upstreams", "orders")
        assert Counter(post(small, 1001) for _ in range(8)) == {413: 8}, "each body is measured by itself"
        assert post(small, 1000) == 200
        kept = [http.client.HTTPConnection(small.outbound, timeout=10) for _ in range(20)]
        with ExitStack() as stack:
            for connection in kept:
                stack.enter_context(closing(connection))
                connection.connect()
            time.sleep(0.2)
            statuses = Counter(asked(connection) for connection in kept)
        assert statuses == {200: 6, 503: 14}, "3 connections to each process"


def asked(connection: http.client.HTTPConnection) -> int:
    with contextlib.suppress(ConnectionError):  # it was told before it asked
        connection.request("GET", "/now", headers={"Host": "orders"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def post(client: Instance, size: int) -> int:
    with closing(http.client.HTTPConnection(client.outbound, timeout=10)) as connection:
        connection.request("POST", "/", body=b"x" * size, headers={"Host": "orders"})
        answer = connection.getresponse()
        answer.read()
        return answer.status


def denied(instance: Instance) -> float:
    return instance.metric("busmesh_authorization_denied_total")


def test_what_is_counted_is_the_sum_of_all_processes(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        orders = mesh.instance("orders", "orders-0", *TWO)
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        mesh.publish(NOBODY)
        requests = [Request(client, "/private") for _ in range(40)]
        assert ends(requests) == {"403": 40}
        eventually(lambda: denied(orders) == 40, "refusals of all processes are counted")
        assert orders.seen() == []
        rows = mesh.run("instances", "-o", "wide").stdout
        assert "WORKERS" in rows
        assert rows.count("2/2") == 2
        (held,) = orders.page("/config")["workers"]
        assert held["ready"] is True
        assert held["revision"] == 1
        assert held["sessions"] >= 1
        assert get(client, "/", "orders") == 200

        mesh.publish(BURST)
        time.sleep(1)  # until each process has heard of the other
        with closing(http.client.HTTPConnection(client.outbound, timeout=10)) as connection:
            statuses = [asked(connection) for _ in range(6)]
        assert statuses == [200] * 3 + [429] * 3, "one process's part of the burst"


def test_pools_and_breakers_are_each_processs_own(tmp_path: Path, nats_server: NatsServer) -> None:
    """As the reference says: what each request would have to ask the other processes for is not shared."""
    with staged(tmp_path, "orders") as urls, Mesh(tmp_path, nats_server) as mesh:
        url = urls["orders"]
        mesh.agent("orders", "orders-0", application=url)
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        mesh.publish(POOL)
        tell(url, "delay=1")
        requests = [Request(client, "/now") for _ in range(30)]
        time.sleep(0.5)
        assert seen(url) == 2
        assert ends(requests) == {"200": 4, "503": 26}, "1 at work and 1 that waits, in each process"

        mesh.run("policy", "delete", "DestinationRule/orders")
        mesh.publish(BREAKER)
        tell(url, "status=500")
        with closing(http.client.HTTPConnection(client.outbound, timeout=10)) as connection:
            assert [asked(connection) for _ in range(5)] == [500] * 3 + [503] * 2
        assert seen(url) == 3
        for _ in range(2):
            assert set(ends([Request(client, "/now") for _ in range(20)])) <= {"500", "503"}
        assert ends([Request(client, "/now") for _ in range(20)]) == {"503": 20}
        assert 6 <= seen(url) < 23, "the other one had to find out"
