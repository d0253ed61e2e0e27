"""Splits, faults and balancing in a real mesh, to the figures that are promised."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.client import Caller, at_rate, count_by
from tests.support.mesh import Mesh
from tests.support.scripted import Scripted

SPLIT = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
  - %sroute:
    - destination: {host: orders, subset: v1}
      weight: 70
    - destination: {host: orders, subset: v2}
      weight: 30
"""
BY_USER = SPLIT % "splitBy: {header: x-user}\n    "

FAULTS = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
  - match:
    - headers: {x-test: {exact: abort}}
    fault:
      abort: {httpStatus: 555, percentage: {value: 10}}
    route:
    - destination: {host: orders}
  - match:
    - headers: {x-test: {exact: delay}}
    fault:
      delay: {fixedDelay: 100ms, percentage: {value: 100}}
    route:
    - destination: {host: orders}
  - route:
    - destination: {host: orders}
"""
BALANCER = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: stock}
spec:
  host: stock
  trafficPolicy:
    loadBalancer: {simple: %s}
"""


@pytest.fixture
def mesh(tmp_path: Path, nats_server: NatsServer) -> Iterator[Mesh]:
    with Mesh(tmp_path, nats_server) as mesh:
        yield mesh


def test_70_to_30_within_one_percent_and_users_stay_where_they_are(mesh: Mesh) -> None:
    for version in ("v1", "v2"):
        mesh.instance("orders", f"orders-{version}", "--labels", f"version={version}")
    shop = mesh.agent("shop", "shop-0", "--upstreams", "orders")
    mesh.publish(SPLIT % "")
    answered = count_by(shop.outbound, "orders", 500)
    assert abs(answered["orders-v1"] / 500 - 0.7) <= 0.01, answered

    mesh.publish(BY_USER)
    with closing(Caller(shop.outbound, "orders")) as caller:
        sides: dict[str, set[str]] = {}
        for number in range(1000):
            user = f"user-{number % 200}"
            sides.setdefault(user, set()).add(caller.call("/", x_user=user)[1]["name"])
    assert all(len(side) == 1 for side in sides.values())
    share = Counter(name for side in sides.values() for name in side)
    assert 0.55 <= share["orders-v1"] / 200 <= 0.85, "200 users, thrown by their hash"


def test_faults_hit_as_many_as_they_say_and_nobody_else(mesh: Mesh) -> None:
    mesh.instance("orders", "orders-0")
    shop = mesh.agent("shop", "shop-0", "--upstreams", "orders")
    mesh.publish(FAULTS)
    with closing(Caller(shop.outbound, "orders")) as caller:

        def timed(**headers: str) -> float:
            began = time.monotonic()
            assert caller.call("/", **headers)[0] == 200
            return time.monotonic() - began

        aborted = sum(caller.call("/", x_test="abort")[0] == 555 for _ in range(2000))
        assert abs(aborted / 2000 - 0.10) <= 0.02, aborted
        plain = sorted(timed(x_test="other") for _ in range(500))
        delayed = sorted(timed(x_test="delay") for _ in range(50))
        assert plain[-1] < 0.1, "no delay outside the match"
        assert delayed[0] >= 0.1
        assert delayed[25] <= 0.1 + plain[250] + bar(0.01)


def test_a_slow_replica_gets_little(mesh: Mesh) -> None:
    """p99 is at most half of what random choice makes of it: 5 ms against 50, one request at a time each."""

    def p99(service_by: str) -> float:
        mesh.publish(BALANCER % service_by)
        asyncio.run(at_rate(shop.outbound, "stock", rate=100, count=50))
        results = asyncio.run(at_rate(shop.outbound, "stock", rate=60, count=300))
        assert [each for each in results if each.status != 200] == []
        return sorted(each.seconds for each in results)[297]

    with ExitStack() as stack:
        for name, delay in (("stock-0", 0.005), ("stock-1", 0.05)):
            app = stack.enter_context(Scripted(name).serving())
            app.delay, app.alone = delay, threading.Lock()
            mesh.agent("stock", name, "--health-path", "/healthz", application=app.url)
        shop = mesh.agent("shop", "shop-0", "--upstreams", "stock")
        thrown = p99("RANDOM")
        assert p99("LEAST_REQUEST") <= thrown / 2
        assert p99("PEAK_EWMA") <= thrown / 2
