"""The part of a second's JSON message that is about requests: what happened since the last one.

It carries the percentiles, for people who read the subject, and the buckets that they come from, for
who adds up instances or seconds: percentiles cannot be averaged. Only label sets in use are told, and
no more than a bounded number, so that the message always fits the bus.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import add, sub

from busmesh.telemetry.buckets import BUCKETS, FINE_BOUNDS, percentiles
from busmesh.telemetry.series import OTHER, Labels, RequestMetrics

_UPPER_MS: list[float | None] = [*(round(bound * 1000, 3) for bound in FINE_BOUNDS), None]


@dataclass(slots=True)
class Change:
    """What one label set saw since the last tick."""

    labels: Labels
    in_flight: int = 0
    retries: int = 0
    count: int = 0
    failed: int = 0
    seconds: float = 0.0
    responses: dict[tuple[str, str], int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, more: Change) -> None:
        """Add a change of other labels; of its responses only the class is kept."""
        self.in_flight += more.in_flight
        self.retries += more.retries
        self.count += more.count
        self.failed += more.failed
        self.seconds += more.seconds
        self.buckets = list(map(add, self.buckets, more.buckets))
        for (code, _flags), count in more.responses.items():
            outcome = (code if code == OTHER else f"{code[0]}xx", OTHER)
            self.responses[outcome] = self.responses.get(outcome, 0) + count


def take(metrics: RequestMetrics) -> Change | None:
    """Return what is new since the last call, None if nothing is and nothing is in flight."""
    change = Change(metrics.labels, metrics.in_flight, metrics.retries - metrics.told_retries)
    metrics.told_retries = metrics.retries
    for series in metrics.series.values():
        count = series.count - series.told_count
        if not count:
            continue
        change.count += count
        change.failed += count if series.failed else 0
        change.seconds += series.sum - series.told_sum
        change.responses[series.code, series.flags] = count
        change.buckets = list(map(add, change.buckets, map(sub, series.buckets, series.told_buckets)))
        series.told_count = series.count
        series.told_sum = series.sum
        series.told_buckets = series.buckets.copy()
    return change if change.count or change.in_flight or change.retries else None


def busiest(changes: Iterable[Change], limit: int) -> list[Change]:
    """Return the ``limit`` busiest changes, busiest first, and the rest added up under ``other``."""
    ranked = sorted(changes, key=lambda change: (-change.count, change.labels))
    if len(ranked) <= limit:
        return ranked
    rest = Change(Labels(*[OTHER] * len(Labels._fields)))
    for change in ranked[limit:]:
        rest.add(change)
    kept = []
    for change in ranked[:limit]:
        if change.labels == rest.labels:
            rest.add(change)
        else:
            kept.append(change)
    return [*kept, rest]


def entry(change: Change, elapsed: float) -> dict[str, object]:
    """Return a change as JSON: counts, rates by the second, and durations in milliseconds."""
    p50, p95, p99 = (
        None if value is None else round(value * 1000, 3)
        for value in percentiles(change.buckets, (50, 95, 99))
    )
    return {
        **change.labels._asdict(),
        "count": change.count,
        "failed": change.failed,
        "retries": change.retries,
        "rps": round(change.count / elapsed, 3),
        "success": round(1 - change.failed / change.count, 6) if change.count else None,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "sum_ms": round(change.seconds * 1000, 3),
        "in_flight": change.in_flight,
        "responses": [
            {"code": code, "flags": flags, "count": count}
            for (code, flags), count in sorted(change.responses.items())
        ],
        "buckets": [[upper, count] for upper, count in zip(_UPPER_MS, change.buckets, strict=True) if count],
    }
