"""The last step of a request: HTTP/1.1 to the local application over a pool of keep-alive connections.

The application is as little trusted as a caller: its response is parsed strictly and written anew.
A failure says whether the application can have seen the request, because that decides about a retry.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools

from busmesh.wire.http import HOP_BY_HOP, MAX_HEADER_BLOCK, OWN_PREFIX

#: Applications close idle connections after 2 s (gunicorn) to 5 s (Node, uvicorn); reusing one at that very
#: moment loses the request, so the pool gives them up earlier.
IDLE_S = 1.5


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What one application is asked to do at once (Envoy's defaults).

    Attributes:
        connections: open connections, that is requests at work.
        pending: requests waiting for a connection; above it they are refused, not processed.
        body: bytes of one response body.
        connect_timeout: seconds to open a connection.
    """

    connections: int = 1024
    pending: int = 1024
    body: int = 900 * 1024
    connect_timeout: float = 1.0


@dataclass(frozen=True, slots=True)
class AppResponse:
    """A whole response of the application; ``declared`` as in :class:`~busmesh.wire.http.WireResponse`."""

    status: int
    reason: bytes
    headers: bytes
    body: bytes
    declared: int | None


@dataclass(frozen=True, slots=True)
class AppFailure:
    """Why there is no response, and whether the application can have seen the request."""

    processed: bool
    code: str
    message: str


class Call:
    """One request to the application. ``done`` is called exactly once, unless the call is cancelled."""

    __slots__ = ("_connection", "_message", "_method", "cancelled", "done")

    def __init__(
        self, method: bytes, message: bytes, done: Callable[[AppResponse | AppFailure], None]
    ) -> None:
        self._method = method
        self._message = message
        self.done = done
        self.cancelled = False
        self._connection: _Connection | None = None

    @property
    def is_head(self) -> bool:
        return self._method == b"HEAD"

    def cancel(self) -> None:
        """Nobody waits for the answer: tell the application so by closing its connection."""
        self.cancelled = True
        if self._connection is not None:
            self._connection.abort()


def render_request(method: bytes, target: bytes, headers: bytes, body: bytes) -> bytes:
    """Write a request in origin-form; the framing follows from the body."""
    if body or method in (b"POST", b"PUT", b"PATCH"):
        return b"%b %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (
            method,
            target,
            headers,
            len(body),
            body,
        )
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, headers)


_DROPPED = HOP_BY_HOP | {b"x-forwarded-client-cert"}


class _Connection(asyncio.Protocol):
    """One connection to the application, at work on at most one call."""

    def __init__(self, pool: Application) -> None:
        self._pool = pool
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self.call: Call | None = None
        self.idle_since = 0.0
        self.usable = False
        self._response: AppResponse | None = None
        self._reusable = False
        self.on_message_begin()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.usable = True
        self._pool.connections.add(self)

    def start(self, call: Call) -> None:
        self.call = call
        call._connection = self
        self._transport.write(call._message)

    def abort(self) -> None:
        self.usable = False
        self.call = None
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._pool.forget(self)
        call, self.call = self.call, None
        if call is None:
            return
        if self._until_close and exc is None and self._started:
            # A response without length ends with the connection (RFC 9112 section 6.3).
            self._pool.end(call, self._collected())
        else:
            self._pool.end(
                call, AppFailure(True, "application_reset", "the application closed the connection")
            )

    def data_received(self, data: bytes) -> None:
        if self.call is None:
            self.abort()  # an answer to nothing
            return
        self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail("bad_response", f"the application's response is not valid HTTP/1.1: {error}")
            return
        if self._failure is not None:
            self._fail(*self._failure)
        elif self._response is not None:
            self._hand_over(self._response)
        elif self._in_head and self._unparsed > MAX_HEADER_BLOCK:
            self._fail(
                "response_headers_too_large", f"the application sent over {MAX_HEADER_BLOCK} bytes of headers"
            )

    def _fail(self, code: str, message: str) -> None:
        call, self.call = self.call, None
        self.abort()
        if call is not None:
            self._pool.end(call, AppFailure(True, code, message))

    # -- parser events ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._response is not None:
            self._reusable = False  # a second response to one request: never let it answer the next
            return
        self._reason = b""
        self._lines: list[bytes] = []
        self._count = 0
        self._body: list[bytes] = []
        self._size = 0
        self._length: int | None = None
        self._chunked = False
        self._until_close = False
        self._in_head = True
        self._started = False
        self._unparsed = 0
        self._failure: tuple[str, str] | None = None

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer
            return
        self._count += 1
        lower = name.lower()
        if lower == b"content-length":
            if self._length is not None or not value.isdigit():
                self._failure = ("bad_response", "the application sent more than one content-length")
            else:
                self._length = int(value)
        elif lower == b"transfer-encoding":
            self._chunked = True
            if value.lower() != b"chunked":
                self._failure = (
                    "bad_response",
                    "the application used a transfer-encoding other than chunked",
                )
        elif lower not in _DROPPED and lower[:10] != OWN_PREFIX:
            self._lines += (name, b": ", value, b"\r\n")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._started = True
        status = self._parser.get_status_code()
        if status == 101:
            self._failure = (
                "upgrade_not_supported",
                "the application switched protocols, which nobody asked for",
            )
        elif status >= 200 and self._length is None and not self._chunked and status not in (204, 304):
            self._until_close = True
        if self._count > 200:
            self._failure = ("response_headers_too_large", "the application sent over 200 header lines")
        call = self.call
        if call is not None and call.is_head and status >= 200 and self._failure is None:
            # A parser cannot know that the body announced here never comes: begin anew after it.
            self._response = self._collected()

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._pool.limits.body:
            limit = self._pool.limits.body
            self._failure = (
                "response_too_large",
                f"a response body may have {limit} bytes; larger ones are not relayed yet",
            )
        elif self.call is not None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # 100 Continue, 103 Early Hints: the real one follows
            return
        if self._response is None and self._failure is None:
            self._response = self._collected()
            self._reusable = self._parser.should_keep_alive()

    def _collected(self) -> AppResponse:
        body = self._body
        return AppResponse(
            self._parser.get_status_code(),
            self._reason,
            b"".join(self._lines),
            b"" if not body else body[0] if len(body) == 1 else b"".join(body),
            self._length,
        )

    def _hand_over(self, response: AppResponse) -> None:
        call, self.call, self._response = self.call, None, None
        if self._reusable and self.usable:
            self._pool.rest(self)
        else:
            self.usable = False
            self._transport.close()
        if call is not None:
            self._pool.end(call, response)


class Application:
    """The pool of connections to one application."""

    def __init__(self, host: str, port: int, limits: PoolLimits | None = None) -> None:
        self.host, self.port = host, port
        self.limits = limits or PoolLimits()
        self.connections: set[_Connection] = set()
        self.on_unreachable: Callable[[], None] = lambda: None
        self._idle: list[_Connection] = []
        self._pending: deque[Call] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def send(self, call: Call) -> None:
        """Start a call, now or when a connection is free."""
        while self._idle:
            connection = self._idle.pop()  # the one used last is the least likely to be closing
            if connection.usable:
                connection.start(call)
                return
        if len(self._pending) >= self.limits.pending:
            self.end(
                call,
                AppFailure(
                    False, "overflow", f"{self.limits.pending} requests wait for the application already"
                ),
            )
            return
        self._pending.append(call)
        if len(self.connections) + len(self._connecting) < self.limits.connections:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                _, connection = await loop.create_connection(lambda: _Connection(self), self.host, self.port)
        except (OSError, TimeoutError) as error:
            why = str(error) or "timeout"
            failure = AppFailure(
                False,
                "application_unreachable",
                f"no connection to the application at {self.host}:{self.port}: {why}",
            )
            # What is refused now is refused for all that wait; each of them may be tried elsewhere at once.
            waiting = list(self._pending)
            self._pending.clear()
            for call in waiting:
                self.end(call, failure)
            self.on_unreachable()
            return
        self.rest(connection)

    def rest(self, connection: _Connection) -> None:
        """Give a free connection its next call, or keep it."""
        while self._pending:
            call = self._pending.popleft()
            if not call.cancelled:
                connection.start(call)
                return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(IDLE_S / 2, self._sweep)

    def _sweep(self) -> None:
        """Close what has rested too long. Idle connections are ordered by when they came to rest."""
        oldest = time.monotonic() - IDLE_S
        kept = [c for c in self._idle if c.usable and c.idle_since > oldest]
        for connection in self._idle:
            if connection.usable and connection.idle_since <= oldest:
                connection.abort()
        self._idle = kept
        again = asyncio.get_running_loop().call_later(IDLE_S / 2, self._sweep) if kept else None
        self._sweeper = again

    def forget(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if self._pending and not self._connecting:
            # The connection that these waited for is gone: open another.
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def end(self, call: Call, result: AppResponse | AppFailure) -> None:
        call._connection = None
        if not call.cancelled:
            call.done(result)

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._connecting:
            task.cancel()
        for connection in list(self.connections):
            connection.abort()

    def statistics(self) -> dict[str, int]:
        return {
            "connections": len(self.connections),
            "idle": len(self._idle),
            "pending": len(self._pending),
            "connecting": len(self._connecting),
        }
