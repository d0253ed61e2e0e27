"""What was sent and is not answered: found by stream when the answer comes, by age when it does not."""

from __future__ import annotations

from busmesh.relay.destination.upstream import Endpoint
from busmesh.relay.tries.exchange import Exchange


class Flight:
    """The requests in flight of one agent.

    Attributes:
        sent: by stream number, in the order in which they were sent; the request path writes to it.
        look_after: no request needs a look sooner after it was sent, in seconds.
    """

    def __init__(self, look_after: float) -> None:
        self.sent: dict[int, Exchange] = {}
        self.look_after = self._usually = look_after

    def __repr__(self) -> str:
        return f"<Flight sent={len(self.sent)} look_after={self.look_after:g}>"

    def late(self, now: float) -> list[Exchange]:
        """Return those that need a look, the oldest first; the young ones behind them are not visited."""
        young = now - self.look_after
        found = []
        for exchange in self.sent.values():
            if exchange.sent_at > young:
                break
            found.append(exchange)
        return found

    def settle(self) -> None:
        """Go back to looking as late as usual, once nobody needs it sooner."""
        if self.look_after < self._usually:
            lefts = [exchange.ends - exchange.sent_at for exchange in self.sent.values()]
            self.look_after = min([self._usually, *lefts])

    def to(self, endpoint: Endpoint, worker: int | None = None) -> list[Exchange]:
        """Return what was sent to an instance, or to one process of it."""
        return [x for x in self.sent.values() if x.endpoint is endpoint and x.is_with(worker)]
