"""The agent's HTTP/1.1 server: the socket that it listens on, and the connections there."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable

from busmesh.relay.client.connection import Connection
from busmesh.relay.client.refusals import Limits
from busmesh.relay.client.request import Request
from busmesh.relay.outbox import Outbox

#: Connections that the system takes before this process has.
BACKLOG = 1024


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Take an address without listening there yet: who connects meanwhile is refused and does not hang.

    Args:
        host: an address, or a name that is looked up.
        port: 0 for any free one.
        shared: other processes of this user may have it as well, and the system spreads connections over
            those that listen (``SO_REUSEPORT``).

    Raises:
        OSError: somebody listens there, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        if os.name == "posix":  # on Windows it would let two have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound


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

    async def serve(self, bound: socket.socket) -> tuple[str, int]:
        """Listen at an address that was taken before, and that is closed with this; return it.

        Raises:
            OSError: somebody else has begun to listen there since.
        """
        loop = asyncio.get_running_loop()
        # By a socket of our own: the loop would look a name up by a codec that takes 1 MiB of memory.
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
