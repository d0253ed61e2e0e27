"""The arithmetic of the benchmarks: a wrong ratio would be believed."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import envoy, mesh, proc, profile, report, results
from benchmarks.contest import BUS, CALLER, LOAD, SERVICE, Cost, Job, Load, Sample
from benchmarks.errors import BenchFailed
from benchmarks.generator import percentile
from benchmarks.load import duration_us, parse_wrk
from benchmarks.tables import Table, number
from benchmarks.upstream import nginx_config

WRK = """\
Running 5s test @ http://127.0.0.1:15001/100
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.86ms  301.13us   6.11ms   82.34%
    Req/Sec    17.32k   611.05    18.58k    70.00%
  Latency Distribution
     50%    1.95ms
     75%    2.11ms
     90%  987.00us
     99%    1.01s
  86411 requests in 5.02s, 21.01MB read
Requests/sec:  17213.35
Transfer/sec:      4.19MB
"""
FEW = Job(32, 100)
ONE = Job(1, 100)


def sample(
    contestant: str,
    turn: int,
    rps: float,
    *,
    job: Job = FEW,
    p50_us: float = 100.0,
    cpu_us: float = 30.0,
    rss_mib: float = 50.0,
    errors: int = 0,
) -> Sample:
    load = Load(int(rps * 5), 5.0, p50_us, 4 * p50_us, errors)
    costs = {CALLER: Cost(cpu_us, rss_mib), BUS: Cost(11.0, 20.0), SERVICE: Cost(cpu_us, rss_mib)}
    return Sample(contestant, job, turn, load, costs | {LOAD: Cost(5.0, 0.0)}, 0.02)


def test_wrk_figures_are_read_with_their_units() -> None:
    load = parse_wrk(WRK)
    assert load == Load(requests=86411, seconds=5.02, p50_us=1950.0, p99_us=1.01e6, errors=0)


def test_every_kind_of_error_that_wrk_reports_counts() -> None:
    text = WRK.replace(
        "Requests/sec",
        "  Socket errors: connect 1, read 20, write 300, timeout 4000\n"
        "  Non-2xx or 3xx responses: 50000\nRequests/sec",
    )
    assert parse_wrk(text).errors == 54321


@pytest.mark.parametrize("missing", ["50%", "99%", "requests in"])
def test_wrk_output_without_a_figure_is_no_result(missing: str) -> None:
    text = "\n".join(line for line in WRK.splitlines() if missing not in line)
    with pytest.raises(BenchFailed, match="no result"):
        parse_wrk(text)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [("12.5", "us", 12.5), ("1.5", "ms", 1500.0), ("2", "s", 2e6), ("1", "m", 6e7), ("1", "h", 3.6e9)],
)
def test_durations(value: str, unit: str, expected: float) -> None:
    assert duration_us(value, unit) == expected


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0.0, 1.0))
def test_a_percentile_is_a_value_with_at_most_its_share_below(values: list[int], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value < found for value in ordered) <= share * len(ordered)


def test_the_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 0.5) == 0.0


def stat(parent: int, cpu_s: float, rss_bytes: int = 0, command: str = "x") -> proc.Stat:
    return proc.Stat(parent, command, cpu_s, rss_bytes)


def test_a_stat_line_with_a_hostile_command_name() -> None:
    fields = ["S", "7", *["0"] * 9, "150", "50", *["0"] * 8, "3", "0"]
    found = proc.parse_stat(f"42 (a) b (c)) {' '.join(fields)}\n")
    assert found == (7, "a) b (c)", 200 / proc.TICKS_PER_SECOND, 3 * proc.PAGE_BYTES)


def test_processes_are_charged_to_their_nearest_watched_ancestor() -> None:
    table = {
        1: stat(0, 99.0),
        10: stat(1, 1.0, 100),  # `up`, watched
        11: stat(10, 2.0, 200),  # its bus, watched apart
        12: stat(11, 4.0, 400),  # a child of the bus
        13: stat(10, 8.0, 800),  # another child of `up`
        20: stat(1, 16.0, 1600),  # nobody's
    }
    costs = proc.attribute(table, {10: "authority", 11: "bus", 30: "gone"})
    assert costs == {"authority": (9.0, 900), "bus": (6.0, 600), "gone": (0.0, 0)}


def test_two_processes_may_share_a_role() -> None:
    assert proc.attribute({1: stat(0, 1.0), 2: stat(0, 2.0)}, {1: "r", 2: "r"})["r"].cpu_s == 3.0


def test_stolen_time_is_busy_and_waiting_is_not() -> None:
    # user nice system idle iowait irq softirq steal guest guest_nice
    text = "cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9 9 9 9 9 9 9 9\n"
    assert proc.busy_seconds(text) == 63 / proc.TICKS_PER_SECOND


def test_ratios_pair_the_rounds_and_leave_invalid_ones_out() -> None:
    ours = [sample("a", 1, 200), sample("a", 2, 900), sample("a", 3, 300), sample("a", 4, 500, errors=1)]
    theirs = [sample("b", 3, 100), sample("b", 1, 100), sample("b", 2, 100, errors=3), sample("b", 4, 100)]
    assert report.ratios(ours, theirs, lambda s: s.rps) == [2.0, 3.0]


def test_a_ratio_to_nothing_is_no_ratio() -> None:
    theirs = [Sample("b", FEW, 1, Load(10, 1.0, 1.0, 1.0, 0), {})]
    assert report.ratios([sample("a", 1, 200)], theirs, report.cpu(CALLER)) == []


def test_medians_count_valid_samples_only() -> None:
    samples = [sample("a", turn, rps) for turn, rps in enumerate([10, 30, 20])]
    assert report.middle(samples, lambda s: s.rps) == 20
    assert report.middle([*samples, sample("a", 4, 999, errors=1)], lambda s: s.rps) == 20
    assert report.middle([sample("a", 1, 10, errors=1)], lambda s: s.rps) is None


def test_a_sample_without_requests_proves_nothing() -> None:
    assert Sample("a", FEW, 1, Load(0, 5.0, 0.0, 0.0, 0), {}).faults == "no requests"


def test_requests_that_went_around_a_proxy_prove_nothing() -> None:
    costs = {CALLER: Cost(20.0, 50.0), BUS: Cost(0.0, 20.0), SERVICE: Cost(0.0, 50.0), LOAD: Cost(0.0, 0.0)}
    found = Sample("a", FEW, 1, Load(100, 5.0, 1.0, 1.0, 0), costs)
    assert found.faults == "went around bus and service's proxy"
    assert not found.valid
    assert sample("a", 1, 100).faults == ""


def test_the_mesh_is_both_proxies_and_the_bus() -> None:
    assert sample("a", 1, 100, cpu_us=30.0).mesh_cpu_us == 71.0


def test_budgets_judge_the_jobs_that_they_speak_of() -> None:
    samples = [
        sample("us", 1, 100, cpu_us=30.0, rss_mib=65.0),
        sample("them", 1, 101, cpu_us=20.0),
        sample("us", 1, 10, job=ONE, p50_us=130.0),
        sample("them", 1, 10, job=ONE, p50_us=100.0),
        sample("us", 1, 10, job=Job(8, 100)),
    ]
    verdicts = [(row[0].split(",")[0], row[3]) for row in report.budget_table(samples, "us", "them").rows]
    assert verdicts == [
        ("requests/s", "MISSED"),
        ("CPU per request of the caller's proxy", "met"),
        ("CPU per request of the service's proxy", "met"),
        ("memory of the caller's proxy", "MISSED"),
        ("memory of the service's proxy", "MISSED"),
        ("p50", "met"),
    ]


def test_a_budget_without_a_valid_sample_is_not_met() -> None:
    samples = [sample("us", 1, 100, errors=1), sample("them", 1, 100)]
    assert {row[3] for row in report.budget_table(samples, "us", "them").rows} == {"no valid sample"}


def test_the_page_shows_ratios_invalid_rounds_and_no_dates_but_its_own() -> None:
    samples = [
        sample(mesh.NAME, 1, 30_000),
        sample(envoy.NAME, 1, 20_000),
        sample(mesh.NAME, 2, 10_000, errors=7),
        sample(envoy.NAME, 2, 20_000),
    ]
    made = results.tables(samples)
    page = results.page(datetime.date(2026, 1, 2), {"Python": "3.11"}, results.method(2, 5, 2), made)
    assert "on 2026-01-02." in page
    assert "| requests/s, 32 connections, GET of 100 bytes | 1.50 | 1.50–1.50 |" in page
    assert "| busmesh | 2 | 32 × 100 B | 10,000 |" in page
    assert "INVALID: 7 errors" in page
    assert "2 rounds of 5 s" in page


def test_without_the_other_mesh_there_is_no_ratio() -> None:
    titles = [table.title for table in results.tables([sample(envoy.NAME, 1, 100)])]
    assert titles == ["32 connections, GET of 100 bytes", "Resident memory", "Every round"]


def test_a_markdown_table_has_as_many_cells_in_every_line() -> None:
    lines = Table("t", ["a", "b"], [["x|y", "1"]]).markdown().splitlines()
    assert lines == ["### t", "", "| a | b |", "|:---|---:|", "| x\\|y | 1 |"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.1234, "0.12"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_figures_are_short(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_self_time_belongs_to_the_innermost_frame() -> None:
    folded = (
        "run (a/loop.py:1);seal (/somewhere/site-packages/p/q/frame.py:9) 30\n"
        "run (a/loop.py:1);seal (/somewhere/site-packages/p/q/frame.py:12) 45\n"
        "run (a/loop.py:1) 25\n"
        "\n"
    )
    assert profile.self_times(folded) == [("seal (p/q/frame.py)", 0.75), ("run (a/loop.py)", 0.25)]


def test_the_profile_table_says_what_it_leaves_out() -> None:
    folded = "".join(f"f{n} (m.py:1) {100 - n}\n" for n in range(4))
    rows = profile.self_time_table("role", folded, top=2).rows
    assert [row[0] for row in rows] == ["f0 (m.py)", "f1 (m.py)", "2 others"]


def test_an_empty_profile_is_an_empty_table() -> None:
    assert profile.self_time_table("role", "").rows == [["0 others", "0.0%"]]


def test_counters_that_are_absent_or_zero_prove_nothing() -> None:
    stats = "a.b: 3\nc: 0\nhistogram: No recorded values\n"
    assert envoy.missing_proofs(stats, {"a.b": "one", "c": "two", "d": "three"}) == ["two", "three"]


def test_the_bus_is_found_below_its_own_parent_only() -> None:
    table = {
        5: stat(1, 0.0, command="python"),
        6: stat(5, 0.0, command="sh"),
        7: stat(1, 0.0, command="nats-server"),
        8: stat(6, 0.0, command="nats-server"),
    }
    assert mesh.bus_process(5, table) == 8
    with pytest.raises(BenchFailed, match="nats-server"):
        mesh.bus_process(6, {7: table[7]})


def test_ports_come_from_the_ready_line() -> None:
    ready = {"event": "ready", "outbound": "127.0.0.1:15001", "admin": "127.0.0.1:15000"}
    assert mesh.ready_port(ready, "outbound") == 15001
    assert mesh.ready_port(ready, "admin") == 15000
    for line in (
        {"event": "ready"},
        {"event": "x", "outbound": "a:1"},
        {"event": "ready", "outbound": "a:b"},
    ):
        with pytest.raises(BenchFailed, match="outbound"):
            mesh.ready_port(line, "outbound")


def test_requests_are_counted_over_all_labels() -> None:
    text = (
        "# TYPE busmesh_requests_total counter\n"
        'busmesh_requests_total{reporter="source",response_code="200"} 3\n'
        'busmesh_requests_total{reporter="source",response_code="503"} 4.0\n'
        'busmesh_requests_total_other{a="b"} 100\n'
    )
    assert mesh.counted_requests(text) == 7
    assert mesh.counted_requests("") == 0


def test_large_bodies_come_from_files(tmp_path: Path) -> None:
    config = nginx_config(tmp_path, 8080, [100, 16384], as_root=False)
    assert f'location = /100 {{ return 200 "{"x" * 100}"; }}' in config
    assert f"location = /16384 {{ root {tmp_path}; }}" in config
    assert "user root" not in config
