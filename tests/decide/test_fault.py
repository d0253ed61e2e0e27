"""Faults: how often, and that the two draws have nothing to do with each other."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.fault import Fault, drawn


def test_a_fault_that_says_nothing_does_nothing() -> None:
    rng = Random(1)
    assert all(Fault().delay(rng) == 0.0 and Fault().abort(rng) == 0 for _ in range(100))


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (1.0, 1000)])
def test_never_is_never_and_always_is_always(fraction: float, expected: int) -> None:
    rng, fault = Random(2), Fault(2.5, fraction, 418, fraction)
    assert sum(fault.delay(rng) == 2.5 for _ in range(1000)) == expected
    assert sum(fault.abort(rng) == 418 for _ in range(1000)) == expected


@given(st.floats(0, 1), st.integers())
def test_a_draw_is_what_the_number_drawn_says(fraction: float, seed: int) -> None:
    number = Random(seed).random()
    assert drawn(fraction, Random(seed)) is (number < fraction)


def test_shares_are_kept_and_the_draws_are_independent() -> None:
    rng, fault = Random(3), Fault(0.1, 0.3, 503, 0.2)
    seen = [(bool(fault.delay(rng)), bool(fault.abort(rng))) for _ in range(20_000)]
    delayed, aborted = sum(pair[0] for pair in seen), sum(pair[1] for pair in seen)
    assert delayed / 20_000 == pytest.approx(0.3, abs=0.015)
    assert aborted / 20_000 == pytest.approx(0.2, abs=0.015)
    assert seen.count((True, True)) / 20_000 == pytest.approx(0.06, abs=0.01)
