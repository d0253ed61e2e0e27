from __future__ import annotations

import json

import pytest

from busmesh.errors import UsageError
from busmesh.telemetry.metrics import Registry, RequestMetrics

NOON = 1_750_000_000.25


def orders(registry: Registry, version: str = "v1", route: str = "/orders/*") -> RequestMetrics:
    return registry.requests("source", "web", "spiffe://local/ns/default/svc/web", "orders", version, route)


def test_a_tick_tells_one_second():
    registry = Registry({"service": "web", "instance": "web-0"})
    metrics = orders(registry)
    for _ in range(97):
        metrics.record(200, "", 0.0028)
    metrics.record(503, "UH", 0.0003)
    metrics.record(404, "", 0.0028)
    metrics.record(500, "", 2.2)
    metrics.retries += 4
    metrics.in_flight += 3

    assert registry.tick(NOON, 2.0) == {
        "service": "web",
        "instance": "web-0",
        "time": "2025-06-15T15:06:40.250Z",
        "sequence": 1,
        "elapsed_s": 2.0,
        "requests": [
            {
                "reporter": "source",
                "source_service": "web",
                "source_principal": "spiffe://local/ns/default/svc/web",
                "destination_service": "orders",
                "destination_version": "v1",
                "route": "/orders/*",
                "count": 100,
                "failed": 2,
                "retries": 4,
                "rps": 50.0,
                "success": 0.98,
                "p50_ms": 2.727,
                "p95_ms": 2.727,
                "p99_ms": 2.727,
                "sum_ms": 2474.7,
                "in_flight": 3,
                "responses": [
                    {"code": "200", "flags": "-", "count": 97},
                    {"code": "404", "flags": "-", "count": 1},
                    {"code": "500", "flags": "-", "count": 1},
                    {"code": "503", "flags": "UH", "count": 1},
                ],
                "buckets": [[0.3, 1], [3.0, 98], [2500.0, 1]],
            }
        ],
        "counters": [],
        "gauges": [],
    }


def test_the_next_tick_tells_only_what_is_new():
    registry = Registry()
    metrics = orders(registry)
    for _ in range(10):
        metrics.record(200, "", 0.5)
    metrics.retries += 1
    registry.tick(NOON)
    metrics.record(200, "", 0.001)
    [told] = registry.tick(NOON + 1)["requests"]
    assert (told["count"], told["retries"], told["sum_ms"], told["buckets"]) == (1, 0, 1.0, [[1.0, 1]])
    assert registry.tick(NOON + 2)["requests"] == []
    assert registry.tick(NOON + 3)["sequence"] == 4
    assert metrics.count == 11


def test_what_is_only_in_flight_is_told_without_rates_of_nothing():
    registry = Registry()
    metrics = orders(registry)
    metrics.in_flight += 1
    [told] = registry.tick(NOON)["requests"]
    assert (told["in_flight"], told["count"], told["success"], told["p99_ms"]) == (1, 0, None, None)
    metrics.in_flight -= 1
    assert registry.tick(NOON)["requests"] == []


def test_a_duration_past_the_last_bound_has_no_bound():
    registry = Registry()
    orders(registry).record(200, "", 100.0)
    [told] = registry.tick(NOON)["requests"]
    assert told["buckets"] == [[None, 1]]
    assert told["p50_ms"] == 60000.0


def test_buckets_of_two_messages_add_up_to_what_one_would_have_said():
    apart, together = Registry(), Registry()
    added: dict[float, int] = {}
    for n in range(100):
        for registry in (apart, together):
            orders(registry).record(200, "", 0.0001 * 1.1**n)
        if n % 10 == 9:
            [told] = apart.tick(NOON)["requests"]
            for upper, count in told["buckets"]:
                added[upper] = added.get(upper, 0) + count
    [told] = together.tick(NOON)["requests"]
    assert sorted(added.items()) == [tuple(bucket) for bucket in told["buckets"]]


def test_only_the_busiest_label_sets_are_told_and_the_rest_is_added_up():
    registry = Registry(max_entries=3)
    for n in range(10):
        for _ in range(n + 1):
            orders(registry, route=f"/{n}").record(503 if n == 0 else 200, "UH" if n == 0 else "", 0.001)
        orders(registry, route=f"/{n}").in_flight += 1
    told = registry.tick(NOON)["requests"]
    assert [(entry["route"], entry["count"]) for entry in told] == [
        ("/9", 10),
        ("/8", 9),
        ("/7", 8),
        ("other", 28),
    ]
    assert told[-1]["in_flight"] == 7
    assert told[-1]["failed"] == 1
    assert told[-1]["buckets"] == [[1.0, 28]]
    assert told[-1]["responses"] == [
        {"code": "2xx", "flags": "other", "count": 27},
        {"code": "5xx", "flags": "other", "count": 1},
    ]


def test_the_overflow_and_what_is_not_among_the_busiest_become_one_entry():
    registry = Registry(max_series=4, max_entries=2)
    for n in range(10):
        for _ in range(20 - n):
            orders(registry, route=f"/{n}").record(200, "", 0.001)
    told = registry.tick(NOON)["requests"]
    assert [entry["route"] for entry in told] == ["/0", "other"]
    assert sum(entry["count"] for entry in told) == sum(20 - n for n in range(10))


def test_a_message_fits_the_bus_however_many_series_there_are():
    registry = Registry()
    for n in range(1000):
        metrics = registry.requests("source", *(f"{n:0128}" for _ in range(5)))
        for place in range(85):
            metrics.record(200 + place % 30, "UH", 0.0001 * 1.18**place)
    assert len(json.dumps(registry.tick(NOON), separators=(",", ":"))) < 1_000_000


def test_counters_are_told_when_they_grew():
    registry = Registry()
    rejoined = registry.counter("busmesh_rejoins_total", "Times the agent joined again.")
    by_kind = {
        kind: registry.counter("busmesh_frames_total", "Frames.", {"kind": kind}) for kind in ("data", "end")
    }
    rejoined.add()
    by_kind["data"].add(5)
    assert registry.tick(NOON)["counters"] == [
        {"name": "busmesh_rejoins_total", "labels": {}, "total": 1, "delta": 1},
        {"name": "busmesh_frames_total", "labels": {"kind": "data"}, "total": 5, "delta": 5},
    ]
    by_kind["data"].add(2)
    assert registry.tick(NOON)["counters"] == [
        {"name": "busmesh_frames_total", "labels": {"kind": "data"}, "total": 7, "delta": 2},
    ]
    assert registry.tick(NOON)["counters"] == []


def test_a_counter_is_made_once():
    registry = Registry()
    first = registry.counter("busmesh_frames_total", "Frames.", {"kind": "data"})
    assert registry.counter("busmesh_frames_total", "Frames.", {"kind": "data"}) is first
    assert registry.counter("busmesh_frames_total", "Frames.", {"kind": "end"}) is not first


def test_label_sets_of_a_counter_are_capped():
    registry = Registry(max_series=10)
    for n in range(10_000):
        registry.counter("busmesh_frames_total", "Frames.", {"peer": f"p{n}"}).add()
    told = registry.tick(NOON)["counters"]
    assert len(told) == 11
    assert told[-1] == {
        "name": "busmesh_frames_total",
        "labels": {"peer": "other"},
        "total": 9990,
        "delta": 9990,
    }


def test_gauges_are_read_when_asked_for():
    registry = Registry()
    level = {"now": 1.5}
    registry.gauge("busmesh_level", "A level.", lambda: level["now"])
    registry.gauge_table(
        "busmesh_members", "Members.", ("service", "state"), lambda: {("orders", "alive"): 2, ("a\nb", ""): 1}
    )
    level["now"] = 2.5
    assert registry.tick(NOON)["gauges"] == [
        {"name": "busmesh_level", "labels": {}, "value": 2.5},
        {"name": "busmesh_members", "labels": {"service": "orders", "state": "alive"}, "value": 2},
        {
            "name": "busmesh_members",
            "labels": {"service": "a\N{REPLACEMENT CHARACTER}b", "state": ""},
            "value": 1,
        },
    ]


def test_a_gauge_may_read_a_bool():
    registry = Registry()
    registry.gauge("busmesh_connected", "Whether the bus is there.", lambda: True)
    assert json.dumps(registry.tick(NOON)["gauges"][0]["value"]) == "1"
    assert "busmesh_connected 1\n" in registry.prometheus()


def test_a_value_that_json_cannot_tell_is_null():
    registry = Registry()
    registry.gauge("busmesh_level", "A level.", lambda: float("nan"))
    registry.counter_from("busmesh_endless_total", "Endless.", lambda: float("inf"))
    message = registry.tick(NOON)
    assert message["gauges"] == [{"name": "busmesh_level", "labels": {}, "value": None}]
    json.dumps(message, allow_nan=False)


def test_a_gauge_table_is_cut():
    registry = Registry(max_series=20, max_entries=10)
    registry.gauge_table("busmesh_members", "M.", ("name",), lambda: {(str(n),): n for n in range(10_000)})
    assert len(registry.tick(NOON)["gauges"]) == 10
    assert registry.prometheus().count("\nbusmesh_members{") == 20


def test_who_registers_again_replaces_the_reader_and_keeps_the_count_of_what_was_told():
    registry = Registry()
    registry.counter_from("busmesh_bytes_total", "Bytes.", lambda: 10)
    registry.tick(NOON)
    registry.counter_from("busmesh_bytes_total", "Bytes.", lambda: 12)
    assert registry.tick(NOON)["counters"] == [
        {"name": "busmesh_bytes_total", "labels": {}, "total": 12, "delta": 2}
    ]


@pytest.mark.parametrize("name", ["Frames_total", "frames", "1_total", "a-b_total", "", "x_total\n"])
def test_a_name_that_is_no_counter_is_refused(name: str):
    with pytest.raises(UsageError, match="BM6002"):
        Registry().counter(name, "Help.")


@pytest.mark.parametrize("name", ["frames_total", "Frames", "é"])
def test_a_name_that_is_no_gauge_is_refused(name: str):
    with pytest.raises(UsageError, match="BM6002"):
        Registry().gauge(name, "Help.", lambda: 1)


def test_a_label_name_is_checked():
    with pytest.raises(UsageError, match="BM6002"):
        Registry().gauge_table("busmesh_members", "Help.", ("a b",), dict)


def test_one_name_has_one_kind_and_one_set_of_labels():
    registry = Registry()
    registry.counter("busmesh_frames_total", "Frames.", {"kind": "data"})
    with pytest.raises(UsageError, match="BM6003"):
        registry.counter("busmesh_frames_total", "Frames.")
    with pytest.raises(UsageError, match="BM6003"):
        registry.counter_from("busmesh_frames_total", "Frames.", lambda: 1)


@pytest.mark.parametrize("caps", [{"max_series": 0}, {"max_entries": 0}])
def test_a_cap_of_nothing_is_refused(caps: dict[str, int]):
    with pytest.raises(UsageError, match="BM6001"):
        Registry(**caps)


def test_statistics():
    registry = Registry(max_series=5)
    orders(registry).record(200, "", 0.1)
    assert registry.statistics() == {
        "label_sets": 1,
        "series": 1,
        "capacity": 5,
        "overflow": 0,
        "families": 1,
    }
    assert "'series': 1" in repr(registry)


def test_what_another_process_counted_is_added_once() -> None:
    worker, first = Registry(), Registry()
    labels = ("source", "web", "spiffe://local/x", "orders", "v1", "default")
    counted = worker.requests(*labels)
    counted.record(200, "", 0.010)
    counted.record(503, "UF", 0.020)
    counted.retries += 2
    first.requests(*labels).record(200, "", 0.001)
    for taken in worker.take():
        first.add(list(taken[0]), taken[1], taken[2])
    assert not worker.take(), "nothing is told twice"
    summed = first.requests(*labels)
    assert summed.count == 3
    assert summed.retries == 2
    assert summed.series[200, ""].count == 2
    assert summed.series[200, ""].sum == pytest.approx(0.011)
    assert sum(summed.series[503, "UF"].buckets) == 1


def test_what_a_worker_counts_beside_requests_is_added_too() -> None:
    first, worker = Registry({}), Registry({})
    worker.counter("denied_total", "No.", {"policy": "a"}).add(3)
    for _ in range(2):
        for name, text, labels, more in worker.take_counters():
            first.counter(name, text, labels).add(more)
    worker.counter("denied_total", "No.", {"policy": "b"}).add()
    assert worker.take_counters() == [("denied_total", "No.", {"policy": "b"}, 1)]
    assert first.counter("denied_total", "No.", {"policy": "a"}).value == 3
