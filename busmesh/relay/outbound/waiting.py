"""Requests that wait for a moment of their own: a fault's delay, the pause before a retry."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from busmesh.relay.ticker import Alarm
from busmesh.relay.tries.exchange import Exchange

Then = Callable[[Exchange], None]
#: Entries of those that left, which are not worth clearing out.
SLACK = 64


class Waiting:
    """Where they wait; the first to be due is woken first.

    Args:
        capacity: how many may wait.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._heap: list[tuple[float, int, Exchange]] = []
        #: What follows, by exchange; one that was taken out stays in the heap until it was due.
        self._then: dict[Exchange, tuple[int, Then]] = {}
        self._count = 0
        self._alarm = Alarm(self._ring)

    def __len__(self) -> int:
        return len(self._then)

    @property
    def full(self) -> bool:
        return len(self._then) >= self._capacity

    def wait(self, exchange: Exchange, due: float, then: Then) -> bool:
        """Call ``then`` at ``due`` (monotonic seconds); False if there is no room."""
        if self.full:
            return False
        if len(self._heap) > 2 * len(self._then) + SLACK:
            self._clear_out()
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, exchange))
        self._then[exchange] = (self._count, then)
        self._alarm.set(due)
        return True

    def remove(self, exchange: Exchange) -> bool:
        """Take one out; False if it does not wait here."""
        return self._then.pop(exchange, None) is not None

    def _clear_out(self) -> None:
        """Forget those that were taken out: some would be remembered long after their requests have ended."""
        self._heap = [entry for entry in self._heap if self._then.get(entry[2], (0,))[0] == entry[1]]
        heapq.heapify(self._heap)

    def _ring(self, now: float) -> float | None:
        while self._heap and self._heap[0][0] <= now:
            _, number, exchange = heapq.heappop(self._heap)
            waits, then = self._then.get(exchange, (0, None))
            if then is not None and waits == number:
                del self._then[exchange]
                then(exchange)
        return self._heap[0][0] if self._heap else None

    def __repr__(self) -> str:
        return f"<Waiting waiting={len(self._then)} capacity={self._capacity}>"
