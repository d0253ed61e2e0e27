"""Requests that wait for an instance to come within reach: for discovery, or for a first session."""

from __future__ import annotations

from collections import deque

from busmesh.names import ServiceName
from busmesh.relay.tries.exchange import Exchange

#: How long a request waits until it is told that there is nobody.
PATIENCE_S = 3.0


class Parking:
    """Where they wait, in the order in which they came.

    Args:
        capacity: how many may wait; above it a request is told at once that there is nobody.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: deque[Exchange] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def park(self, exchange: Exchange, now: float, patience: float = PATIENCE_S) -> bool:
        """Let a request wait; False if it has waited for ``patience`` seconds, or there is no room."""
        if exchange.patience_ends is None:
            exchange.patience_ends = now + patience
        if now > exchange.patience_ends or len(self._waiting) >= self._capacity:
            return False
        self._waiting.append(exchange)
        return True

    def leave(self, service: ServiceName) -> list[Exchange]:
        """Take out those that wait for ``service``: something changed there."""
        return self._take([x for x in self._waiting if x.called == service])

    def leave_late(self, now: float) -> list[Exchange]:
        """Take out those that have waited long enough, or whose own time is up."""
        return self._take(
            [
                x
                for x in self._waiting
                if now >= x.deadline or (x.patience_ends is not None and now > x.patience_ends)
            ]
        )

    def remove(self, exchange: Exchange) -> bool:
        """Take out one; False if it does not wait here."""
        return bool(self._take([x for x in self._waiting if x is exchange]))

    def leave_all(self) -> list[Exchange]:
        """Take out everyone: there is nothing to wait for any more."""
        return self._take(list(self._waiting))

    def _take(self, leaving: list[Exchange]) -> list[Exchange]:
        if leaving:
            gone = set(map(id, leaving))
            self._waiting = deque(x for x in self._waiting if id(x) not in gone)
        return leaving

    def __repr__(self) -> str:
        return f"<Parking waiting={len(self._waiting)} capacity={self._capacity}>"
