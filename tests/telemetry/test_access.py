from __future__ import annotations

import inspect
import json
from random import Random

import pytest

from busmesh.errors import UsageError
from busmesh.telemetry.access import AccessLog

REQUEST = {
    "now": 1_750_000_000.0625,
    "reporter": "source",
    "source_service": "web",
    "source_principal": "spiffe://local/ns/default/svc/web/i/web-0",
    "destination_service": "orders",
    "destination_instance": "orders-v1-0",
    "destination_version": "v1",
    "route": "/orders/*",
    "method": b"GET",
    "target": b"/orders/17?token=hunter2",
    "status": 200,
    "flags": "",
    "seconds": 0.0123456,
    "bytes_in": 0,
    "bytes_out": 312,
    "attempts": 2,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
TOLD = {
    "time": "2025-06-15T15:06:40.062Z",
    "reporter": "source",
    "source_service": "web",
    "source_principal": "spiffe://local/ns/default/svc/web/i/web-0",
    "destination_service": "orders",
    "destination_instance": "orders-v1-0",
    "destination_version": "v1",
    "route": "/orders/*",
    "method": "GET",
    "status": 200,
    "flags": "",
    "duration_ms": 12.346,
    "bytes_in": 0,
    "bytes_out": 312,
    "attempts": 2,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}


def log(sample: float = 1.0, max_per_second: int = 100, **options: bool) -> AccessLog:
    return AccessLog(sample, Random(7), max_per_second, **options)


def test_an_event_has_neither_path_nor_query_unless_they_were_asked_for():
    assert log().event(**REQUEST) == TOLD
    assert log(paths=True).event(**REQUEST) == {**TOLD, "path": "/orders/17"}
    assert log(paths=True, queries=True).event(**REQUEST) == {
        **TOLD,
        "path": "/orders/17",
        "query": "token=hunter2",
    }


def test_no_argument_could_bring_a_header_or_a_body_in():
    assert set(inspect.signature(AccessLog.event).parameters) == {"self", "detail", *REQUEST}


def test_a_hostile_path_and_method_are_one_short_json_line():
    hostile = {**REQUEST, "target": b'/\r\n\x1b[2J\x00\xff"' + b"x" * 100_000, "method": b"G" * 5000}
    event = log(paths=True).event(**hostile)
    assert len(event["path"]) == 512
    assert event["path"].startswith('/\r\n\x1b[2J\x00\\xff"xx')
    assert event["method"] == "G" * 32
    line = json.dumps(event)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == event


def test_events_are_drained_in_order_and_once():
    access = log()
    for status in (200, 404, 500):
        access.event(**{**REQUEST, "status": status})
    assert [event["status"] for event in access.drain()] == [200, 404, 500]
    assert access.drain() == []


def test_every_failure_is_wanted_up_to_the_bound():
    access = log(sample=0.0, max_per_second=10)
    assert [access.wanted(503) for _ in range(25)] == [True] * 10 + [False] * 15
    assert access.dropped == 15
    access.drain()
    assert access.wanted(500)


def test_other_requests_are_sampled():
    access = AccessLog(0.01, Random(7), 10**6)
    chosen = sum(access.wanted(status) for status in (200, 301, 404, 499) for _ in range(25_000))
    assert 900 < chosen < 1100
    assert access.dropped == 0


@pytest.mark.parametrize(("sample", "chosen"), [(0.0, 0), (1.0, 1000)])
def test_none_and_all(sample: float, chosen: int):
    access = AccessLog(sample, Random(7), 10**6)
    assert sum(access.wanted(200) for _ in range(1000)) == chosen


def test_a_sample_of_nothing_is_nothing_also_at_the_lowest_draw():
    class Lowest(Random):
        def random(self) -> float:
            return 0.0

    assert not AccessLog(0.0, Lowest(), 10).wanted(200)
    assert AccessLog(1e-9, Lowest(), 10).wanted(200)


def test_sampled_requests_leave_half_of_the_room_to_failures():
    access = log(sample=1.0, max_per_second=10)
    assert sum(access.wanted(200) for _ in range(100)) == 5
    assert sum(access.wanted(500) for _ in range(100)) == 5
    assert access.dropped == 95 + 95


def test_what_waits_is_bounded_also_without_asking():
    access = log(max_per_second=10)
    for _ in range(25):
        access.event(**REQUEST)
    assert access.statistics() == {"waiting": 10, "capacity": 10, "dropped": 15}
    assert len(access.drain()) == 10


def test_a_log_of_nothing():
    access = log(sample=1.0, max_per_second=0)
    assert not access.wanted(500)
    assert not access.wanted(200)
    access.event(**REQUEST)
    assert access.drain() == []


def test_the_sample_can_be_changed():
    access = log(sample=0.0)
    assert not access.wanted(200)
    access.sample = 1.0
    assert access.wanted(200)
    assert repr(access) == "<AccessLog sample=1.0 {'waiting': 0, 'capacity': 100, 'dropped': 0}>"


@pytest.mark.parametrize("sample", [-0.01, 1.01, float("nan")])
def test_a_sample_that_is_no_share_is_refused(sample: float):
    with pytest.raises(UsageError, match="BM6004"):
        log(sample=sample)


def test_a_negative_bound_is_refused():
    with pytest.raises(UsageError, match="BM6004"):
        log(max_per_second=-1)
