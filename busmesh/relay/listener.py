"""The agent's HTTP/1.1 server: connections, the requests waiting on them, and the responses written."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from busmesh.decide.request import RequestHead
from busmesh.relay.answers import Answer, reason_of
from busmesh.relay.parsing import ParsedRequest, RequestParser
from busmesh.relay.refusals import Limits

log = logging.getLogger(__name__)

#: After a refusal the client may still be sending; closing at once would reset the connection and lose the
#: answer, so for so long what comes is read and dropped.
LINGER_S = 2.0


class Request:
    """One request on its way, and the way back to who sent it."""

    __slots__ = (
        "authority",
        "body",
        "connection",
        "head",
        "http10",
        "keep_alive",
        "traceparent",
        "tracestate",
    )

    def __init__(self, connection: Connection, parsed: ParsedRequest) -> None:
        self.connection = connection
        self.head: RequestHead = parsed.head
        self.authority = parsed.authority
        self.traceparent = parsed.traceparent
        self.tracestate = parsed.tracestate
        self.body = parsed.body
        self.keep_alive = parsed.keep_alive
        self.http10 = parsed.http10

    @property
    def abandoned(self) -> bool:
        """True once the client is gone: nobody waits for the answer."""
        return self.connection.transport is None

    def respond(
        self, status: int, reason: bytes, headers: bytes, body: bytes, declared: int | None = None
    ) -> None:
        """Write the response; ``declared`` is the length that a HEAD or 304 names without sending it."""
        self.connection.write_response(self, status, reason, headers, body, declared)

    def answer(self, answer: Answer) -> None:
        """Answer in the mesh's own name."""
        self.respond(answer.status, reason_of(answer.status), answer.headers(), answer.body())


class _Tunnel:
    """Takes a CONNECT's place in the queue; what is granted is only that requests may follow."""

    __slots__ = ()


class _Refused:
    """Takes a bad request's place in the queue, so that earlier pipelined ones are answered first."""

    __slots__ = ("answer",)

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class Connection(asyncio.Protocol):
    """One client connection: at most one request is being served, the next ones wait in order."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._parser = RequestParser(self, listener.limits)
        self.transport: asyncio.Transport | None = None
        self.deadline = 0.0
        self._queue: deque[Request | _Tunnel | _Refused] = deque()
        self._serving: Request | None = None
        self._stepping = False
        self._reading_paused = False
        self._writable = True
        self._unread = 0
        self._closing = False

    # -- connection events -----------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._listener.connections.add(self)
        self._rest()
        if len(self._listener.connections) > self._limits.connections:
            self.refused(
                Answer(503, "UO", "too_many_connections", "this agent has too many connections open")
            )
            self._step()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._queue.clear()
        self._listener.connections.discard(self)
        if self._serving is not None:
            self._listener.abandon(self._serving)
            self._serving = None

    def eof_received(self) -> bool:
        # A half-closed client may still read its answers.
        self._parser.end()
        self._closing = True
        self._step()
        return self.busy

    def pause_writing(self) -> None:
        """Serve no more while the client does not read: what it asks for would pile up here."""
        self._writable = False
        self.deadline = self._listener.now + self._limits.write_timeout

    def resume_writing(self) -> None:
        self._writable = True
        if not self._closing:
            self._rest()
        self._step()

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            self._parser.feed(data)
            self._step()

    def _rest(self) -> None:
        """Nothing is being served; the next request may be half here already."""
        if not self._parser.in_message:
            self.deadline = self._listener.now + self._limits.idle_timeout
            return
        self.deadline = self._listener.now + self._limits.header_timeout
        if self._parser.awaits_continue:
            self.proceed()

    # -- what the parser found ---------------------------------------------------------------------

    def begun(self) -> None:
        self.deadline = self._listener.now + self._limits.header_timeout

    def proceed(self) -> None:
        # Answers that are still due come first; `_rest` sees to it then.
        if self.transport is not None and not self.busy:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def parsed(self, request: ParsedRequest) -> None:
        self._queue.append(Request(self, request))
        if len(self._queue) >= self._limits.pipelined and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def tunnelled(self) -> None:
        self._queue.append(_Tunnel())

    def refused(self, answer: Answer) -> None:
        self._queue.append(_Refused(answer))
        self._listener.refused += 1
        self._closing = True  # what follows on this connection is not trusted

    # -- serving ---------------------------------------------------------------------------------

    def _step(self) -> None:
        """Serve what waits, one request after the other; a handler may answer at once or later."""
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._queue and self._serving is None and self._writable and self.transport is not None:
                item = self._queue.popleft()
                if isinstance(item, Request):
                    self._serving = item
                    try:
                        self._listener.handle(item)
                    except Exception:
                        log.exception("a request could not be handled; this is a fault of the agent")
                        item.answer(
                            Answer(500, "UF", "internal_error", "the agent failed; its log says more")
                        )
                elif isinstance(item, _Tunnel):
                    self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
                    self._rest()
                else:
                    self._queue.clear()
                    self._refuse(item.answer)
                    return
        finally:
            self._stepping = False
        if self._reading_paused and not self._queue and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()
        if self._closing and self._serving is None and not self._queue and self.transport is not None:
            self.transport.close()

    def _refuse(self, answer: Answer) -> None:
        """Answer a bad request and close, once the client had a chance to read it."""
        transport = self.transport
        if transport is None:
            return
        body = answer.body()
        head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n"
        status = answer.status
        transport.write(head % (status, reason_of(status), answer.headers(), len(body)) + body)
        if transport.can_write_eof():
            transport.write_eof()
            self.deadline = self._listener.now + LINGER_S
        else:
            transport.close()

    def write_response(
        self, request: Request, status: int, reason: bytes, headers: bytes, body: bytes, declared: int | None
    ) -> None:
        transport = self.transport
        if transport is None or self._serving is not request:
            return
        self._serving = None
        if status == 204:
            length, body = b"", b""
        elif status == 304 or request.head.method == b"HEAD":
            length, body = b"content-length: %d\r\n" % declared if declared is not None else b"", b""
        else:
            length = b"content-length: %d\r\n" % len(body)
        keep = request.keep_alive and not self._listener.closing and not (self._closing and not self._queue)
        if not keep:
            connection = b"connection: close\r\n"
        else:
            connection = b"connection: keep-alive\r\n" if request.http10 else b""
        transport.write(
            b"HTTP/1.1 %d %b\r\n%b%b%b\r\n%b" % (status, reason, headers, length, connection, body)
        )
        if not keep:
            self._closing = True
            self._queue.clear()
            self.deadline = self._listener.now + self._limits.write_timeout
            transport.close()
            return
        if self._writable:
            self._rest()
        if self._queue or self._closing:
            self._step()

    @property
    def busy(self) -> bool:
        return self._serving is not None or bool(self._queue)

    def close_if_idle(self) -> None:
        if not self.busy and not self._parser.in_message and self.transport is not None:
            self.transport.close()

    def expire(self) -> None:
        """The deadline passed: cut a client that does not read, answer a slow one, close a resting one."""
        transport = self.transport
        if self._serving is not None or transport is None:
            return
        unread = transport.get_write_buffer_size()
        if unread and unread != self._unread:
            self._unread = unread
            self.deadline = self._listener.now + self._limits.write_timeout
        elif unread or transport.is_closing():
            transport.abort()
        elif self._parser.in_message and not self._closing:
            self._parser.late()
            self._step()
        else:
            transport.close()


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
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; return the address that was bound (port 0: any free one).

        Raises:
            OSError: the address is in use or not ours.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        self._sweep()
        bound = self._server.sockets[0].getsockname()
        return bound[0], bound[1]

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
            if connection.transport is not None:
                connection.transport.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def statistics(self) -> dict[str, int]:
        busy = sum(connection.busy for connection in self.connections)
        return {"connections": len(self.connections), "busy": busy, "refused": self.refused}
