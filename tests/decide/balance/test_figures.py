"""A failure is never taken for a fast answer, and nothing is remembered for ever."""

from __future__ import annotations

from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.balance.ewma import cost
from busmesh.decide.balance.figures import DEFAULT_LATENCY_S, PENALTY_S, Figures, smoothed
from busmesh.decide.balance.simple import LeastRequest
from tests.decide.balance.instances import Instance, shares_of


@pytest.mark.parametrize(
    ("value", "sample", "age", "expected"),
    [
        (1.0, 1.0, 3.0, 1.0),
        (1.0, 0.0, 0.0, 1.0),
        (1.0, 0.0, 10.0, exp(-1)),
        (0.0, 1.0, 10.0, 1 - exp(-1)),
        (1.0, 0.0, -5.0, 1.0),
        (1.0, 0.0, 1e6, 0.0),
    ],
)
def test_smoothing(value: float, sample: float, age: float, expected: float) -> None:
    assert smoothed(value, sample, age) == pytest.approx(expected)


def test_the_first_answer_replaces_what_was_assumed() -> None:
    figures = Figures(0.0)
    assert figures.latency == DEFAULT_LATENCY_S
    figures.answered(0.002, 0.01)
    assert figures.latency == 0.002


def test_a_slow_answer_counts_at_once_and_a_fast_one_by_and_by() -> None:
    figures = Figures(0.0)
    figures.answered(0.01, 0.0)
    figures.answered(1.0, 0.1)
    assert figures.latency == 1.0
    figures.answered(0.01, 0.2)
    assert 0.98 < figures.latency < 1.0
    figures.answered(0.01, 30.2)
    assert 0.05 < figures.latency < 0.06


def test_an_instance_that_was_slow_is_asked_again() -> None:
    figures = Figures(0.0)
    figures.answered(1.0, 0.0)
    assert figures.latency_at(0.05) == 1.0
    assert figures.latency_at(10.0) == pytest.approx(exp(-1))
    assert figures.latency_at(60.0) < 0.003


def test_one_second_of_nothing_but_failures_is_enough() -> None:
    figures = Figures(0.0)
    figures.answered(0.005, 0.0)
    for n in range(1, 11):
        figures.failed(n / 10)
    assert 0.4 < figures.latency < 0.5
    assert figures.failing(1.0) > 8


def test_an_occasional_failure_costs_what_it_weighs() -> None:
    figures = Figures(0.0)
    for n in range(1, 10_001):
        if n % 1000:
            figures.answered(0.005, n / 100)
        else:
            figures.failed(n / 100)
    # One failure in a thousand: 5 ms more, less than a minute's absence.
    assert figures.latency < 0.015


def test_a_time_out_is_a_slow_answer_too() -> None:
    figures = Figures(0.0)
    figures.answered(0.005, 0.0)
    figures.failed(15.0, took=15.0)
    assert figures.latency == 15.0


def test_a_single_failure_is_forgotten_after_some_seconds() -> None:
    figures = Figures(0.0)
    assert figures.failing(0.0) == 0.0
    figures.failed(1.0)
    assert figures.failing(1.0) == 1.0
    assert figures.failing(4.0) == pytest.approx(exp(-3 / PENALTY_S))
    assert figures.failing(4.5) == 0.0
    assert figures.failures == 0.0


@given(
    latency=st.floats(1e-4, 60),
    gap=st.floats(0, 60),
    active=st.integers(0, 100),
    took=st.floats(0, 60),
)
def test_a_failure_never_makes_an_instance_look_faster(
    latency: float, gap: float, active: int, took: float
) -> None:
    failed, untouched = Figures(0.0), Figures(0.0)
    for figures in (failed, untouched):
        figures.answered(latency, 0.0)
    failed.failed(gap, took)
    assert failed.latency >= untouched.latency * (1 - 1e-9)
    assert cost(failed, active, 1.0, gap) >= cost(untouched, active, 1.0, gap) * (1 - 1e-9)
    assert failed.failing(gap) >= 1.0


def test_least_request_leaves_an_instance_that_failed_for_a_while() -> None:
    ill, well = Instance("ill"), Instance("well")
    ill.figures.failed(10.0)
    assert shares_of(LeastRequest([ill, well], Random(1)), 100, now=11.0) == {"well": 100}
    assert shares_of(LeastRequest([ill, well], Random(1)), 100, now=20.0)["ill"] > 30
    ill.figures.failed(30.0)
    well.active = 2
    assert shares_of(LeastRequest([ill, well], Random(1)), 100, now=30.0) == {"ill": 100}
    big = Instance("big", 300, active=2)
    shares = shares_of(LeastRequest([ill, big], Random(1)), 1000, now=30.0)
    assert shares["big"] > 900, "two at work for 300 are less than one failure for 100"


def test_a_report_is_dated() -> None:
    figures = Figures(0.0)
    figures.report(100.0, 1.0, 0.5, 20.0)
    figures.report(120.0, 0.0, 0.5, 25.0)
    assert (figures.reporting, figures.reported, figures.qps) == (20.0, 25.0, 120.0)
    figures.report(90.0, 0.0, 0.5, 60.0)
    assert figures.reporting == 60.0, "it was silent in between"
    assert repr(figures) == "<Figures latency=30.0ms failures=0.0 qps=90>"
