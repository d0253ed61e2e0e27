"""The adaptive limit: within its bounds always, and near what a simulated service can take."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.concurrency import AdaptiveConcurrency, ConcurrencyLimit, gradient, next_limit

POLICY = AdaptiveConcurrency()


@pytest.mark.parametrize(
    ("usual", "latest", "expected"),
    [(0.1, 0.1, 1.0), (0.1, 0.15, 1.0), (0.1, 0.2, 0.75), (0.1, 0.3, 0.5), (0.1, 9.0, 0.5), (0.1, 0.01, 1.0)],
)
def test_the_gradient(usual: float, latest: float, expected: float) -> None:
    assert gradient(usual, latest, 1.5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("limit", "slope", "expected"), [(20, 1.0, 20.8), (100, 0.5, 90.8), (3, 0.5, 3.5), (1000, 1.0, 1000)]
)
def test_the_next_limit(limit: float, slope: float, expected: float) -> None:
    assert next_limit(limit, slope, POLICY) == pytest.approx(expected)


@given(
    samples=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 2000), st.floats(0, 0.2)), max_size=200),
    low=st.integers(1, 50),
    extra=st.integers(0, 50),
    first=st.integers(1, 200),
)
def test_it_stays_within_its_bounds(
    samples: list[tuple[float, int, float]], low: int, extra: int, first: int
) -> None:
    limit = ConcurrencyLimit(
        AdaptiveConcurrency(initial_limit=first, min_concurrency=low, max_concurrency_limit=low + extra)
    )
    now = 0.0
    for latency, inflight, pause in samples:
        now += pause
        limit.sample(latency, inflight, now)
        assert low <= limit.limit <= low + extra
        assert limit.admit(low - 1)
        assert not limit.admit(low + extra)


def test_so_few_under_way_say_nothing_about_the_limit() -> None:
    limit = ConcurrencyLimit(POLICY)
    for number in range(2000):
        limit.sample(0.01, 9, number / 100)
    assert limit.limit == 20.0
    for number in range(2000):
        limit.sample(0.01, 10, 20 + number / 100)
    assert limit.limit == pytest.approx(20.8), "and now ten are few again"


def test_refusals_are_counted() -> None:
    limit = ConcurrencyLimit(POLICY)
    assert limit.admit(19)
    assert not limit.admit(20)
    assert repr(limit) == "<ConcurrencyLimit limit=20.0 usual=0.0000 refused=1>"


def _simulate(
    workers: int, rate: float, seconds: float, limit: ConcurrencyLimit | None
) -> tuple[float, float]:
    """Serve Poisson arrivals by so many workers of 20 ms each; return (99th percentile, share served)."""
    rng = Random(7)
    free = [0.0] * workers
    under_way: list[tuple[float, float]] = []
    latencies: list[float] = []
    now, came = 0.0, 0
    while now < seconds:
        now += rng.expovariate(rate)
        came += 1
        while under_way and under_way[0][0] <= now:
            end, began = under_way[0]
            if limit is not None:
                limit.sample(end - began, len(under_way), end)
            heappop(under_way)
            latencies.append(end - began)
        if limit is not None and not limit.admit(len(under_way)):
            continue
        begin = max(now, free[0])
        heappop(free)
        heappush(free, begin + 0.02)
        heappush(under_way, (begin + 0.02, now))
    return sorted(latencies)[int(len(latencies) * 0.99)], len(latencies) / came


def test_at_twice_the_capacity_latency_stays_low_and_the_service_stays_busy() -> None:
    # 10 workers of 20 ms serve 500 requests a second; 1,000 come.
    unlimited, _ = _simulate(10, 1000, 20, None)
    limited, served = _simulate(10, 1000, 20, ConcurrencyLimit(POLICY))
    assert unlimited > 5
    assert limited < 0.15
    assert served > 0.45


def test_below_the_capacity_hardly_anybody_is_refused() -> None:
    _, served = _simulate(10, 300, 20, ConcurrencyLimit(POLICY))
    assert served > 0.995
