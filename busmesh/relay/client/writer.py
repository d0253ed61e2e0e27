"""Everything that is written to one client, in its order.

A whole response leaves with what others get at the end of this turn of the event loop
(:mod:`busmesh.relay.outbox`). An interim response, the head of a long one or the end of the connection is
written at once, and must not overtake it. That is seen to here and nowhere else.
"""

from __future__ import annotations

import asyncio

from busmesh.relay.client import sockets
from busmesh.relay.client.rates import Rates
from busmesh.relay.outbox import Outbox


class Writer:
    """Writes to one connection; before that is made and after it is lost, nothing.

    Args:
        outbox: takes what may leave with others.
        rates: counts what is written.

    Attributes:
        transport: what is written to.
    """

    __slots__ = ("_outbox", "_rates", "_turn", "transport")

    def __init__(self, outbox: Outbox, rates: Rates) -> None:
        self._outbox = outbox
        self._rates = rates
        #: The turn of the outbox in which it was given something last.
        self._turn = -1
        self.transport: asyncio.Transport | None = None

    def send(self, data: bytes) -> None:
        """Write soon, together with what others get; for a connection that stands."""
        outbox = self._outbox
        self._turn = outbox.turn
        self._rates.wrote += len(data)
        outbox.send(self.transport, data)

    def flush(self) -> None:
        """Write what waits for this connection; if there is anything, what waits for others goes along."""
        if self._turn == self._outbox.turn:
            self._outbox.flush()

    def write(self, data: bytes) -> None:
        """Write at once, behind all that came before."""
        transport = self.transport
        if transport is not None:
            if self._turn == self._outbox.turn:
                self._outbox.flush()
            self._rates.wrote += len(data)
            transport.write(data)

    def write_chunk(self, line: bytes, data: bytes) -> None:
        """Write one chunk (RFC 9112 section 7.1) at once; nothing puts its pieces together here."""
        transport = self.transport
        if transport is not None:
            if self._turn == self._outbox.turn:
                self._outbox.flush()
            self._rates.wrote += len(line) + len(data) + 2
            transport.writelines((line, data, b"\r\n"))

    def end(self) -> bool:
        """Close this direction only; False if the connection cannot."""
        transport = self.transport
        if transport is None or not transport.can_write_eof():
            return False
        self.flush()
        transport.write_eof()
        return True

    def close(self) -> None:
        """Close once all is written."""
        if self.transport is not None:
            self.flush()
            self.transport.close()

    def reset(self) -> None:
        """Close at once with a reset, which no client takes for the end of a response."""
        if self.transport is not None:
            self.flush()
            sockets.reset(self.transport)

    def unread(self) -> int:
        """Return how many bytes the client has not taken yet; some of them may be the system's already."""
        if self.transport is None:
            return 0
        return self.transport.get_write_buffer_size() + sockets.unacknowledged(self.transport)

    def __repr__(self) -> str:
        state = "waiting" if self._turn == self._outbox.turn else "written"
        return f"<Writer {state} {self._rates!r}>"
