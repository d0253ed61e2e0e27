"""Golden signals: what is added up, how, and that no message can stop it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.members.announcement import Announcement, State
from busmesh.names import ServiceName
from busmesh.operator.inventory import instance_rows, service_rows
from busmesh.operator.numbers import Numbers
from busmesh.operator.rollcall import RollCall
from busmesh.telemetry.metrics import Registry

ORDERS = ServiceName("orders")
ROOT = "busmesh.local.telemetry.metrics"


class Reporter:
    """An agent's metrics, counted and written by the real registry."""

    def __init__(self, service: str, instance: str) -> None:
        name = ServiceName.parse(service)
        self.subject = f"{ROOT}.{name.namespace}.{name.name}.{instance}".encode()
        self.service = service
        self.registry = Registry({"service": service, "instance": instance})

    def calls(self, service: str, seconds: list[float], status: int = 200) -> None:
        self._record("source", self.service, service, seconds, status)

    def answers(self, seconds: list[float], status: int = 200) -> None:
        self._record("destination", "web", self.service, seconds, status)

    def _record(self, reporter: Any, caller: str, called: str, seconds: list[float], status: int) -> None:
        metrics = self.registry.requests(reporter, caller, f"spiffe://local/{caller}", called, "v1", "all")
        for each in seconds:
            metrics.record(status, "", each)

    def tell(self, numbers: Numbers, elapsed: float = 1.0) -> None:
        message = json.dumps(self.registry.tick(1_800_000_000.0, elapsed)).encode()
        numbers.hear(self.subject, b"", message, b"")


def test_a_service_is_what_its_callers_saw() -> None:
    numbers, web, batch = Numbers(), Reporter("web", "web-0"), Reporter("batch", "batch-0")
    orders = Reporter("orders", "orders-0")
    web.calls("orders", [0.010] * 90)
    web.calls("orders", [0.200] * 10, status=503)
    web.calls("payments", [9.0] * 50)
    batch.calls("orders", [0.010] * 100)
    orders.answers([0.001] * 190)
    web.tell(numbers)
    batch.tell(numbers, elapsed=2.0)
    orders.tell(numbers)
    found = numbers.service(ORDERS)
    assert found.count == 200
    assert found.success == pytest.approx(0.95)
    assert found.rps == pytest.approx(100 + 50)
    p50, p95, p99 = found.percentiles_ms()
    assert p50 == pytest.approx(10, rel=0.1)
    assert p95 == pytest.approx(10, rel=0.1)
    assert p99 == pytest.approx(200, rel=0.1)


def test_an_instance_is_what_it_answered_and_a_service_without_callers_too() -> None:
    numbers, one, two = Numbers(), Reporter("orders", "orders-0"), Reporter("orders", "orders-1")
    one.answers([0.005] * 10)
    two.answers([0.005] * 30, status=500)
    one.tell(numbers)
    two.tell(numbers)
    assert numbers.instance(ORDERS, "orders-0").count == 10
    assert numbers.instance(ORDERS, "orders-1").success == 0
    assert numbers.service(ORDERS).success == pytest.approx(0.25)
    assert numbers.service(ServiceName("orders", "shop")).success is None


def test_the_rate_is_over_all_ticks_also_the_idle_ones() -> None:
    numbers, one = Numbers(), Reporter("orders", "orders-0")
    one.answers([0.005] * 40)
    one.tell(numbers)
    one.tell(numbers)
    assert numbers.instance(ORDERS, "orders-0").rps == pytest.approx(20)


def test_services_of_other_namespaces_are_others() -> None:
    numbers, web = Numbers(), Reporter("web.shop", "web-0")
    web.calls("orders.shop", [0.01] * 5)
    web.tell(numbers)
    assert numbers.service(ServiceName("orders", "shop")).count == 5
    assert numbers.service(ORDERS).count == 0


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"elapsed_s": 0}',
        b'{"elapsed_s": NaN}',
        b'{"elapsed_s": 1, "requests": 5}',
        b'{"elapsed_s": 1, "requests": [{}]}',
        b'{"elapsed_s": 1, "requests": [{"reporter": "source", "destination_service": "o", "count": -1}]}',
        b'{"elapsed_s": 1, "requests": [{"reporter": "source", "destination_service": "o", "count": 1e400}]}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_counted_and_left_out(message: bytes) -> None:
    numbers = Numbers()
    numbers.hear(f"{ROOT}.default.orders.orders-0".encode(), b"", message, b"")
    assert numbers.dropped == 1


def test_more_failures_than_requests_are_not_believed() -> None:
    numbers = Numbers()
    entry = {"reporter": "source", "destination_service": "orders", "count": 2, "failed": 7}
    message = json.dumps({"elapsed_s": 1, "requests": [entry]}).encode()
    numbers.hear(f"{ROOT}.default.web.web-0".encode(), b"", message, b"")
    assert numbers.service(ORDERS).success == 0


@given(
    subject=st.one_of(st.binary(max_size=60), st.just(f"{ROOT}.default.orders.orders-0".encode())),
    message=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["elapsed_s", "requests", "count", "buckets", "reporter"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    ),
)
def test_no_message_stops_it(subject: bytes, message: object) -> None:
    numbers = Numbers()
    numbers.hear(subject, b"", json.dumps(message).encode(), b"")
    signals = numbers.service(ORDERS)
    assert signals.success is None or 0 <= signals.success <= 1


def member(service: str, instance: str, **fields: Any) -> Announcement:
    given = {"namespace": "default", "incarnation": 1_000, "sequence": 1, "interval": 1.0, "state": "healthy"}
    return Announcement.model_validate({**given, "service": service, "instance": instance, **fields})


def test_rows() -> None:
    roll = RollCall(
        (
            member("orders", "orders-0", labels={"version": "v1"}),
            member("orders", "orders-1", labels={"version": "v2"}, state=State.UNHEALTHY, weight=5),
            member("probe", "probe-0", serves=False),
        )
    )
    numbers, one = Numbers(), Reporter("orders", "orders-0")
    one.answers([0.010] * 10)
    one.tell(numbers)
    orders, probe = service_rows(roll, numbers)
    assert (orders["name"], orders["versions"], orders["ready"], orders["instances"]) == (
        "orders",
        ["v1", "v2"],
        1,
        2,
    )
    assert orders["success"] == 1.0
    assert orders["rps"] == 10.0
    assert (probe["instances"], probe["clients"], probe["success"], probe["p99_ms"]) == (0, 1, None, None)

    rows = instance_rows(roll.members, numbers, 31.0, service=ORDERS)
    assert [(row["instance"], row["state"], row["weight"]) for row in rows] == [
        ("orders-0", "healthy", 100),
        ("orders-1", "unhealthy", 5),
    ]
    assert rows[0]["age_s"] == 30.0
    assert len(instance_rows(roll.members, numbers, 31.0)) == 3
