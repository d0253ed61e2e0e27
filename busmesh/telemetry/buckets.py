"""The buckets of a duration, and the percentiles that can be read from them.

One list of bounds serves two readers. Prometheus is shown the 14 standard bounds of OpenTelemetry's
HTTP durations; the command line prints percentiles, for which those are far too coarse (5 ms is the
first). The standard bounds are therefore among the fine ones, so that one search places a duration
for both, and the histogram of any standard bound is an exact sum of fine buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

#: OpenTelemetry semantic conventions, http.server.request.duration, in seconds.
STANDARD_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
#: One decade of fine bounds: each at most 1.21 times the one before.
_DECADE = ["1", "1.2", "1.45", "1.75", "2.1", "2.5", "3", "3.5", "4.2", "5", "5.7", "6.5", "7.5", "8.7"]
#: Upper bounds in seconds, inclusive, from 100 us to 60 s; a last bucket without bound follows.
FINE_BOUNDS = [*(b for b in (float(f"{m}e{d}") for d in range(-4, 2) for m in _DECADE) if b < 60), 60.0]
BUCKETS = len(FINE_BOUNDS) + 1
#: Where the standard bounds are among the fine ones: ValueError at import if one is missing.
STANDARD_AT = tuple(FINE_BOUNDS.index(bound) for bound in STANDARD_BOUNDS)


def middle(bucket: int) -> float:
    """Return the value in seconds that stands for a bucket.

    It is the harmonic mean of the bounds, which makes the relative error to either bound the same:
    (r - 1) / (r + 1) for bounds of ratio r, here at most 9.5 % (Masson, Rim, Lee: DDSketch, VLDB 2019,
    section 2.2). The first bucket is told as its upper bound, the last as its lower.
    """
    if bucket == 0:
        return FINE_BOUNDS[0]
    if bucket >= len(FINE_BOUNDS):
        return FINE_BOUNDS[-1]
    low, high = FINE_BOUNDS[bucket - 1], FINE_BOUNDS[bucket]
    return 2 * low * high / (low + high)


def percentiles(buckets: Sequence[int], percents: Sequence[int]) -> list[float | None]:
    """Return the nearest-rank percentiles in seconds, None where nothing was counted.

    Args:
        buckets: counts by fine bucket, not cumulative.
        percents: whole numbers from 1 to 100, rising.

    The value is within 10 % of the true order statistic if that lies from 100 us to 60 s.
    """
    count = sum(buckets)
    if not count:
        return [None] * len(percents)
    found: list[float | None] = []
    seen, bucket = buckets[0], 0
    for percent in percents:
        rank = max(1, -(-count * percent // 100))
        while seen < rank:
            bucket += 1
            seen += buckets[bucket]
        found.append(middle(bucket))
    return found
