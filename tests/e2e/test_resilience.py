"""Failing and slow applications in a real mesh: retries do not multiply, deadlines, breakers, ejection."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Instance, Mesh, eventually
from tests.support.processes import Process
from tests.support.scripted import Scripted

RETRIES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}}}
spec:
  hosts: [{service}]
  http:
  - retries: {{attempts: 2, retryOn: 5xx}}
    route:
    - destination: {{host: {service}}}
"""
TIMEOUT = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}}}
spec:
  hosts: [{service}]
  http:
  - timeout: {timeout}
    route:
    - destination: {{host: {service}}}
"""
DESTINATION = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: stock}
spec:
  host: stock
  trafficPolicy:
"""
BREAKER = f"""{DESTINATION}
    breaker: {{consecutiveFailures: 5, waitDurationInOpenState: 2s, permittedNumberOfCallsInHalfOpenState: 3}}
"""
EJECTION = f"""{DESTINATION}
    outlierDetection:
      consecutive5xxErrors: 3
      interval: 1s
      baseEjectionTime: 30s
      maxEjectionPercent: 50
"""
PANIC = f"""{EJECTION}
      minHealthPercent: 70
"""
NO_RETRIES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: stock}
spec:
  hosts: [stock]
  http:
  - retries: {attempts: 0}
    route:
    - destination: {host: stock}
"""


@pytest.fixture
def mesh(tmp_path: Path, nats_server: NatsServer) -> Iterator[Mesh]:
    with Mesh(tmp_path, nats_server) as mesh:
        yield mesh


def beside(mesh: Mesh, service: str, app: Scripted, *options: str) -> Instance:
    return mesh.agent(service, app.name, "--health-path", "/healthz", *options, application=app.url)


def test_a_failing_application_behind_three_hops_gets_a_quarter_more_at_most(mesh: Mesh) -> None:
    offered = 200
    services = ["first", "second", "third", "last"]
    with ExitStack() as stack:
        apps = [stack.enter_context(Scripted(f"{service}-0").serving()) for service in services]
        agents = [
            beside(
                mesh, service, app, "--upstreams", ",".join(services[number + 1 : number + 2] or ["first"])
            )
            for number, (service, app) in enumerate(zip(services, apps, strict=True))
        ]
        for number in range(3):
            apps[number].next = (agents[number].outbound, services[number + 1])
        client = mesh.agent("shop", "shop-0", "--upstreams", "first")
        mesh.publish(*(RETRIES.format(service=service) for service in services))
        with closing(Caller(client.outbound, "first")) as caller:
            assert caller.call("/")[0] == 200
            calls = len(apps[3].hits)
            apps[3].status = 503
            statuses = [caller.call("/")[0] for _ in range(offered)]
        assert set(statuses) == {503}
        assert len(apps[3].hits) - calls <= 1.25 * offered


def test_the_caller_hears_of_a_deadline_in_time_and_the_application_too(mesh: Mesh, tmp_path: Path) -> None:
    with Process.python("tests.support.streamer", directory=tmp_path, name="application") as process:
        url = process.ready()["url"]
        mesh.agent("store", "store-0", application=url)
        shop = mesh.agent("shop", "shop-0", "--upstreams", "store")
        mesh.publish(TIMEOUT.format(service="store", timeout="300ms"))
        late, after = [], []
        for number in range(10):
            began = time.time()
            with closing(http.client.HTTPConnection(shop.outbound, timeout=10)) as connection:
                connection.request("GET", f"/hang?id=late-{number}", headers={"Host": "store"})
                answer = connection.getresponse()
                assert (answer.status, answer.getheader("x-busmesh-flags")) == (504, "UT")
            heard = time.time()
            late.append(heard - began - 0.3)

            def left(number: int = number) -> float:
                with urllib.request.urlopen(f"{url}/cancelled", timeout=5) as said:
                    return float(json.load(said)[f"late-{number}"])

            eventually(lambda: left() > 0, "the application has heard that nobody waits")
            after.append(left() - began - 0.3)
        assert min(late) >= -0.001
        assert max(late) <= bar(0.02)
        assert max(after) <= bar(0.05)


def test_each_hop_gets_what_is_left(mesh: Mesh) -> None:
    """The first has 500 ms and spends 200 of them before it calls the second, which would take 5 s."""
    with ExitStack() as stack:
        first = stack.enter_context(Scripted("first-0").serving())
        second = stack.enter_context(Scripted("second-0").serving())
        agent = beside(mesh, "first", first, "--upstreams", "second")
        beside(mesh, "second", second)
        shop = mesh.agent("shop", "shop-0", "--upstreams", "first")
        first.next = (agent.outbound, "second")
        mesh.publish(TIMEOUT.format(service="first", timeout="500ms"))
        with closing(Caller(shop.outbound, "first")) as caller:
            assert caller.call("/")[0] == 200
            first.took.clear()
            first.delay, second.delay = 0.2, 5.0
            assert caller.call("/")[0] == 504
            eventually(lambda: len(first.took) == 1, "the first hears that the second's time is up")
        assert 0.15 <= first.took[0] <= 0.3 + bar(0.05)


def test_a_breaker_opens_probes_as_often_as_it_may_and_closes(mesh: Mesh) -> None:
    with Scripted("stock-0").serving() as app:
        beside(mesh, "stock", app)
        shop = mesh.agent("shop", "shop-0", "--upstreams", "stock")
        mesh.publish(BREAKER, NO_RETRIES)
        with closing(Caller(shop.outbound, "stock")) as caller:
            assert caller.call("/")[0] == 200
            app.status, before = 500, len(app.hits)
            statuses = [caller.call("/")[0] for _ in range(20)]
            assert statuses == [500] * 5 + [503] * 15
            assert len(app.hits) - before == 5

            time.sleep(2.1)
            before, app.delay = len(app.hits), 0.3
            answers = together(shop, "stock", 10)
            assert answers.count(500) == 3, answers
            assert len(app.hits) - before == 3, "as many probes as are permitted"
            assert caller.call("/")[0] == 503, "they failed: it is open again"

            time.sleep(2.1)
            app.status, app.delay = 200, 0.0
            assert [caller.call("/")[0] for _ in range(20)] == [200] * 20


def together(agent: Instance, service: str, count: int) -> list[int]:
    """Send requests at the same time; return their statuses."""
    statuses: list[int] = []

    def call() -> None:
        with closing(http.client.HTTPConnection(agent.outbound, timeout=10)) as connection:
            connection.request("GET", "/", headers={"Host": service})
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def held(agent: Instance) -> dict[str, str]:
    found: dict[str, str] = {}
    for destination in agent.page("/breakers")["destinations"]:
        found |= destination["held"]
    return found


def test_no_more_are_ejected_than_may_be_and_panic_uses_all(mesh: Mesh) -> None:
    with ExitStack() as stack:
        apps = [stack.enter_context(Scripted(f"stock-{number}").serving()) for number in range(4)]
        for app in apps:
            beside(mesh, "stock", app)
        shop = mesh.agent("shop", "shop-0", "--upstreams", "stock")
        mesh.publish(EJECTION, NO_RETRIES)
        with closing(Caller(shop.outbound, "stock")) as caller:
            for app in apps[:3]:
                app.status = 500
            for _ in range(200):
                caller.call("/")
            assert list(held(shop).values()) == ["ejected"] * 2, "half of four, though three fail"
            before = [len(app.hits) for app in apps]
            for _ in range(100):
                caller.call("/")
            more = [len(app.hits) - then for app, then in zip(apps, before, strict=True)]
            assert sorted(more)[:2] == [0, 0], "the ejected get nothing"
            assert more[3] >= 30

            # Two of four are well: below 70 % nobody trusts the picture, and all get their share.
            mesh.publish(PANIC)
            before = [len(app.hits) for app in apps]
            for _ in range(400):
                caller.call("/")
            more = [len(app.hits) - then for app, then in zip(apps, before, strict=True)]
            assert min(more) >= 40, more
