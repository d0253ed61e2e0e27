"""Requests that stand in line for a place at their destination, which has as many under way as it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from busmesh.relay.destination.destination import Destination
from busmesh.relay.outbound.waiting import Waiting
from busmesh.relay.tries.exchange import Exchange


class Queues:
    """One line for each destination; how long each may become its limits say.

    Args:
        waiting: where they wait; bounds how many do in all.
        admitted: called with whoever has got a place, and where.
        late: called with whoever has left the line because its time was up.
    """

    def __init__(
        self,
        waiting: Waiting,
        admitted: Callable[[Exchange, Destination], None],
        late: Callable[[Exchange], None],
    ) -> None:
        self._waiting = waiting
        self._admitted = admitted
        self._late = late
        #: Of destinations where somebody stands in line.
        self._lines: dict[Destination, deque[Exchange]] = {}

    def enter(self, exchange: Exchange, destination: Destination) -> bool:
        """Stand in line, at most for the time of the request; False if too many do already."""
        if self._waiting.full or not destination.admission.wait():
            return False
        self._lines.setdefault(destination, deque()).append(exchange)
        self._waiting.wait(exchange, exchange.started + exchange.allowed, self._time_is_up)
        return True

    def leave(self, exchange: Exchange) -> bool:
        """Take a request out of its line; False if it stands in none."""
        destination = exchange.destination
        if destination is None or exchange not in self._lines.get(destination, ()):
            return False
        self._lines[destination].remove(exchange)
        self._forget(destination)
        destination.admission.leave()
        return True

    def promote(self, destination: Destination) -> None:
        """Let in whoever has waited longest, as far as there are places."""
        while destination in self._lines and destination.admission.promote():
            exchange = self._lines[destination].popleft()
            self._forget(destination)
            self._waiting.remove(exchange)
            self._admitted(exchange, destination)

    def _forget(self, destination: Destination) -> None:
        if not self._lines[destination]:
            del self._lines[destination]

    def _time_is_up(self, exchange: Exchange) -> None:
        self.leave(exchange)
        self._late(exchange)

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __repr__(self) -> str:
        return f"<Queues waiting={len(self)} at={len(self._lines)}>"
