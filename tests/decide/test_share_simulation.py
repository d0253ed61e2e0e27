"""Limits that instances share, in virtual time: what is admitted in each second, all instances together."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest

from busmesh.decide.sharereport import Entry, Report
from tests.decide.instances import World

#: Seconds until the division has settled, after the beginning and after a change at 8 s.
SETTLED_S, CHANGE_S, END_S = 2.0, 8.0, 16.0
SEEDS = range(4)

#: What is asked of each of five instances, and which of them live when.
CASES: dict[str, dict[str, Any]] = {
    "alike, three times the limit": {"demand": lambda i, t: 60},
    "all at one": {"demand": lambda i, t: 300 if i == 0 else 0},
    "all at another from one moment on": {"demand": lambda i, t: 300 if i == (t > CHANGE_S) else 0},
    "at one, then at three": {
        "demand": lambda i, t: (300 if i == 0 else 0) if t < CHANGE_S else (100 if i in (1, 2, 3) else 0)
    },
    "one dies": {"demand": lambda i, t: 60 if t < CHANGE_S else 75, "lives": {4: (0, CHANGE_S)}},
    "the one that has it all dies": {
        "demand": lambda i, t: 300 if i == (t > CHANGE_S) else 0,
        "lives": {0: (0, CHANGE_S)},
    },
    "one joins": {"demand": lambda i, t: 60, "lives": {4: (CHANGE_S, END_S)}},
    "one joins and gets it all": {
        "demand": lambda i, t: 300 if i == (4 if t > CHANGE_S else 0) else 0,
        "lives": {4: (CHANGE_S, END_S)},
    },
    "little, then much": {"demand": lambda i, t: 10 if t < CHANGE_S else 60},
}
#: Instances with less than their equal part: if it comes at random, the total has its randomness.
UNEVEN: dict[str, dict[str, Any]] = {
    "all different": {"demand": lambda i, t: (150, 80, 40, 20, 10)[i]},
    "nearly all at one": {"demand": lambda i, t: (280, 5, 5, 5, 5)[i]},
}


def seconds(world: World, *, from_the_beginning: bool) -> list[int]:
    """What was admitted in each second while the division had settled and enough was asked."""
    found = list(world.windows(CHANGE_S + SETTLED_S, END_S))
    return [*world.windows(SETTLED_S, CHANGE_S), *found] if from_the_beginning else found


@pytest.mark.parametrize("case", [*CASES, *UNEVEN])
def test_a_limit_of_100_is_95_to_105_in_each_second(case: str) -> None:
    """One in a thousand of these overlapping seconds may be off by one request more."""
    counts: list[int] = []
    for seed in SEEDS:
        world = World(**{**CASES, **UNEVEN}[case], seed=seed).run(END_S)
        counts += seconds(world, from_the_beginning=case != "little, then much")
    off = [count for count in counts if not 95 <= count <= 105]
    assert len(off) <= len(counts) / 500, sorted(off)
    assert 94 <= min(counts) <= max(counts) <= 106
    assert fmean(counts) == pytest.approx(100, abs=1.5)


@pytest.mark.parametrize("case", CASES)
def test_a_limit_of_100_is_kept_as_well_when_requests_come_at_random(case: str) -> None:
    """In 99 of 100 overlapping seconds: a token waits until a request comes, sometimes."""
    counts: list[int] = []
    for seed in SEEDS:
        world = World(**CASES[case], seed=seed, poisson=True).run(END_S)
        counts += seconds(world, from_the_beginning=case != "little, then much")
    off = [count for count in counts if not 95 <= count <= 105]
    assert len(off) <= len(counts) / 100, sorted(off)
    assert 92 <= min(counts) <= max(counts) <= 108
    assert fmean(counts) == pytest.approx(100, abs=1.5)


@pytest.mark.parametrize("case", UNEVEN)
def test_random_traffic_below_the_equal_part_shows_in_the_total_and_not_in_the_average(case: str) -> None:
    counts: list[int] = []
    for seed in SEEDS:
        world = World(**UNEVEN[case], seed=seed, poisson=True).run(END_S)
        counts += seconds(world, from_the_beginning=True)
    assert fmean(counts) == pytest.approx(100, abs=1)
    assert 80 <= min(counts) <= max(counts) <= 125


@pytest.mark.parametrize(
    ("count", "total", "each"), [(1, 100.0, 300.0), (2, 100.0, 150.0), (20, 1000.0, 150.0)]
)
def test_it_holds_for_one_two_and_twenty_instances(count: int, total: float, each: float) -> None:
    world = World(lambda i, t: each, count=count, total=total, burst=total).run(6.0)
    assert [total * 0.95 <= found <= total * 1.05 for found in world.windows(2.0, 6.0)] == [True] * 61


def test_it_holds_when_reports_are_late_and_a_third_is_lost() -> None:
    world = World(lambda i, t: 60, delay=0.15, loss=0.33).run(12.0)
    assert all(94 <= found <= 106 for found in world.windows(2.0, 12.0))


def test_each_gets_its_fair_part() -> None:
    world = World(lambda i, t: (150, 80, 40, 20, 10)[i]).run(12.0)
    parts = [fmean(world.windows(2.0, 12.0, only=[i])) for i in range(5)]
    assert parts == pytest.approx([70 / 3, 70 / 3, 70 / 3, 20, 10], abs=1)


@pytest.mark.parametrize(
    "demand",
    [
        lambda i, t: 60 if int(t) % 3 == 0 else 0,
        lambda i, t: 300 if int(t) % 5 == i else 0,
        lambda i, t: 300 if int(2 * t) % 5 == i else 0,
        lambda i, t: 300 if int(t / 2) % 2 == 0 and int(t / 4) % 5 == i else 0,
    ],
    ids=["all now and then", "one after another", "twice as fast", "with rests"],
)
def test_no_way_of_asking_gets_more_than_the_limit_and_its_burst(demand: Any) -> None:
    """Over any stretch of time, from any moment, a tenth of a second's worth aside."""
    world = World(demand).run(30.0)
    lowest = excess = 0.0
    for number, (when, _) in enumerate(world.admitted):
        lowest = min(lowest, number - 100 * when)
        excess = max(excess, number + 1 - 100 * when - lowest)
    assert 5 < excess <= 100 + 10


def test_a_slow_limit_is_kept_over_minutes() -> None:
    """One a second and 60 at once, asked of five instances: each may keep a request or two to itself."""
    world = World(lambda i, t: 3, total=1.0, burst=60.0).run(300.0)
    assert 300 <= len(world.admitted) <= 300 + 60


def lie(report: Report, **claims: Any) -> Report:
    entries = {key: entry._replace(**claims) for key, entry in report.entries.items()}
    return Report(report.born, report.sequence, entries)


@pytest.mark.parametrize(
    "claims",
    [
        {"demand": 1e6},
        {"admitted": 0},
        {"demand": 0.0, "admitted": 0},
        {"demand": 1e6, "admitted": None},
        {"balance": 1e6},
        {"demand": 1e6, "balance": -1e6},
    ],
    ids=["all asked", "nothing admitted", "nothing at all", "all admitted", "much left", "much too much"],
)
def test_a_liar_takes_no_more_than_an_equal_part_from_the_others(claims: dict[str, Any]) -> None:
    def said(report: Report) -> Report:
        given = dict(claims)
        if "admitted" in given and given["admitted"] is None:
            given["admitted"] = report.sequence * 10**6
        return lie(report, **given)

    world = World(lambda i, t: 60, lies={0: said}).run(10.0)
    honest = list(world.windows(2.0, 10.0, only=[1, 2, 3, 4]))
    assert min(honest) >= 4 * 20 - 3
    assert max(honest) <= 100 + 5


def test_a_liar_in_unequal_company() -> None:
    """Who would get half of the limit for want of others still gets what max-min fairness leaves to it."""
    world = World(
        lambda i, t: (0, 200, 5, 5, 5)[i],
        lies={0: lambda report: Report(report.born, report.sequence, {b"12345678": Entry(1e6, 0)})},
    ).run(10.0)
    found = list(world.windows(2.0, 10.0, only=[1]))
    assert min(found) >= (100 - 15 * 1.25) / 2 - 2
