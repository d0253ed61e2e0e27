"""Limits: how many requests of this agent a destination works on at once, and how many may wait.

Envoy calls these circuit breakers. Istio counts connections, of which there are none between agents: a
connection of HTTP/1.1 carries one request at a time, so `tcp.maxConnections` is taken for what it limits
there, the requests under way. Whoever finds no place waits in line; whoever finds the line full gets a 503
with the flag UO at once, before anything was sent.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Istio's default for all of them: 2**32 - 1, which is none.
UNLIMITED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one agent may have under way at one destination.

    Attributes:
        max_requests: requests under way at once; the smaller one of `tcp.maxConnections` and
            `http.http2MaxRequests`.
        max_pending: requests that wait for a place, beside those; `http.http1MaxPendingRequests`. 0: nobody
            waits.
        max_retries: retries under way at once, where there is no retry budget; `http.maxRetries`.
        connect_timeout: seconds that a request may wait for an instance to come within reach, for want of a
            session as Envoy's would for want of a connection; None for the agent's own patience.
    """

    max_requests: int = UNLIMITED
    max_pending: int = UNLIMITED
    max_retries: int = UNLIMITED
    connect_timeout: float | None = None


NO_LIMITS = Limits()


class Admission:
    """The counters of one destination. It counts; who waits, and in which order, its caller keeps.

    Each request ends in one of three ways: it was let in and is released; it waited and was promoted, and is
    released; or it waited and left. The line is first come, first served: while somebody waits, a newcomer
    is not let in past it.

    Attributes:
        limits: may be replaced while requests are under way; what is above a smaller limit then runs off.
        active: requests under way.
        pending: requests that wait.
        overflows: requests that found no place and no room to wait.
        total: requests let in since the beginning.
    """

    __slots__ = ("active", "limits", "overflows", "pending", "total")

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        self.limits = limits
        self.active = 0
        self.pending = 0
        self.overflows = 0
        self.total = 0

    def admit(self) -> bool:
        """Let a newcomer in; False if it has to wait."""
        if self.pending or self.active >= self.limits.max_requests:
            return False
        self.active += 1
        self.total += 1
        return True

    def wait(self) -> bool:
        """Let a newcomer that was not admitted stand in line; False, an overflow, if the line is full."""
        if self.pending >= self.limits.max_pending:
            self.overflows += 1
            return False
        self.pending += 1
        return True

    def promote(self) -> bool:
        """Let in the one that has waited longest; False if nobody waits or there is no place yet.

        To be asked, until it says no, after each `release` and when `limits` were replaced.
        """
        if not self.pending or self.active >= self.limits.max_requests:
            return False
        self.pending -= 1
        self.active += 1
        self.total += 1
        return True

    def leave(self) -> None:
        """Hear that one which waited does so no more: its time is up, or its client gone."""
        self.pending -= 1

    def release(self) -> None:
        """Hear that a request which was let in has ended."""
        self.active -= 1

    def __repr__(self) -> str:
        return f"<Admission active={self.active} pending={self.pending} overflows={self.overflows}>"
