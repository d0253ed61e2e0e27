"""What leaves at the end of this turn of the event loop: all that one read of the bus brought, together.

Whoever gets it may share a core with the agent. Woken for each message, it would take that core in the middle
of the next one; woken once, it finds all of them. On two cores that is worth a fifth of what a small request
costs client and application.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Outbox:
    """Messages for many connections, kept for less than one turn of the event loop.

    Attributes:
        turn: how often what waited was written; what was sent in an earlier one is on its way.
    """

    def __init__(self) -> None:
        self.turn = 0
        self._messages: list[tuple[Any, bytes]] = []

    def send(self, transport: Any, data: bytes) -> None:
        """Write ``data`` soon; nothing else may be written to ``transport`` before without :meth:`flush`."""
        if not self._messages:
            asyncio.get_running_loop().call_soon(self.flush)
        self._messages.append((transport, data))

    def flush(self) -> None:
        """Write what waits, in the order in which it came."""
        if self._messages:
            messages, self._messages = self._messages, []
            self.turn += 1
            for transport, data in messages:
                if not transport.is_closing():
                    transport.write(data)

    def __repr__(self) -> str:
        return f"<Outbox messages={len(self._messages)}>"
