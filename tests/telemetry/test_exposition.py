from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.telemetry.exposition import labelled, number
from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.process import register_process
from tests.telemetry.promtext import parse

GOLDEN = """\
# HELP busmesh_requests_total Requests that ended, as the reporter saw them.
# TYPE busmesh_requests_total counter
busmesh_requests_total{L,response_code="200",response_flags="-"} 3
busmesh_requests_total{L,response_code="503",response_flags="UH"} 1
# HELP busmesh_request_duration_seconds Duration of requests, from their arrival to their end.
# TYPE busmesh_request_duration_seconds histogram
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.005"} 1
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.01"} 1
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.025"} 1
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.05"} 1
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.075"} 1
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.1"} 1
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.25"} 1
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.5"} 2
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="0.75"} 2
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="1.0"} 2
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="2.5"} 2
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="5.0"} 2
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="7.5"} 2
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="10.0"} 2
busmesh_request_duration_seconds_bucket{L,response_code="200",response_flags="-",le="+Inf"} 3
busmesh_request_duration_seconds_sum{L,response_code="200",response_flags="-"} 64.505
busmesh_request_duration_seconds_count{L,response_code="200",response_flags="-"} 3
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.005"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.01"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.025"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.05"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.075"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.1"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.25"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.5"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="0.75"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="1.0"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="2.5"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="5.0"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="7.5"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="10.0"} 1
busmesh_request_duration_seconds_bucket{L,response_code="503",response_flags="UH",le="+Inf"} 1
busmesh_request_duration_seconds_sum{L,response_code="503",response_flags="UH"} 0.0005
busmesh_request_duration_seconds_count{L,response_code="503",response_flags="UH"} 1
# HELP busmesh_request_retries_total Tries after the first.
# TYPE busmesh_request_retries_total counter
busmesh_request_retries_total{L} 2
# HELP busmesh_requests_in_flight Requests at work now.
# TYPE busmesh_requests_in_flight gauge
busmesh_requests_in_flight{L} 3
# HELP busmesh_frames_total Frames \\\\ lost.
# TYPE busmesh_frames_total counter
busmesh_frames_total{kind="a\\"b\\\\c"} 7
# HELP busmesh_sessions Sessions that stand.
# TYPE busmesh_sessions gauge
busmesh_sessions 4
# HELP busmesh_telemetry_overflow_total Requests counted under the labels 'other': too many series.
# TYPE busmesh_telemetry_overflow_total counter
busmesh_telemetry_overflow_total 0
""".replace(
    "L,", 'reporter="source",source_service="web",source_principal="spiffe://local/ns/default/svc/web",'
    'destination_service="orders",destination_version="v1",'
).replace(
    "{L}", '{reporter="source",source_service="web",source_principal="spiffe://local/ns/default/svc/web",'
    'destination_service="orders",destination_version="v1"}'
)  # fmt: skip


def busy() -> Registry:
    registry = Registry()
    principal = "spiffe://local/ns/default/svc/web"
    first = registry.requests("source", "web", principal, "orders", "v1", "/orders/*")
    second = registry.requests("source", "web", principal, "orders", "v1", "/other")
    first.record(200, "", 0.005)
    second.record(200, "", 0.5)
    first.record(200, "", 64.0)
    second.record(503, "UH", 0.0005)
    first.retries += 1
    second.retries += 1
    first.in_flight += 2
    second.in_flight += 1
    registry.counter("busmesh_frames_total", "Frames \\ lost.", {"kind": 'a"b\\c'}).add(7)
    registry.gauge("busmesh_sessions", "Sessions that stand.", lambda: 4)
    return registry


def test_the_text_to_the_letter_with_two_routes_added_up():
    assert busy().prometheus() == GOLDEN


def test_the_text_is_the_same_before_and_after_a_tick():
    registry = busy()
    registry.tick(0)
    assert registry.prometheus() == GOLDEN


def test_the_text_is_read_back_by_a_strict_reader():
    families = parse(busy().prometheus())
    assert families["busmesh_frames_total"].by("busmesh_frames_total") == {(("kind", 'a"b\\c'),): 7}
    names = [name for name, _ in next(iter(families["busmesh_requests_total"].by("busmesh_requests_total")))]
    assert names == [
        "reporter",
        "source_service",
        "source_principal",
        "destination_service",
        "destination_version",
        "response_code",
        "response_flags",
    ]


def test_an_idle_registry_has_only_what_is_not_about_requests():
    registry = Registry()
    registry.requests("source", "web", "", "orders", "v1", "")
    assert list(parse(registry.prometheus())) == ["busmesh_telemetry_overflow_total"]


@given(st.lists(st.tuples(*[st.text(max_size=200)] * 5), max_size=8))
def test_hostile_labels_are_read_back_bounded_and_without_control_characters(
    hostile: list[tuple[str, str, str, str, str]],
):
    registry = Registry()
    for values in hostile:
        registry.requests("destination", *values).record(200, "", 0.1)
    text = registry.prometheus()
    text.encode()
    families = parse(text)
    if hostile:
        counts = families["busmesh_requests_total"].by("busmesh_requests_total")
        assert sum(counts.values()) == len(hostile)
        for labels in counts:
            assert all(0 < len(value) <= 128 and value.isprintable() for _, value in labels)


@pytest.mark.parametrize("field", ["destination_version", "route", "source_principal"])
def test_ten_thousand_paths_or_versions_leave_the_number_of_lines_constant(field: str):
    registry = Registry(max_series=20)
    fixed = {
        "source_service": "web",
        "source_principal": "p",
        "destination_service": "orders",
        "destination_version": "v1",
        "route": "r",
    }
    lengths = set()
    for n in range(10_000):
        registry.requests("source", **{**fixed, field: f"/{n}"}).record(200, "", 0.001)
        if n in {25, 100, 9_999}:
            lengths.add(registry.prometheus().count("\n"))
    assert len(lengths) == 1
    families = parse(registry.prometheus())
    overflow = families["busmesh_telemetry_overflow_total"].by("busmesh_telemetry_overflow_total")
    assert overflow == {(): 9_980}


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (1.5, "1.5"), (10**15, "1000000000000000"), (1e-07, "1e-07"), (float("inf"), "+Inf"),
     (float("-inf"), "-Inf"), (float("nan"), "NaN")],
)  # fmt: skip
def test_numbers(value: float, told: str):
    assert number(value) == told


def test_label_values_are_escaped():
    assert labelled(["a", "b"], ['q"\\', "x\ny"]) == 'a="q\\"\\\\",b="x\\ny"'


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_nothing_to_complain_of():
    registry = busy()
    register_process(registry)
    registry.requests("source", 'we"b\\', "é\n", "orders", "", "").record(200, "", 0.1)
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=registry.prometheus(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
