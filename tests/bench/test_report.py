"""Samples in, tables out: a wrong ratio would be believed."""

from __future__ import annotations

import datetime

import pytest

from benchmarks import envoy, figures, mesh, report, results
from benchmarks.__main__ import takes_part
from benchmarks.budgets import BUDGETS, budget_table
from benchmarks.contest import BUS, CALLER, LOAD, MESH_ROLES, SERVICE, Cost, Load, Sample, measure
from benchmarks.errors import BenchFailed
from benchmarks.floor import Floor
from benchmarks.jobs import Get, Idle, Job
from benchmarks.tables import Table, number
from tests.bench.samples import DOWN, FEW, ONE, UP, failed, idle, sample, started, streamed


def test_ratios_pair_the_rounds_and_leave_invalid_ones_out() -> None:
    ours = [sample("a", 1, 200), sample("a", 2, 900), sample("a", 3, 300), sample("a", 4, 500, errors=1)]
    theirs = [sample("b", 3, 100), sample("b", 1, 100), sample("b", 2, 100, errors=3), sample("b", 4, 100)]
    assert figures.RPS.ratios(ours, theirs) == [2.0, 3.0]


def test_a_ratio_to_nothing_is_no_ratio() -> None:
    theirs = [Sample("b", FEW, 1, Load(10, 1.0, 1.0, 1.0), {})]
    assert figures.cpu(CALLER).ratios([sample("a", 1, 200)], theirs) == []


def test_medians_count_valid_samples_only() -> None:
    samples = [sample("a", turn, rps) for turn, rps in enumerate([10, 30, 20])]
    assert figures.RPS.summary(samples) == 20
    assert figures.RPS.summary([*samples, sample("a", 4, 999, errors=1)]) == 20
    assert figures.RPS.summary([sample("a", 1, 10, errors=1)]) is None


def test_growth_is_told_by_the_worst_round() -> None:
    samples = [streamed("a", turn, 100, grew_mib=grew) for turn, grew in enumerate([30.0, 1.0, 0.0])]
    assert figures.growth(CALLER).summary(samples) == 30.0


def test_growth_is_that_of_the_larger_proxy() -> None:
    grown = {CALLER: Cost(1.0, 60.0, 61.0), SERVICE: Cost(1.0, 60.0, 80.0)}
    found = Sample("a", DOWN, 1, Load(1, 1.0, body_bytes=2**30), grown)
    assert figures.growth(CALLER, SERVICE).read(found) == 20.0


def test_cpu_is_charged_to_requests_and_to_gibibytes() -> None:
    small, large = sample("a", 1, 100, cpu_us=30.0), streamed("a", 1, 100, cpu_s=2.0)
    assert figures.cpu(*MESH_ROLES).read(small) == pytest.approx(30 + 11 + 30)
    assert figures.cpu_per_gib(*MESH_ROLES).read(large) == pytest.approx(2 + 1 + 2)
    assert figures.cpu_per_gib(CALLER).read(small) is None
    assert figures.cpu(CALLER).read(large) is None
    assert figures.MB_PER_S.read(large) == pytest.approx(100)


def test_a_sample_without_requests_proves_nothing() -> None:
    assert Sample("a", FEW, 1, Load(0, 5.0), {}).faults == "no requests"


def test_requests_that_went_around_a_proxy_prove_nothing() -> None:
    charged = {CALLER: Cost(20.0), BUS: Cost(0.0), SERVICE: Cost(0.0), LOAD: Cost(0.0)}
    found = Sample("a", FEW, 1, Load(100, 5.0), charged)
    assert found.faults == "went around bus and service's proxy"
    assert not found.valid
    assert sample("a", 1, 100).faults == ""


def test_a_start_and_standing_idle_need_no_cpu_time() -> None:
    assert started("a", 1, 0.5).valid
    assert idle("a", 60.0).valid


class Broken:
    """A contestant that cannot do the job."""

    name = "broken"
    roles: dict[int, str] = {}  # noqa: RUF012  # the protocol wants an instance's
    load_role = LOAD
    is_reference = False

    def can(self, job: Job) -> bool:
        return True

    def drive(self, job: Job, seconds: float) -> Load:
        raise BenchFailed("wrk printed no result:\nmany lines")


def test_a_contestant_that_fails_makes_an_invalid_sample_and_no_end_of_the_run() -> None:
    found = measure(Broken(), FEW, 3, warm_up_s=0.1, seconds=0.1)
    assert not found.valid
    assert found.faults == "1 errors (wrk printed no result:), no requests"
    assert (found.contestant, found.job, found.round) == ("broken", FEW, 3)


def test_references_rest_every_second_round_and_nobody_idles_twice() -> None:
    mesh_like, reference = Broken(), Floor("bus alone", "nats://x", {}, "peer", streams=True)
    assert [takes_part(mesh_like, FEW, turn) for turn in (1, 2, 3)] == [True, True, True]
    assert [takes_part(reference, FEW, turn) for turn in (1, 2, 3)] == [True, False, True]
    assert [takes_part(mesh_like, Idle(), turn) for turn in (1, 2)] == [True, False]
    assert not takes_part(reference, Idle(), 1)


def verdicts(samples: list[Sample]) -> dict[tuple[str, str], str]:
    return {(row[0], row[1]): row[-1] for row in budget_table(samples, "us", "them").rows}


def test_every_bar_of_the_data_plane_is_judged() -> None:
    named = {(budget.title, budget.job.name, budget.sign, budget.bar, budget.relative) for budget in BUDGETS}
    assert named == {
        ("CPU per request, caller's proxy", "get-32", "≤", 30.0, False),
        ("CPU per request, service's proxy", "get-32", "≤", 30.0, False),
        ("throughput", "get-32", "≥", 1.0, True),
        ("p50", "get-1", "≤", 1.3, True),
        ("growth of memory, the larger proxy's", "download-1g", "<", 32.0, False),
        ("throughput", "download-1g", "≥", 0.5, True),
        ("growth of memory, the larger proxy's", "upload-1g", "<", 32.0, False),
        ("throughput", "upload-1g", "≥", 0.5, True),
        ("resident memory, caller's proxy", "idle", "≤", 64.0, False),
        ("resident memory, service's proxy", "idle", "≤", 64.0, False),
        ("start to ready", "start", "≤", 1000.0, False),
    }


def test_a_bar_itself_is_met_unless_it_must_be_undercut() -> None:
    assert verdicts(
        [
            *(sample("us", 1, 100, cpu_us=30.0), sample("them", 1, 100, cpu_us=20.0)),
            *(sample("us", 1, 10, job=ONE, p50_us=130.0), sample("them", 1, 10, job=ONE, p50_us=100.0)),
            *(streamed("us", 1, 50, grew_mib=32.0), streamed("them", 1, 100)),
            *(started("us", 1, 1.0), started("them", 1, 0.1), idle("us", 64.0), idle("them", 70.0)),
            sample("us", 1, 10, job=Get(8)),
        ]
    ) == {
        ("CPU per request, caller's proxy, us", "get-32"): "met",
        ("CPU per request, service's proxy, us", "get-32"): "met",
        ("throughput, req/s", "get-32"): "met",
        ("p50, us", "get-1"): "met",
        ("growth of memory, the larger proxy's, MiB", "download-1g"): "MISSED",
        ("throughput, MB/s", "download-1g"): "met",
        ("resident memory, caller's proxy, MiB", "idle"): "met",
        ("resident memory, service's proxy, MiB", "idle"): "met",
        ("start to ready, ms", "start"): "met",
    }


def test_on_the_wrong_side_a_bar_is_missed() -> None:
    found = verdicts(
        [
            *(sample("us", 1, 99, cpu_us=30.1), sample("them", 1, 100, cpu_us=60.0)),
            *(sample("us", 1, 10, job=ONE, p50_us=131.0), sample("them", 1, 10, job=ONE, p50_us=100.0)),
            *(streamed("us", 1, 49, job=UP, grew_mib=33.0), streamed("them", 1, 100, job=UP)),
            *(started("us", 1, 1.001), idle("us", 64.1)),
        ]
    )
    assert set(found.values()) == {"MISSED"}
    assert len(found) == 9


def test_a_budget_row_shows_both_and_the_ratio() -> None:
    rows = budget_table([streamed("us", 1, 60), streamed("them", 1, 100)], "us", "them").rows
    assert rows == [
        ["growth of memory, the larger proxy's, MiB", "download-1g", "< 32 MiB", "5.00", "5.00", "–", "met"],
        ["throughput, MB/s", "download-1g", "≥ 0.5 × Envoy's", "60.0", "100", "0.60", "met"],
    ]


def test_what_busmesh_could_not_do_it_has_missed() -> None:
    found = verdicts([failed("us", 1, "HTTP 413"), streamed("them", 1, 100)])
    assert set(found.values()) == {"MISSED: 1 of 1 runs failed"}


def test_one_run_that_failed_is_not_made_good_by_the_others() -> None:
    samples = [
        *(streamed("us", turn, 100) for turn in (1, 2)),
        failed("us", 3, "HTTP 408"),
        streamed("them", 1, 100),
    ]
    assert set(verdicts(samples).values()) == {"MISSED: 1 of 3 runs failed"}


def test_without_a_valid_run_of_the_other_a_ratio_is_unknown() -> None:
    found = verdicts([streamed("us", 1, 100), failed("them", 1, "HTTP 503")])
    assert found == {
        ("growth of memory, the larger proxy's, MiB", "download-1g"): "met",
        ("throughput, MB/s", "download-1g"): "unknown: no valid run to compare with",
    }


def test_the_page_shows_ratios_charts_invalid_rounds_and_no_dates_but_its_own() -> None:
    samples = [
        sample(mesh.NAME, 1, 30_000),
        sample(envoy.NAME, 1, 20_000),
        sample(mesh.NAME, 2, 10_000, errors=7),
        sample(envoy.NAME, 2, 20_000),
    ]
    made = results.tables(samples)
    pictures = {str(FEW): "charts/get-32.svg"}
    how = results.method(2, 5, 2)
    page = results.page(datetime.date(2026, 1, 2), {"Python": "3.11"}, how, made, pictures)
    assert "on 2026-01-02." in page
    assert "| 32 connections, GET of 100 bytes | 1.50 (1.50–1.50) | 1.00 (1.00–1.00) |" in page
    assert "| busmesh | 2 | get-32 | 10,000 req/s |" in page
    assert "INVALID: 7 errors" in page
    assert "1 of 2: 7 errors |" in page
    assert "![32 connections, GET of 100 bytes](charts/get-32.svg)" in page
    assert "2 rounds of 5 s" in page


def test_without_the_other_mesh_there_is_no_ratio() -> None:
    titles = [table.title for table in results.tables([sample(envoy.NAME, 1, 100)])]
    assert titles == ["32 connections, GET of 100 bytes", "Resident memory", "Every round"]


def test_memory_is_shown_idle_and_at_its_peak() -> None:
    samples = [idle("a", 60.0), sample("a", 1, 10, peak_mib=70.0), sample("a", 2, 10, peak_mib=65.0)]
    table = report.memory_table([*samples, Sample("none", FEW, 1, Load(9, 1.0))])
    assert list(table.heads) == ["idle / peak under load, MiB", CALLER, BUS, SERVICE]
    assert table.rows[0] == ["a", "60.0 / 70.0", "20.0 / 20.0", "60.0 / 70.0"]
    assert table.rows[1] == ["none", "–", "–", "–"]


def test_every_row_of_every_table_has_as_many_cells_as_heads() -> None:
    samples = [
        *(idle("a", 60.0), started("a", 1, 0.5), sample("a", 1, 10), streamed("a", 1, 10)),
        *(failed("b", 1, "HTTP 502"), sample("b", 1, 10)),
    ]
    for table in results.tables(samples):
        assert {len(row) for row in table.rows} == {len(table.heads)}, table.title


def test_a_run_is_told_in_one_line() -> None:
    assert report.line(streamed("us", 2, 250)) == (
        "round 2  download-1g  us           250 MB/s, mesh CPU 5.00 s/GiB"
    )
    told = report.line(failed("us", 1, "HTTP 413"))
    assert told == "round 1  download-1g  us           0.00 MB/s  INVALID: 1 errors (HTTP 413), no requests"


def test_a_markdown_table_has_as_many_cells_in_every_line() -> None:
    lines = Table("t", ["a", "b"], [["x|y", "1"]]).markdown().splitlines()
    assert lines == ["### t", "", "| a | b |", "|:---|---:|", "| x\\|y | 1 |"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.1234, "0.12"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_figures_are_short(value: float | None, shown: str) -> None:
    assert number(value) == shown
