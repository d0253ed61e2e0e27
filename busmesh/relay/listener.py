"""The agent's HTTP/1.1 server: parses strictly, hands over whole requests, writes responses.

A message is never copied through: it is taken apart here and written anew from its parts, so what two
parsers might understand differently (RFC 9112 section 11.2) does not travel. What is ambiguous is refused.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools

from busmesh.decide.request import RequestHead
from busmesh.relay.answers import Answer, reason_of
from busmesh.wire.http import HOP_BY_HOP, MAX_HEADER_BLOCK, OWN_PREFIX, TOKEN

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener admits.

    Attributes:
        body: bytes of one request body; above it 413.
        header_bytes: bytes of request line and headers; above it 431. More serves hostile clients only.
        header_count: header lines; above it 431 (Envoy's default is 100 too).
        header_timeout: seconds from the first byte of a request to the end of its body's arrival.
        idle_timeout: seconds that a keep-alive connection may rest.
        connections: open connections; above it the newest gets a 503.
        pipelined: requests waiting on one connection before reading pauses.
    """

    body: int = 900 * 1024
    header_bytes: int = MAX_HEADER_BLOCK
    header_count: int = 100
    header_timeout: float = 10.0
    idle_timeout: float = 600.0
    connections: int = 10_000
    pipelined: int = 16


class Request:
    """One request on its way, and the way back to who sent it."""

    __slots__ = ("authority", "body", "connection", "head", "keep_alive", "traceparent", "tracestate")

    def __init__(
        self,
        connection: Connection,
        head: RequestHead,
        authority: bytes,
        traceparent: bytes | None,
        body: bytes,
        keep_alive: bool,
        tracestate: bool = False,
    ) -> None:
        self.connection = connection
        self.head = head
        self.authority = authority
        self.traceparent = traceparent
        self.body = body
        self.keep_alive = keep_alive
        #: Whether the head has that header.
        self.tracestate = tracestate

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


class _Refused:
    """Takes a bad request's place in the queue, so that earlier pipelined ones are answered first."""

    __slots__ = ("answer",)

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


def _bad(status: int, code: str, message: str) -> Answer:
    return Answer(status, "DPE", code, message)


_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#@]*)(.*)", re.DOTALL)
#: Visible ASCII and UTF-8 bytes; no fragment, blank or control character (RFC 9112 section 3.2).
_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*")
_LISTED = re.compile(TOKEN + rb"(?:[ \t]*,[ \t]*" + TOKEN + rb")*")
_DIGITS = re.compile(rb"[0-9]{1,19}")
#: Names that ``Connection`` may not take out of a request: routing, identity and trace depend on them.
_NOT_NOMINABLE = frozenset((b"host", b"authorization", b"cookie", b"traceparent", b"tracestate", b"baggage"))

_HOST, _CONNECTION, _LENGTH, _ENCODING, _TRACE, _STATE, _EXPECT, _DROP = range(1, 9)
_SPECIAL: dict[bytes, int] = {
    **dict.fromkeys(HOP_BY_HOP, _DROP),
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"transfer-encoding": _ENCODING,
    b"traceparent": _TRACE,
    b"tracestate": _STATE,
    b"expect": _EXPECT,
    b"x-forwarded-client-cert": _DROP,
}


class Connection(asyncio.Protocol):
    """One client connection: at most one request is being served, the next ones wait in order."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._limits = listener.limits
        self.transport: asyncio.Transport | None = None
        self.deadline = 0.0
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request | _Refused] = deque()
        self._serving: Request | None = None
        self._stepping = False
        self._reading_paused = False
        self._unparsed = 0
        self._in_message = False
        self._closing = False
        self.on_message_begin()
        self._in_message = False

    # -- connection events -----------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._listener.connections.add(self)
        self._rest()
        if len(self._listener.connections) > self._limits.connections:
            self._refuse(
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
        if self._in_message:
            self._refuse(_bad(400, "incomplete_request", "the connection was closed within a request"))
        self._closing = True
        self._step()
        return self._serving is not None

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(
                _bad(
                    501,
                    "upgrade_not_supported",
                    "neither CONNECT nor Upgrade is relayed; use plain http:// requests",
                )
            )
        except httptools.HttpParserError as error:
            self._refuse(_bad(400, "malformed_request", str(error) or type(error).__name__))
        if self._in_head and self._unparsed > self._limits.header_bytes:
            self._refuse(
                _bad(431, "headers_too_large", f"more than {self._limits.header_bytes} bytes of headers")
            )
        self._step()

    def _rest(self) -> None:
        self.deadline = self._listener.now + self._limits.idle_timeout

    # -- parser events ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_message = self._in_head = True
        self._url = b""
        self._lines: list[bytes] = []
        self._hosts: list[bytes] = []
        self._nominated: bytes = b""
        self._traceparent: bytes | None = None
        self._tracestate = False
        self._chunked = self._expects = self._own = False
        self._length = -1
        self._count = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._unparsed = 0
        self._failure: Answer | None = None
        self.deadline = self._listener.now + self._limits.header_timeout

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer: nothing in it may pass for a header
            return
        self._count += 1
        lower = name.lower()
        special = _SPECIAL.get(lower)
        if special is None:
            if lower[:10] != OWN_PREFIX:
                self._lines += (name, b": ", value, b"\r\n")
        elif special is _HOST:
            self._hosts.append(value)
            self._lines += (name, b": ", value, b"\r\n")
        elif special is _TRACE:
            self._traceparent = None if self._traceparent is not None else value
        elif special is _STATE:
            self._tracestate = True
            self._lines += (name, b": ", value, b"\r\n")
        elif special is _CONNECTION:
            self._nominated += b"," + value if self._nominated else value
        elif special is not _DROP:
            self._failure = self._frame(special, value) or self._failure

    def _frame(self, special: int, value: bytes) -> Answer | None:
        """Take a header that says where the body ends; return what is wrong with it."""
        if special is _LENGTH:
            if self._length >= 0 or _DIGITS.fullmatch(value) is None:
                return _bad(400, "bad_content_length", "content-length is not one number")
            self._length = int(value)
        elif special is _ENCODING:
            if self._chunked or value.lower() != b"chunked":
                return _bad(501, "bad_transfer_encoding", "the only transfer-encoding understood is chunked")
            self._chunked = True
        elif special is _EXPECT:
            self._expects = value.lower() == b"100-continue"
            if not self._expects:
                return _bad(417, "bad_expectation", "the only expectation understood is 100-continue")
        return None

    def on_headers_complete(self) -> None:
        self._in_head = False
        failure = self._failure or self._judge_head()
        if failure is not None:
            self._failure = failure
        elif self._expects and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _judge_head(self) -> Answer | None:
        if self._count > self._limits.header_count:
            return _bad(431, "too_many_headers", f"more than {self._limits.header_count} header lines")
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return _bad(505, "bad_version", "this agent speaks HTTP/1.1")
        if len(self._hosts) != 1 and not (version == "1.0" and not self._hosts and self._url[:1] != b"/"):
            return _bad(400, "bad_host", "a request carries exactly one Host header")
        if self._chunked and (version == "1.0" or self._length >= 0):
            return _bad(400, "ambiguous_length", "transfer-encoding with content-length or in HTTP/1.0")
        if self._length > self._limits.body:
            return self._too_large()
        return self._resolve_target()

    def _resolve_target(self) -> Answer | None:
        """Bring the target into origin-form and find the authority (RFC 9112 section 3.2)."""
        url = self._url
        host = self._hosts[0] if self._hosts else b""
        if url[:1] == b"/":
            self._authority = host
        elif url == b"*":
            self._authority = host
            return (
                None
                if self._parser.get_method() == b"OPTIONS"
                else _bad(400, "bad_target", "* is for OPTIONS only")
            )
        else:
            absolute = _ABSOLUTE.fullmatch(url)
            if absolute is None:
                return _bad(
                    400,
                    "bad_target",
                    "the target is neither a path nor an http:// URL; the mesh encrypts by itself",
                )
            self._authority, rest = absolute.groups()
            if host and host.lower() != self._authority.lower():
                return _bad(400, "conflicting_host", "the URL and the Host header name different authorities")
            if not host:
                self._lines[0:0] = (b"Host", b": ", self._authority, b"\r\n")
            url = rest if rest[:1] == b"/" else b"/" + rest
        if _TARGET.fullmatch(url) is None:
            return _bad(400, "bad_target", "the target holds characters that no URL has")
        self._url = url
        return None

    def _too_large(self) -> Answer:
        limit = self._limits.body
        return Answer(
            413,
            "DPE",
            "body_too_large",
            f"a request body may have {limit} bytes; larger ones are not relayed yet",
        )

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > self._limits.body:
            self._failure = self._failure or self._too_large()
        elif self._failure is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._unparsed = 0
        if self._closing:
            return
        if self._failure is not None:
            self._refuse(self._failure)
            return
        keep_alive = self._parser.should_keep_alive()
        if self._nominated and self._nominated.lower() not in (b"keep-alive", b"close"):
            if _LISTED.fullmatch(self._nominated) is None:
                self._refuse(
                    _bad(400, "bad_connection_header", "the Connection header is not a list of names")
                )
                return
            self._drop_nominated()
        body = self._body
        head = RequestHead.from_block(self._parser.get_method(), self._url, b"".join(self._lines))
        self._queue.append(
            Request(
                self,
                head,
                self._authority,
                self._traceparent,
                b"" if not body else body[0] if len(body) == 1 else b"".join(body),
                keep_alive,
                self._tracestate,
            )
        )
        if len(self._queue) >= self._limits.pipelined and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _drop_nominated(self) -> None:
        """Take out the headers that ``Connection`` declares to be for this hop (RFC 9110 section 7.6.1)."""
        names = {name.strip().lower() for name in self._nominated.split(b",")} - _NOT_NOMINABLE
        lines = self._lines
        kept: list[bytes] = []
        for at in range(0, len(lines), 4):
            if lines[at].lower() not in names:
                kept += lines[at : at + 4]
        self._lines = kept

    # -- serving ---------------------------------------------------------------------------------

    def _refuse(self, answer: Answer) -> None:
        if not self._closing:
            self._closing = True  # what follows on this connection is not trusted
            self._queue.append(_Refused(answer))
            self._listener.refused += 1

    def _step(self) -> None:
        """Serve what waits, one request after the other; a handler may answer at once or later."""
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._queue and self._serving is None and self.transport is not None:
                item = self._queue.popleft()
                if isinstance(item, _Refused):
                    self._write(item.answer.status, reason_of(item.answer.status), item.answer, close=True)
                    self._queue.clear()
                else:
                    self._serving = item
                    self._listener.handle(item)
        finally:
            self._stepping = False
        if self._reading_paused and not self._queue and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()
        if self._closing and self._serving is None and not self._queue and self.transport is not None:
            self.transport.close()

    def _write(self, status: int, reason: bytes, answer: Answer, *, close: bool) -> None:
        body = answer.body()
        head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n"
        if self.transport is not None:
            self.transport.write(head % (status, reason, answer.headers(), len(body)) + body)
            if close:
                self.transport.close()

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
        transport.write(
            b"HTTP/1.1 %d %b\r\n%b%b%b\r\n%b"
            % (status, reason, headers, length, b"" if keep else b"connection: close\r\n", body)
        )
        if not keep:
            self._closing = True
            self._queue.clear()
            transport.close()
            return
        self._rest()
        if self._queue or self._closing:
            self._step()

    @property
    def busy(self) -> bool:
        return self._serving is not None or bool(self._queue)

    def close_if_idle(self) -> None:
        if not self.busy and not self._in_message and self.transport is not None:
            self.transport.close()

    def expire(self) -> None:
        """The deadline passed: a slow request gets a 408, a resting connection is closed."""
        if self._serving is not None or self.transport is None:
            return
        if self._in_message:
            self._refuse(_bad(408, "request_timeout", "the request did not arrive in time"))
            self._step()
        else:
            self.transport.close()


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
