"""The retry budget where no document gives one: retries for a fifth of the requests.

Istio's and Envoy's budgets compare what is under way at one moment. That bounds a service that answers
slowly, but when an application fails fast there are hardly ever two retries under way, and each request is
made three times; and when many fail at one moment, most of their retries are refused, however quiet it was
before. Counting over time, as Finagle's RetryBudget does, has neither fault.
"""

from __future__ import annotations

from math import exp

#: Retries per request.
SHARE = 0.2
#: Requests count for so long, falling off: what was earned in quiet times is spent when an instance dies.
MEMORY_S = 10.0
#: A service with little traffic is granted so many at once, and one more every so many seconds.
LEAST = 3
LEAST_EVERY_S = 10.0


class Allowance:
    """The retries that one destination may still have.

    Attributes:
        overflows: retries that were not granted.
    """

    __slots__ = ("_at", "_earned", "_least", "_total", "overflows")

    def __init__(self, now: float) -> None:
        self._at = now
        self._total = 0
        self._earned = 0.0
        self._least = float(LEAST)
        self.overflows = 0

    def take(self, total: int, now: float) -> bool:
        """Grant one retry.

        Args:
            total: requests that the destination has got since the beginning, retries left out.
            now: monotonic seconds.
        """
        self._earn(total, now)
        if self._earned >= 1.0:
            self._earned -= 1.0
            return True
        if self._least >= 1.0:
            self._least -= 1.0
            return True
        self.overflows += 1
        return False

    def _earn(self, total: int, now: float) -> None:
        """Add what the requests since the last call earn; they are taken to have come evenly."""
        passed = now - self._at
        new = SHARE * (total - self._total)
        if passed > 0:
            kept = exp(-passed / MEMORY_S)
            self._earned = self._earned * kept + new * (1.0 - kept) * MEMORY_S / passed
            self._least = min(LEAST, self._least + passed / LEAST_EVERY_S)
        else:
            self._earned += new
        self._at, self._total = now, total

    def __repr__(self) -> str:
        return f"<Allowance earned={self._earned:.1f} least={self._least:.1f} overflows={self.overflows}>"
