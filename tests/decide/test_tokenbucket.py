from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.tokenbucket import TokenBucket


def test_burst_then_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3, now=10)
    assert [bucket.take(10) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(10.4)
    assert bucket.take(10.5)
    assert not bucket.take(10.9)
    assert [bucket.take(100) for _ in range(4)] == [True, True, True, False]


def test_several_tokens_are_taken_together_or_not_at_all() -> None:
    bucket = TokenBucket(rate=1, burst=5, now=0)
    assert bucket.take(0, 3)
    assert not bucket.take(0, 3)
    assert bucket.take(0, 2)
    assert not bucket.take(4.5, 5)
    assert bucket.take(5, 5)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1, now=10)
    assert [bucket.take(10), bucket.take(10), bucket.take(5), bucket.take(10.5)] == [
        True,
        False,
        False,
        False,
    ]
    assert bucket.take(11)


def test_wait_is_how_long_until_one_token() -> None:
    bucket = TokenBucket(rate=4, burst=2, now=0)
    assert bucket.wait(0) == 0
    assert bucket.take(0, 2)
    assert bucket.wait(0) == 0.25
    assert bucket.wait(0.125) == 0.125
    assert bucket.wait(0.25) == 0


def test_what_is_given_back_can_be_taken_and_the_burst_stays_the_most() -> None:
    bucket = TokenBucket(rate=1, burst=1, now=0)
    assert bucket.take(0)
    bucket.give_back(0.5)
    assert not bucket.take(0)
    bucket.give_back(3)
    assert [bucket.take(0), bucket.take(0)] == [True, False]


def test_a_change_counts_from_its_moment_on() -> None:
    bucket = TokenBucket(rate=1, burst=10, now=0)
    assert bucket.take(0, 10)
    bucket.change(rate=10, burst=3, now=2)
    assert bucket.level == 2
    assert bucket.advance(2.05) == pytest.approx(2.5)
    assert bucket.advance(60) == 3
    bucket.change(rate=10, burst=1, now=60)
    assert bucket.level == 1


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (1, 0.5)])
def test_a_bucket_that_lets_nobody_through_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="lets nobody through"):
        TokenBucket(rate, burst, 0)


@pytest.mark.parametrize("start", [0.0, 3e7])
def test_it_does_not_drift_in_200_000_requests(start: float) -> None:
    bucket = TokenBucket(rate=100, burst=1, now=start)
    taken = sum(bucket.take(start + index / 1000) for index in range(200_000))
    assert taken == pytest.approx(100 * 200, abs=1.01)


@given(
    rate=st.integers(1, 1000),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(-50, 5000), st.integers(1, 3)), max_size=100),
)
def test_it_does_what_exact_arithmetic_does(rate: int, burst: int, steps: list[tuple[int, int]]) -> None:
    bucket, level, at, now = TokenBucket(rate, burst, 0.0), Fraction(burst), Fraction(0), 0
    for step, wanted in steps:
        now += step
        moment = Fraction(now / 1000.0)
        level = min(Fraction(burst), level + max(Fraction(0), moment - at) * rate)
        at = max(at, moment)
        if abs(level - wanted) > Fraction(1, 10**5):  # else rounding may decide
            assert bucket.take(now / 1000.0, wanted) == (level >= wanted)
            level -= wanted if level >= wanted else 0
        assert bucket.advance(now / 1000.0) == pytest.approx(float(level), abs=1e-5)


@given(rate=st.floats(0.01, 1e6), taken=st.integers(1, 20), start=st.floats(0, 1e6), later=st.floats(0, 2))
def test_after_the_wait_there_is_a_token(rate: float, taken: int, start: float, later: float) -> None:
    bucket = TokenBucket(rate, 20, start)
    assert bucket.take(start, taken)
    wait = bucket.wait(start + later)
    assert 0 <= wait <= 1 / rate
    if wait:
        assert not bucket.take(start + later)
    assert bucket.take(start + later + wait + 1e-9)
