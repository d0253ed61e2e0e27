"""Access events: single requests, sampled, each told in one flat dict.

Failures are what people look for, so they are always wanted, but within a bound: when everything fails,
a thousand events say no more than a hundred. The bound is a number of events between two drains, which
come once a second; so no clock is read for a request.

An event travels in the clear to whoever may subscribe, and the bus can read it. It never holds a header,
and holds the path (capped, without its query) or the query only where that was asked for.
"""

from __future__ import annotations

from collections import deque
from random import Random

from busmesh.errors import UsageError
from busmesh.telemetry.series import FAILED, Reporter
from busmesh.telemetry.text import rfc3339

#: Characters of a path, and of a query.
MAX_PATH = 512
#: Characters of a method: it is the caller's word too.
MAX_METHOD = 32


class AccessLog:
    """Chooses requests, and keeps their events until they are drained.

    Args:
        sample: share of the requests below status 500 that are told, 0 to 1.
        rng: what decides.
        max_per_second: events from one drain to the next. The sampled ones get no more than half, so that
            they never push out a failure.
        paths: whether events have the path. Off by default, for what the mesh seals the bus shall not read.
        queries: whether events have the query, which often holds secrets.

    Attributes:
        dropped: events that were wanted and that the bound refused, since the start.
    """

    __slots__ = ("_capacity", "_events", "_paths", "_queries", "_random", "_room", "_sample", "dropped")

    def __init__(
        self,
        sample: float,
        rng: Random,
        max_per_second: int,
        *,
        paths: bool = False,
        queries: bool = False,
    ) -> None:
        if max_per_second < 0:
            raise UsageError("max_per_second of the access log is negative", code="BM6004")
        self.sample = sample
        self._random = rng.random
        self._capacity = self._room = max_per_second
        self._paths = paths
        self._queries = queries
        self._events: deque[dict[str, object]] = deque()
        self.dropped = 0

    @property
    def sample(self) -> float:
        return self._sample

    @sample.setter
    def sample(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise UsageError(f"access log sample {share} is not a share", code="BM6004", hint="from 0 to 1")
        self._sample = share

    def wanted(self, status: int, *, denied: bool = False) -> bool:
        """Decide whether to tell of a request that ended with ``status``; if so, call :meth:`event` next.

        What was denied is told without sampling, but never pushes out a failure.
        """
        if status >= FAILED:
            spare = 0
        elif denied or self._random() < self._sample:
            spare = self._capacity // 2
        else:
            return False
        if self._room > spare:
            self._room -= 1
            return True
        self.dropped += 1
        return False

    def event(  # noqa: PLR0913 - each is a field of the event
        self,
        *,
        now: float,
        reporter: Reporter,
        source_service: str,
        source_principal: str,
        destination_service: str,
        destination_instance: str,
        destination_version: str,
        route: str,
        method: bytes,
        target: bytes,
        status: int,
        flags: str,
        seconds: float,
        bytes_in: int,
        bytes_out: int,
        attempts: int,
        trace_id: str,
        detail: str = "",
    ) -> dict[str, object]:
        """Keep the event of one request, and return it.

        Args:
            now: when the request arrived, Unix time in seconds.
            target: path and query, as sent.
            seconds: from the request's arrival to its end.
            bytes_in: size of the request's body.
            bytes_out: size of the response's body.
            attempts: tries, the first included; 0 if the mesh answered without one.
            trace_id: 32 hex digits.
            detail: why the mesh answered; nothing in it comes from the request.
        """
        event: dict[str, object] = {
            "time": rfc3339(now),
            "reporter": reporter,
            "source_service": source_service,
            "source_principal": source_principal,
            "destination_service": destination_service,
            "destination_instance": destination_instance,
            "destination_version": destination_version,
            "route": route,
            "method": readable(method[:MAX_METHOD]),
            "status": status,
            "flags": flags,
            "duration_ms": round(seconds * 1000, 3),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "attempts": attempts,
            "trace_id": trace_id,
        }
        if detail:
            event["detail"] = detail
        path, _, query = target.partition(b"?")
        if self._paths:
            event["path"] = readable(path)[:MAX_PATH]
        if self._queries:
            event["query"] = readable(query)[:MAX_PATH]
        if len(self._events) < self._capacity:
            self._events.append(event)
        else:
            self.dropped += 1
        return event

    def drain(self) -> list[dict[str, object]]:
        """Return the events since the last call, oldest first, and allow as many again."""
        events = list(self._events)
        self._events.clear()
        self._room = self._capacity
        return events

    def statistics(self) -> dict[str, int]:
        return {"waiting": len(self._events), "capacity": self._capacity, "dropped": self.dropped}

    def __repr__(self) -> str:
        return f"<AccessLog sample={self._sample} {self.statistics()}>"


def readable(raw: bytes) -> str:
    r"""Return bytes as text, each that is not UTF-8 as ``\xff``; JSON escapes control characters."""
    return raw.decode("utf-8", "backslashreplace")
