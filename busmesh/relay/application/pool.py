"""The last step of a request: HTTP/1.1 to the local application over a pool of keep-alive connections.

A failure says whether the application can have seen the request, because that decides about a retry.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.connection import AppConnection
from busmesh.relay.outbox import Outbox

#: Applications close idle connections after 2 s (gunicorn) to 5 s (Node, uvicorn); reusing one at that very
#: moment loses the request, so the pool gives them up earlier.
IDLE_S = 1.5
SWEEP_S = 0.25


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What one application is asked to do at once (Envoy's defaults).

    Attributes:
        connections: open connections, that is requests at work.
        pending: requests waiting for a connection; above it they are refused, not processed.
        body: bytes of a response body that has to be whole; one with a consumer has any size.
        connect_timeout: seconds to open a connection.
    """

    connections: int = 1024
    pending: int = 1024
    body: int = 900 * 1024
    connect_timeout: float = 1.0


class Application:
    """The pool of connections to one application."""

    def __init__(self, host: str, port: int, limits: PoolLimits | None = None) -> None:
        self.host, self.port = host, port
        self.limits = limits or PoolLimits()
        self.max_body = self.limits.body
        self.report = (b"", -math.inf)
        self.connections: set[AppConnection] = set()
        self.on_unreachable: Callable[[], None] = lambda: None
        self.outbox = Outbox()
        self._idle: list[AppConnection] = []
        self._pending: deque[Call] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def send(self, call: Call) -> None:
        """Start a call, now or when a connection is free."""
        while self._idle:
            connection = self._idle.pop()  # the one used last is the least likely to be closing
            if connection.usable:
                connection.start(call)
                return
        if self._closed:
            self.end(call, AppFailure(False, "application_closed", "this agent is at its end"))
        elif len(self._pending) >= self.limits.pending:
            message = f"{self.limits.pending} requests wait for the application already"
            self.end(call, AppFailure(False, "overflow", message))
        else:
            call.wait(self._pending)
            self._grow()

    def _grow(self) -> None:
        """Have a connection on the way for each call that waits, within the limit."""
        connecting, limit = self._connecting, self.limits.connections
        while len(connecting) < len(self._pending) and len(self.connections) + len(connecting) < limit:
            connecting.add(asyncio.get_running_loop().create_task(self._connect()))

    async def _connect(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "only tasks connect"
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: AppConnection(self), self.host, self.port
                )
        except (OSError, TimeoutError) as error:
            self._connecting.discard(task)
            self._unreachable(str(error) or "timeout")
            return
        self._connecting.discard(task)
        if connection.usable:  # it may have been closed at once
            self.connections.add(connection)
            self.rest(connection)
        else:
            self._unreachable("closed at once")

    def _unreachable(self, why: str) -> None:
        """What is refused now is refused for all that wait; each of them may be tried elsewhere at once."""
        message = f"no connection to the application at {self.host}:{self.port}: {why}"
        self._fail_pending(AppFailure(False, "application_unreachable", message))
        self.on_unreachable()

    def _fail_pending(self, failure: AppFailure) -> None:
        waiting = list(self._pending)
        self._pending.clear()
        for call in waiting:
            call.queue = None
        for call in waiting:
            self.end(call, failure)

    def rest(self, connection: AppConnection) -> None:
        """Give a free connection its next call, or keep it."""
        if self._pending:
            call = self._pending.popleft()
            call.queue = None
            connection.start(call)
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Close what has rested too long."""
        oldest = time.monotonic() - IDLE_S
        kept = []
        for connection in self._idle:
            if connection.usable and connection.idle_since > oldest:
                kept.append(connection)
            else:
                connection.abort()
        self._idle = kept
        again = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep) if kept else None
        self._sweeper = again

    def forget(self, connection: AppConnection) -> None:
        """Hear that a connection is gone; what waits for one gets another."""
        self.connections.discard(connection)
        if self._pending:
            self._grow()

    def end(self, call: Call, result: AppResponse | AppFailure) -> None:
        """Tell the end of a call, unless nobody wants to know."""
        call.connection = call.queue = None
        if not call.cancelled:
            call.done(result)

    def close(self) -> None:
        """End at once: whatever waits or is at work fails."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._connecting:
            task.cancel()
        self._fail_pending(AppFailure(False, "application_closed", "this agent is at its end"))
        for connection in list(self.connections):
            connection.fail(AppFailure(True, "application_closed", "this agent is at its end"))

    def statistics(self) -> dict[str, int]:
        return {
            "connections": len(self.connections),
            "idle": len(self._idle),
            "pending": len(self._pending),
            "connecting": len(self._connecting),
        }

    def __repr__(self) -> str:
        counts = " ".join(f"{name}={count}" for name, count in self.statistics().items())
        return f"<Application {self.host}:{self.port} {counts}>"
