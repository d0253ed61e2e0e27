"""The token bucket: never more than the burst and what came back since."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.authority.bucket import TokenBucket


def test_burst_then_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3, now=10)
    assert [bucket.take(10) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(10.4)
    assert bucket.take(10.5)
    assert not bucket.take(10.9)
    assert [bucket.take(100) for _ in range(4)] == [True, True, True, False]


def test_a_token_given_back_can_be_taken_again_and_the_burst_stays_the_most() -> None:
    bucket = TokenBucket(rate=1, burst=1, now=0)
    assert bucket.take(0)
    bucket.give_back(0.5)
    assert not bucket.take(0)
    bucket.give_back(0.5)
    bucket.give_back(1)
    assert [bucket.take(0), bucket.take(0)] == [True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1, now=10)
    assert bucket.take(10)
    assert not bucket.take(5)
    assert not bucket.take(10.5)
    assert bucket.take(11)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0), (1, 0.5)])
def test_a_bucket_that_lets_nobody_through_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="lets nobody through"):
        TokenBucket(rate, burst, 0)


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=200),
)
def test_no_window_lets_through_more_than_burst_and_rate(rate: float, burst: int, gaps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now)
        assert taken <= burst + rate * now + 1e-6
