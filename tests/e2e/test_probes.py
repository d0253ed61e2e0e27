"""Breakers and ejection over time: who probes while others are refused, and when the ejected come back."""

from __future__ import annotations

import time
from collections import Counter
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
BREAKER = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: stock}
spec:
  host: stock
  trafficPolicy:
    breaker: {consecutiveFailures: 5, waitDurationInOpenState: 1s, permittedNumberOfCallsInHalfOpenState: 3}
"""
EJECTION = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: stock}
spec:
  host: stock
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection:
      consecutive5xxErrors: 3
      interval: 500ms
      baseEjectionTime: 1s
      maxEjectionPercent: 50
"""


@dataclass
class Stock:
    """Two instances of a service, and a client of it."""

    mesh: Mesh
    client: Instance
    applications: list[Threaded]

    def begin(self, destination: str, *, status: int) -> None:
        """Publish the settings, and let every application answer with ``status``."""
        self.mesh.publish(NO_RETRIES, destination)
        for application in self.applications:
            application.status, application.delay = status, 0.0
            application.hits.clear()

    def call(self, count: int = 1) -> Counter[tuple[int, str]]:
        """Call one after the other; count who came back with which flags."""
        answers = Counter[tuple[int, str]]()
        with closing(Caller(self.client.outbound, "stock")) as caller:
            for _ in range(count):
                status, _, headers = caller.call("/")
                answers[status, headers.get("x-busmesh-flags", "")] += 1
        return answers

    @property
    def came(self) -> int:
        return sum(len(application.hits) for application in self.applications)

    def ejected(self) -> set[str]:
        destinations = self.client.page("/breakers")["destinations"]
        return {name for each in destinations for name, held in each["held"].items() if held == "ejected"}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    directory = tmp_path_factory.mktemp("stock")
    with NatsServer(directory / "bus") as bus, ExitStack() as stack, Mesh(directory, bus) as mesh:
        applications = [stack.enter_context(Threaded(f"stock-{number}").serving()) for number in range(2)]
        for application in applications:
            mesh.agent("stock", application.name, application=application.url)
        yield Stock(mesh, mesh.agent("shop", "shop-0", "--upstreams", "stock"), applications)


def test_while_three_probes_are_under_way_others_are_refused_and_their_success_closes(stock: Stock) -> None:
    stock.begin(BREAKER, status=500)
    assert stock.call(20) == {(500, ""): 5, (503, "UO"): 15}
    assert stock.came == 5, "what is refused reaches nobody"

    time.sleep(1.1)
    assert stock.call(10) == {(500, ""): 2, (503, "UO"): 8}, "two of three probes fail: it is certain already"

    time.sleep(1.1)
    for application in stock.applications:
        application.status, application.delay = 200, 1.0
        application.hits.clear()
    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(stock.call) for _ in range(10)]
        eventually(lambda: sum(one.done() for one in waiting) == 7, "all but the probes are refused")
        assert stock.came == 3
        heard = sum((one.result() for one in waiting), Counter[tuple[int, str]]())
    assert heard == {(200, ""): 3, (503, "UO"): 7}
    for application in stock.applications:
        application.delay = 0.0
    assert stock.call(50) == {(200, ""): 50}, "closed again"


def test_the_ejected_comes_back_after_its_time_and_stays_away_twice_as_long_if_it_still_fails(
    stock: Stock,
) -> None:
    stock.begin(EJECTION, status=200)
    failing, well = stock.applications
    failing.status = 500
    away = []
    for _ in range(2):
        while not stock.ejected():
            stock.call()
        since = time.monotonic()
        failing.hits.clear()
        assert stock.call(50) == {(200, ""): 50}, "the other bears it all"
        assert stock.ejected() == {failing.name}
        eventually(lambda: not stock.ejected(), "its time is up")
        away.append(time.monotonic() - since)
        assert not failing.hits
    once, twice = away
    # It returns at the first sweep after its time, of which there is one in each interval.
    assert 0.9 <= once <= 1.5 + bar(0.1), away
    assert 1.9 <= twice <= 2.5 + bar(0.1), away
    failing.status = 200
    failing.hits.clear()
    well.hits.clear()
    assert stock.call(100) == {(200, ""): 100}
    assert len(failing.hits) == len(well.hits) == 50, "it has its share again"
