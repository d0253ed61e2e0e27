"""Applications that call each other through their agents: what one caller wants holds for all behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest

from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Instance, Mesh, eventually
from tests.support.threaded import Threaded

SERVICES = ("front", "middle", "back", "stock")
RULE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}}}
spec:
  hosts: [{service}]
  http:
  - {rest}
    route:
    - destination: {{host: {service}}}
"""
DELAY = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: middle}
spec:
  hosts: [middle]
  http:
  - fault: {delay: {percentage: {value: 100}, fixedDelay: 2s}}
    route:
    - destination: {host: middle}
"""


@dataclass
class Chain:
    """A client, and four applications of which each calls the next."""

    mesh: Mesh
    client: Instance
    applications: list[Threaded]

    def call(self) -> int:
        with closing(Caller(self.client.outbound, "front")) as caller:
            return caller.call("/")[0]

    def publish(self, **rules: str) -> None:
        """Publish one rule for each service, empty where none is given."""
        self.mesh.publish(
            *(RULE.format(service=name, rest=rules.get(name, "name: plain")) for name in SERVICES)
        )
        for application in self.applications:
            application.status, application.delay = 200, 0.0
        assert [self.call() for _ in range(5)] == [200] * 5
        for application in self.applications:
            application.hits.clear()
            application.took.clear()
            application.left.clear()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    directory = tmp_path_factory.mktemp("chain")
    with NatsServer(directory / "bus") as bus, ExitStack() as stack, Mesh(directory, bus) as mesh:
        applications = [stack.enter_context(Threaded(f"{name}-0").serving()) for name in SERVICES]
        for name, application, following in zip(SERVICES, applications, (*SERVICES[1:], ""), strict=True):
            known = ("--upstreams", following) if following else ()
            agent = mesh.agent(name, application.name, *known, application=application.url)
            application.next = (agent.outbound, following) if following else None
        yield Chain(mesh, mesh.agent("client", "client-0", "--upstreams", "front"), applications)


def test_many_at_once_at_a_failing_end_are_a_quarter_more_there_at_most(chain: Chain) -> None:
    chain.publish(**dict.fromkeys(SERVICES, "retries: {attempts: 2, retryOn: 5xx}"))
    offered = 400
    chain.applications[-1].status = 500
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(lambda _: chain.call(), range(offered)))
    assert statuses == {500}
    came = [len(application.hits) for application in chain.applications]
    assert came[:-1] == [offered] * 3, "what was tried again at the end is not tried again before it"
    assert offered < came[-1] <= 1.25 * offered, came


def test_time_is_up_for_all_hops_together_and_at_the_end_too(chain: Chain) -> None:
    chain.publish(front="timeout: 400ms")
    *hops, stock = chain.applications
    hops[0].delay = 0.1
    stock.delay = 5.0
    late, after = [], []
    for number in range(1, 8):
        began = time.monotonic()
        assert chain.call() == 504
        late.append(time.monotonic() - began - 0.4)
        eventually(lambda number=number: len(stock.left) == number, "the end sees its connection closed")  # type: ignore[misc]
        after.append(stock.left[-1] - began - 0.4)
        eventually(lambda number=number: len(hops[0].took) == number, "the first hears of it")  # type: ignore[misc]
    assert max(max(hop.took) for hop in hops) <= 0.4 + bar(0.05), "no hop waits for longer"
    assert max(hops[0].took) <= 0.3 + bar(0.05), "it gets what is left"
    assert abs(sorted(late)[3]) <= bar(0.02), late
    assert abs(sorted(after)[3]) <= bar(0.05), after


def test_a_delay_that_is_injected_further_on_ends_with_the_callers_time(chain: Chain) -> None:
    """Istio's task "Request Timeouts": the called has half a second, and what it calls is delayed by two."""
    chain.publish(front="timeout: 0.5s")
    chain.mesh.publish(DELAY)
    hops = chain.applications
    began = time.monotonic()
    assert chain.call() == 504
    assert abs(time.monotonic() - began - 0.5) <= bar(0.02)
    eventually(lambda: len(hops[0].took) == 1, "the first hears that there is no time left")
    assert hops[0].took[0] <= 0.5 + bar(0.05), "no application waits for a delay that nobody waits for"
    assert not hops[1].hits, "nothing is sent that nobody waits for"
