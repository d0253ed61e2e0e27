"""Weights from what instances report: capacity, staleness, and who is not believed."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.balance import Figures
from busmesh.decide.balance.reported import MOST, Reported, capacity, reported_weights
from busmesh.decide.split import deviation_bound
from tests.decide.balance.instances import Instance, instances_of, shares_of


def reporting(
    qps: float, utilisation: float, eps: float = 0.0, *, since: float = 0.0, until: float = 20.0
) -> Figures:
    figures = Figures(0.0)
    at = since
    while at <= until:
        figures.report(qps, eps, utilisation, at)
        at += 1.0
    return figures


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (reporting(100, 0.5), 200),
        (reporting(100, 0.5, 50), 100),
        (reporting(100, 1.25), 80),
        (reporting(0, 0.5), None),
        (reporting(100, 0.0), None),
        (reporting(100, 0.5, since=15.0), None),
        (reporting(100, 0.5, until=8.0), None),
        (Figures(0.0), None),
    ],
)
def test_capacity(figures: Figures, expected: float | None) -> None:
    assert capacity(figures, 20.0) == expected


@pytest.mark.parametrize(
    ("announced", "capacities", "expected"),
    [
        ([100, 100], [None, None], [100, 100]),
        ([100, 100], [300, 100], [150, 50]),
        ([100, 300], [50, 50], [200, 200]),
        ([100, 100, 40], [300, 100, None], [150, 50, 40]),
        ([100] * 12, [1e9] + [1.0] * 11, [1000] + [10] * 11),
    ],
)
def test_weights(announced: list[int], capacities: list[float | None], expected: list[float]) -> None:
    assert reported_weights(announced, capacities) == pytest.approx(expected)


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.none() | st.floats(1e-9, 1e12)), min_size=1, max_size=10)
)
def test_no_report_counts_for_more_than_ten_times_the_mean(pairs: list[tuple[int, float | None]]) -> None:
    announced = [weight for weight, _ in pairs]
    weights = reported_weights(announced, [rate for _, rate in pairs])
    known = [weight for weight, rate in pairs if rate is not None]
    for (own, rate), weight in zip(pairs, weights, strict=True):
        if rate is None:
            assert weight == own
        else:
            mean = sum(known) / len(known)
            assert mean / MOST * 0.999 <= weight <= mean * MOST * 1.001


@given(weights=st.lists(st.integers(1, 1000), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_turns_are_spread_evenly_over_every_stretch(weights: list[int], seed: int) -> None:
    chosen = Reported(instances_of(*weights), Random(seed), 0.0)
    shares_of(chosen, 137)
    shares = shares_of(chosen, 500)
    for n, weight in enumerate(weights):
        assert abs(shares[f"i{n}"] - 500 * weight / sum(weights)) <= deviation_bound(500)


def test_the_balancer_follows_the_reports_each_second() -> None:
    strong, weak = Instance("strong"), Instance("weak")
    chosen = Reported([strong, weak], Random(1), 0.0)
    assert shares_of(chosen, 400)["strong"] == pytest.approx(200, abs=3)
    strong.figures, weak.figures = reporting(100, 0.25), reporting(100, 0.75)
    shares = shares_of(chosen, 400, now=20.0)
    assert shares["strong"] == pytest.approx(300, abs=3)
    shares = shares_of(chosen, 400, now=40.0)
    assert shares["strong"] == pytest.approx(200, abs=3), "what was reported long ago does not count"
