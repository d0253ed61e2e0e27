"""What one process of an agent ejects, the others eject: destinations without a bus."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from busmesh.agent.ejections import Ejection, Ejections
from busmesh.decide.ejection import OutlierDetection
from busmesh.decide.records import Cause
from busmesh.decide.route import Target
from busmesh.decide.traffic import Traffic
from busmesh.names import ServiceName
from busmesh.relay.destination import upstreams as upstreams_module
from busmesh.relay.destination.destination import Destination
from busmesh.relay.destination.upstream import Endpoint
from busmesh.relay.destination.upstreams import Upstreams

ORDERS = ServiceName("orders")
#: Only a lot drawn where a failure was found says no here.
POLICY = OutlierDetection(consecutive_5xx_errors=2, max_ejection_percent=50, enforcing_consecutive_5xx=100)
TARGET = Target(ORDERS, traffic=Traffic(outlier_detection=POLICY))


class _Never:
    """A ticker that nobody winds."""

    def __init__(self, *_: Any) -> None:
        pass

    def wake(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_ticker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams_module, "Ticker", _Never)


class _Process:
    """One process of an agent; its words go to all the others, as the pipe brings them."""

    def __init__(self) -> None:
        self.upstreams = Upstreams(Random(1), lambda service: None, 10)
        self.told: list[Ejection] = []
        self.ejections = Ejections(self.upstreams, capacity=2)
        self.ejections.on_found = self.told.append
        self.upstreams.on_ejection = self.ejections.found
        endpoints = self.upstreams.upstream(ORDERS).endpoints
        for number in range(4):
            endpoints[f"orders-{number}"] = Endpoint(ORDERS, f"orders-{number}")

    def asks(self, target: Target = TARGET) -> Destination:
        """Have a first request go there."""
        destination = self.upstreams.destination(target)
        assert destination is not None
        destination.pick(0.0, (), None)
        return destination

    def finds(self, instance: str) -> None:
        destination = self.asks()
        detector = destination.guard.detector
        assert detector is not None
        for _ in range(2):
            change = detector.result(detector.records[instance], 500, 0.0)
        assert change is not None
        destination._moved(change)

    @property
    def held(self) -> dict[str, str]:
        return self.asks().states()


def test_what_one_ejects_the_other_ejects_for_the_same_time_and_does_not_tell_again() -> None:
    one, other = _Process(), _Process()
    other.asks()
    one.finds("orders-1")
    [(key, instance, cause, _)] = one.told
    assert (key, instance, cause) == ("orders.default", "orders-1", "consecutive_5xx")
    other.ejections.heard(key, instance, cause, 7.0)
    assert other.held == {"orders-1": "ejected"}
    assert other.told == []
    detector = other.asks().guard.detector
    assert detector is not None
    record = detector.records["orders-1"]
    assert record.ejected_by is Cause.CONSECUTIVE_5XX
    assert record.returns_at - record.ejected_at == 7.0
    other.ejections.heard(key, instance, cause, 9.0)
    assert detector.ejected == 1, "twice is once"


def test_a_process_that_asks_for_the_first_time_knows_already() -> None:
    process = _Process()
    process.ejections.heard("orders.default", "orders-2", "consecutive_5xx", 60.0)
    process.ejections.heard("orders.default/v2", "orders-1", "consecutive_5xx", 60.0)
    assert [each[:3] for each in process.ejections.current()] == [
        ("orders.default", "orders-2", "consecutive_5xx"),
        ("orders.default/v2", "orders-1", "consecutive_5xx"),
    ]
    assert process.held == {"orders-2": "ejected"}
    assert process.told == []
    process.asks(Target(ORDERS, "v2", traffic=Traffic(outlier_detection=POLICY)))
    assert repr(process.ejections) == "<Ejections early=0>"
    assert {each[:2] for each in process.ejections.current()} == {
        ("orders.default", "orders-2"),
        ("orders.default/v2", "orders-1"),
    }


def test_what_is_over_is_forgotten_and_what_is_too_much_is_not_kept() -> None:
    process = _Process()
    process.ejections.heard("orders.default", "orders-0", "consecutive_5xx", -1.0)
    for number in range(1, 4):
        process.ejections.heard("orders.default", f"orders-{number}", "consecutive_5xx", 60.0)
    assert repr(process.ejections) == "<Ejections early=2>"
    assert process.held == {"orders-1": "ejected", "orders-2": "ejected"}


def test_no_more_are_ejected_than_may_be() -> None:
    process = _Process()
    process.asks()
    for number in range(4):
        process.ejections.heard("orders.default", f"orders-{number}", "consecutive_5xx", 60.0)
    assert list(process.held) == ["orders-0", "orders-1"]
