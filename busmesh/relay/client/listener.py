"""The agent's HTTP/1.1 server: the socket that it listens on, and the connections there."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from busmesh.relay.client.connection import Connection
from busmesh.relay.client.refusals import Limits
from busmesh.relay.client.request import Request
from busmesh.relay.outbox import Outbox

#: Connections that the system takes before this process has.
BACKLOG = 1024


class Listener:
    """A listening socket and its connections.

    Args:
        handle: called synchronously with each whole request; answers now or later by ``request.respond``.
        abandon: called when the client of a request being served is gone.
        limits: what is admitted.
    """

    def __init__(
        self,
        handle: Callable[[Request], None],
        abandon: Callable[[Request], None] = lambda request: None,
        limits: Limits | None = None,
    ) -> None:
        self.handle = handle
        self.abandon = abandon
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.refused = 0
        self.closing = False
        #: Monotonic seconds, moved on once a second: exact enough for timeouts, free for each request.
        self.now = time.monotonic()
        self.outbox = Outbox()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int, *, shared: bool = False) -> tuple[str, int]:
        """Listen; return the address that was bound (port 0: any free one).

        Args:
            shared: other processes of this user may listen at the port as well, and the system spreads
                connections over them (``SO_REUSEPORT``).

        Raises:
            OSError: the address is in use or not ours.
        """
        loop = asyncio.get_running_loop()
        # By a socket of our own: the loop would look a name up by a codec that takes 1 MiB of memory.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
        self._server = await loop.create_server(lambda: Connection(self), sock=bound, backlog=BACKLOG)
        self._sweep()
        address = bound.getsockname()
        return address[0], address[1]

    def _sweep(self) -> None:
        self.now = time.monotonic()
        for connection in [c for c in self.connections if c.deadline < self.now]:
            connection.expire()
        self._sweeper = asyncio.get_running_loop().call_later(1.0, self._sweep)

    async def close(self, grace: float = 0.0) -> None:
        """Stop listening, let requests at work finish for up to ``grace`` seconds, then cut the rest."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        until = time.monotonic() + grace
        while self.connections and time.monotonic() < until:  # noqa: ASYNC110 - at the very end only
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def statistics(self) -> dict[str, int]:
        busy = sum(connection.busy for connection in self.connections)
        return {"connections": len(self.connections), "busy": busy, "refused": self.refused}
