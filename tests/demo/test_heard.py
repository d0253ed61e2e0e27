"""Telemetry as the demo hears it: what the agents' own code writes is read, and anything else is dropped."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.demo.heard import GONE_S, MAX_SENDERS, WINDOW_S, Entry, Heard
from busmesh.names import ServiceName, Subjects
from busmesh.telemetry.metrics import Registry


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def subject(instance: str = "shopper-0") -> bytes:
    return Subjects().telemetry("metrics", ServiceName("shopper"), instance).encode()


def told(*tries: tuple[str, str, int, float], reporter: str = "source") -> bytes:
    """A second's message in which each try is (version, route, status, seconds)."""
    registry = Registry({"instance": "shopper-0"})
    for version, route, status, seconds in tries:
        assert reporter in ("source", "destination")
        metrics = registry.requests(reporter, "shopper", "spiffe://x", "orders", version, route)  # type: ignore[arg-type]
        metrics.record(status, "", seconds)
    return json.dumps(registry.tick(1.0)).encode()


def of_version(version: str) -> object:
    def wanted(entry: Entry) -> bool:
        return entry.destination_version == version

    return wanted


def hear(heard: Heard, payload: bytes, instance: str = "shopper-0") -> None:
    heard.hear(subject(instance), b"", payload, b"")


def test_tries_of_the_last_seconds_are_added_up() -> None:
    clock = Clock()
    heard = Heard(clock)
    hear(heard, told(("v1", "split", 200, 0.002), ("v1", "split", 503, 0.1)))
    clock.now += 1
    hear(heard, told(("v1", "split", 200, 0.002), ("v2", "canary", 200, 0.004)), "web-0")
    v1 = heard.figures(lambda entry: entry.destination_version == "v1")
    assert (v1.count, v1.failed) == (3, 1)
    assert v1.success == pytest.approx(2 / 3)
    assert v1.percentiles_ms()[0] == pytest.approx(2, rel=0.1)
    assert v1.percentiles_ms()[1] == pytest.approx(100, rel=0.1)
    assert heard.figures(lambda entry: entry.route == "canary").count == 1
    assert heard.failed_tries == 1
    clock.now += WINDOW_S - 0.5
    assert heard.figures(lambda entry: entry.destination_version == "v1").count == 1
    clock.now += 1
    nothing = heard.figures(lambda entry: True)
    assert (nothing.success, nothing.percentiles_ms()) == (None, (None, None))


def test_what_receivers_tell_is_not_counted_a_second_time() -> None:
    heard = Heard(Clock())
    hear(heard, told(("v1", "split", 503, 0.002), reporter="destination"))
    assert heard.messages == 1
    assert heard.figures(lambda entry: True).count == 0
    assert heard.failed_tries == 0


def test_who_is_silent_is_gone() -> None:
    clock = Clock()
    heard = Heard(clock)
    hear(heard, told(), "orders-v1-0")
    clock.now += GONE_S - 0.1
    hear(heard, told(), "orders-v1-1")
    assert heard.lately() == {"orders-v1-0", "orders-v1-1"}
    clock.now += 0.2
    assert heard.lately() == {"orders-v1-1"}


def test_senders_and_messages_are_bounded() -> None:
    heard = Heard(Clock())
    for number in range(MAX_SENDERS + 3):
        hear(heard, told(), f"liar-{number}")
    assert len(heard.lately()) == MAX_SENDERS
    assert heard.dropped == 3
    for _ in range(1000):
        hear(heard, told(("v1", "split", 200, 0.002)), "liar-0")
    assert heard.figures(lambda entry: True).count < 100


@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda more: (
            st.lists(more) | st.dictionaries(st.sampled_from(["requests", "count", "buckets"]), more)
        ),
    )
    .map(json.dumps)
    .map(str.encode)
)
def test_whatever_comes_is_read_or_dropped(payload: bytes) -> None:
    heard = Heard(Clock())
    heard.hear(b"\xff.x", b"", payload, b"")
    assert heard.messages + heard.dropped == 1


def test_a_deep_message_is_dropped() -> None:
    heard = Heard(Clock())
    hear(heard, b"[" * 100_000)
    assert heard.dropped == 1
