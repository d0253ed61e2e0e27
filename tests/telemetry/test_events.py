from __future__ import annotations

import json

from busmesh.telemetry.events import EventLog

NOON = 1_750_000_000.0


def test_an_event_is_about_its_agent_unless_it_says_otherwise():
    events = EventLog("web", "web-0", capacity=10)
    ready = events.add(NOON, "agent.ready", "ready after 0.8 s", detail={"seconds": 0.8, "policies": 3})
    lost = events.add(NOON + 1, "member.lost", "no responders", service="orders", instance="orders-v1-0")
    assert ready == {
        "time": "2025-06-15T15:06:40.000Z",
        "kind": "agent.ready",
        "service": "web",
        "instance": "web-0",
        "message": "ready after 0.8 s",
        "detail": {"seconds": 0.8, "policies": 3},
    }
    assert lost == {
        "time": "2025-06-15T15:06:41.000Z",
        "kind": "member.lost",
        "service": "orders",
        "instance": "orders-v1-0",
        "message": "no responders",
        "detail": {},
    }
    assert events.drain() == [ready, lost]
    assert events.drain() == []


def test_the_newest_are_kept():
    events = EventLog("web", "web-0", capacity=3)
    for n in range(10):
        events.add(NOON + n, "member.lost", f"{n}")
    assert events.statistics() == {"waiting": 3, "capacity": 3, "dropped": 7}
    assert [event["message"] for event in events.drain()] == ["7", "8", "9"]
    assert repr(events) == "<EventLog web/web-0 {'waiting': 0, 'capacity': 3, 'dropped': 7}>"


def test_what_a_peer_says_is_bounded_and_printable():
    events = EventLog("web", "web-0", capacity=3)
    event = events.add(
        NOON,
        "policy.rejected",
        "a\r\n\x1b[31m" + "x" * 10_000,
        service="s" * 1000,
        instance="\x00",
        detail={"reason": "y" * 10_000, **{f"k{n}": None for n in range(1000)}},
    )
    assert event["message"].isprintable()
    assert (len(event["message"]), len(event["service"]), len(event["detail"])) == (512, 128, 32)
    assert event["instance"] == "\N{REPLACEMENT CHARACTER}"
    assert len(event["detail"]["reason"]) == 512
    assert len(json.dumps(event)) < 4096
