"""Requests counted by whom, to whom and with what outcome, in plain integers.

The request path holds a :class:`RequestMetrics` and calls :meth:`RequestMetrics.record`: one look into
a dict, one search, three additions. Rates, percentiles and text are worked out by who asks for them,
once a second or once a scrape. An OpenTelemetry histogram would take 8 us for each record.

One thread only: nothing here has a lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from busmesh.telemetry.buckets import BUCKETS, FINE_BOUNDS
from busmesh.telemetry.text import bounded

Reporter = Literal["source", "destination"]
#: What an empty label is shown as, after Istio.
UNKNOWN = "unknown"
#: What stands in every label of what is counted past a cap.
OTHER = "other"
#: Different (status, flags) of one label set: an application could answer with 900 statuses.
MAX_OUTCOMES = 32
#: From this status on a request has failed, for success rates: a caller's own mistakes (4xx) do not count.
FAILED = 500


#: Status, flags, requests, seconds together, requests by bucket.
Outcome = tuple[int, str, int, float, list[int]]


class Labels(NamedTuple):
    """Who counted, who called, whom, and by which route. ``source_principal`` is a verified SPIFFE ID."""

    reporter: str
    source_service: str
    source_principal: str
    destination_service: str
    destination_version: str
    route: str


class Series:
    """The durations of the requests of one label set that ended in one way.

    Attributes:
        code: response code, as a label.
        flags: response flags, as a label; ``-`` for none.
        failed: whether the code counts against the success rate.
        count: requests.
        sum: their durations, in seconds.
        buckets: requests by fine bucket, see :mod:`busmesh.telemetry.buckets`.
        told_count, told_sum, told_buckets: the same as they were at the last tick.
    """

    __slots__ = (
        "buckets",
        "code",
        "count",
        "failed",
        "flags",
        "sum",
        "told_buckets",
        "told_count",
        "told_sum",
    )

    def __init__(self, code: str, flags: str, *, failed: bool) -> None:
        self.code = code
        self.flags = flags
        self.failed = failed
        self.count = self.told_count = 0
        self.sum = self.told_sum = 0.0
        self.buckets = [0] * BUCKETS
        self.told_buckets = self.buckets.copy()

    def observe(self, seconds: float) -> None:
        """Count one request. ``seconds`` must be finite: it is not checked."""
        self.count += 1
        self.sum += seconds
        self.buckets[bisect_left(FINE_BOUNDS, seconds)] += 1

    def __repr__(self) -> str:
        return f"<Series {self.code} {self.flags} count={self.count} sum={self.sum:.6f}>"


class RequestMetrics:
    """All that is counted for one label set.

    Args:
        labels: bounded and printable.
        room: asked before a series is added.
        overflow: gives the series for a status that there is no room for; by default one for its class.

    Attributes:
        in_flight: requests at work; the request path adds one and takes one away.
        retries: tries after the first; the request path adds them. Requests and retries together are the
            tries, and each retry stands for a failed one: so effective and actual success both follow.
        series: by (status, flags).
    """

    __slots__ = ("_overflow", "_room", "in_flight", "labels", "retries", "series", "told_retries")

    def __init__(
        self,
        labels: Labels,
        room: Callable[[], bool],
        overflow: Callable[[int], Series] | None = None,
    ) -> None:
        self.labels = labels
        self._room = room
        self._overflow = overflow or self.by_class
        self.in_flight = 0
        self.retries = self.told_retries = 0
        self.series: dict[tuple[int, str], Series] = {}

    def record(self, status: int, flags: str, seconds: float) -> None:
        """Count one request that ended.

        Args:
            status: what the caller was answered.
            flags: the mesh's reason (``UH``, ``UT``, ...), empty for an application's own response.
            seconds: from the request's arrival to its end.
        """
        try:
            series = self.series[status, flags]
        except KeyError:
            series = self._first(status, flags)
        series.observe(seconds)

    def _first(self, status: int, flags: str) -> Series:
        if len(self.series) >= MAX_OUTCOMES or not self._room():
            return self._overflow(status)
        series = Series(str(status), bounded(flags) or "-", failed=status >= FAILED)
        self.series[status, flags] = series
        return series

    def by_class(self, status: int) -> Series:
        """Return the series for all statuses of a class, so that errors past the cap stay errors."""
        kind = status // 100 if 100 <= status < 600 else 0
        series = self.series.get((kind, OTHER))
        if series is None:
            code = f"{kind}xx" if kind else OTHER
            series = self.series[kind, OTHER] = Series(code, OTHER, failed=status >= FAILED)
        return series

    def take(self) -> list[Outcome]:
        """Return what was counted since the last call, for another process to :meth:`add`."""
        taken: list[Outcome] = []
        for (status, flags), series in self.series.items():
            count = series.count - series.told_count
            if count:
                buckets = [
                    now - before for now, before in zip(series.buckets, series.told_buckets, strict=True)
                ]
                taken.append((status, flags, count, series.sum - series.told_sum, buckets))
                series.told_count, series.told_sum = series.count, series.sum
                series.told_buckets = series.buckets.copy()
        return taken

    def add(self, status: int, flags: str, count: int, seconds: float, buckets: list[int]) -> None:
        """Count what another process counted."""
        series = self.series.get((status, flags)) or self._first(status, flags)
        series.count += count
        series.sum += seconds
        series.buckets = [mine + more for mine, more in zip(series.buckets, buckets, strict=True)]

    @property
    def count(self) -> int:
        return sum(series.count for series in self.series.values())

    def __repr__(self) -> str:
        return f"<RequestMetrics {'/'.join(self.labels)} count={self.count} in_flight={self.in_flight}>"


class RequestTable:
    """The label sets of a process, up to a cap; past it, one label set ``other``.

    Args:
        capacity: label sets, and series of all of them together.
    """

    __slots__ = ("_by_labels", "_room", "capacity", "other")

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self.other = RequestMetrics(Labels(*[OTHER] * 6), lambda: False)
        self._by_labels: dict[Labels, RequestMetrics] = {}
        self._room = capacity

    def of(self, raw: Labels) -> RequestMetrics:
        """Return what counts the requests of these labels, made at the first call."""
        found = self._by_labels.get(raw)
        if found is not None:
            return found
        # Only bounded values become keys: what a caller invents must not stay in memory.
        labels = Labels(*[bounded(value) or UNKNOWN for value in raw])
        found = self._by_labels.get(labels)
        if found is None:
            if len(self._by_labels) >= self.capacity:
                return self.other
            found = self._by_labels[labels] = RequestMetrics(labels, self._admit, self.other.by_class)
        return found

    def _admit(self) -> bool:
        if self._room == 0:
            return False
        self._room -= 1
        return True

    def __iter__(self) -> Iterator[RequestMetrics]:
        yield from self._by_labels.values()
        yield self.other

    def statistics(self) -> dict[str, int]:
        return {
            "label_sets": len(self._by_labels),
            "series": self.capacity - self._room,
            "capacity": self.capacity,
            "overflow": self.other.count,
        }

    def __repr__(self) -> str:
        return f"<RequestTable {self.statistics()}>"
