from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.telemetry.buckets import (
    BUCKETS,
    FINE_BOUNDS,
    STANDARD_AT,
    STANDARD_BOUNDS,
    middle,
    percentiles,
)


def filled(durations: list[float]) -> list[int]:
    buckets = [0] * BUCKETS
    for duration in durations:
        buckets[bisect_left(FINE_BOUNDS, duration)] += 1
    return buckets


def test_the_standard_bounds_are_those_of_the_semantic_conventions_and_among_the_fine_ones():
    told = "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10"
    assert tuple(float(bound) for bound in told.split()) == STANDARD_BOUNDS
    assert [FINE_BOUNDS[at] for at in STANDARD_AT] == list(STANDARD_BOUNDS)


def test_fine_bounds_rise_from_100_us_to_60_s_by_no_more_than_a_ratio_of_1_21():
    assert len(FINE_BOUNDS) == 82
    assert (FINE_BOUNDS[0], FINE_BOUNDS[-1]) == (0.0001, 60.0)
    ratios = [high / low for low, high in pairwise(FINE_BOUNDS)]
    assert min(ratios) > 1
    assert max(ratios) < 1.21


@pytest.mark.parametrize("bucket", range(1, len(FINE_BOUNDS)))
def test_the_middle_of_a_bucket_is_within_ten_percent_of_both_bounds(bucket: int):
    for bound in (FINE_BOUNDS[bucket - 1], FINE_BOUNDS[bucket]):
        assert abs(middle(bucket) / bound - 1) < 0.1


@given(
    st.lists(st.floats(0.0001, 60), min_size=1, max_size=300),
    st.lists(st.integers(1, 100), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_a_percentile_is_within_ten_percent_of_the_true_one(durations: list[float], percents: list[int]):
    ordered = sorted(durations)
    for percent, told in zip(percents, percentiles(filled(durations), percents), strict=True):
        true = ordered[math.ceil(len(ordered) * percent / 100 - 1e-9) - 1]
        assert told is not None
        assert abs(told / true - 1) <= 0.1


def test_percentiles_take_the_nearest_rank():
    # 99 requests of 1 ms and one of 1 s: the 99th is still 1 ms, only the 100th is not.
    buckets = filled([0.001] * 99 + [1.0])
    fast, slow = middle(bisect_left(FINE_BOUNDS, 0.001)), middle(bisect_left(FINE_BOUNDS, 1.0))
    assert percentiles(buckets, (50, 95, 99, 100)) == [fast, fast, fast, slow]
    assert percentiles(filled([0.001, 1.0]), (50, 51)) == [fast, slow]


def test_what_is_outside_the_bounds_is_told_as_the_bound():
    assert percentiles(filled([0.0, 1e-6]), (50,)) == [0.0001]
    assert percentiles(filled([61.0, 3600.0]), (50,)) == [60.0]


def test_nothing_counted_has_no_percentile():
    assert percentiles([0] * BUCKETS, (50, 99)) == [None, None]
