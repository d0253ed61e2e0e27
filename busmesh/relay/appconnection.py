"""One connection to the application: HTTP/1.1, one call at a time, each response parsed strictly.

The application is as little trusted as a caller: its response is taken apart and written anew, and what it
sends beyond one response never answers the next request.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import httptools

from busmesh.relay.lines import without_disguised
from busmesh.wire.http import HOP_BY_HOP, OWN_PREFIX, WRITTEN_BY_AGENTS

MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_LINES = 200

#: Interim responses before the final one; more are a way to keep the agent busy.
MAX_INTERIM = 100

#: No longer than what a frame has room for.
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]{0,255}")
_DROPPED = HOP_BY_HOP | WRITTEN_BY_AGENTS
#: Interim responses that the parser knows to have no body; the final one follows (RFC 9110 section 15.2).
_INTERIM = (100, 102, 103)


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

    __slots__ = ("cancelled", "connection", "done", "message", "method", "queue")

    def __init__(
        self, method: bytes, message: bytes, done: Callable[[AppResponse | AppFailure], None]
    ) -> None:
        self.method = method
        self.message = message
        self.done = done
        self.cancelled = False
        #: Where it is: at work on a connection, or waiting for one in a queue.
        self.connection: AppConnection | None = None
        self.queue: deque[Call] | None = None

    def cancel(self) -> None:
        """Nobody waits for the answer: tell the application so by closing its connection."""
        self.cancelled = True
        if self.connection is not None:
            self.connection.abort()
        elif self.queue is not None:
            self.queue.remove(self)
            self.queue = None


class Pool(Protocol):
    """What a connection tells its pool."""

    @property
    def max_body(self) -> int:
        """Bytes that a response body may have."""

    def rest(self, connection: AppConnection) -> None:
        """Hear that the connection is free for another call."""

    def forget(self, connection: AppConnection) -> None:
        """Hear that the connection is gone."""

    def end(self, call: Call, result: AppResponse | AppFailure) -> None:
        """Hear what became of a call."""


class _Stop(Exception):
    """Raised inside a callback of httptools: nothing of what is left may be parsed."""


class AppConnection(asyncio.Protocol):
    """One connection to the application, at work on at most one call."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self.call: Call | None = None
        self.idle_since = 0.0
        self.usable = False
        self._response: AppResponse | None = None
        self._failure: AppFailure | None = None
        self._reusable = False
        self._fed = 0
        self._interim = 0
        self._begin()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.usable = True

    def start(self, call: Call) -> None:
        """Send a call's request; its end is told to the pool."""
        self.call = call
        self._interim = 0
        call.connection = self
        self._transport.write(call.message)

    def abort(self) -> None:
        """Close at once; the call at work, if any, hears nothing more."""
        self.usable = False
        self.call = None
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        call, self.call = self.call, None
        self._pool.forget(self)
        if call is None:
            return
        if self._until_close and exc is None:
            # A response without length ends with the connection (RFC 9112 section 6.3).
            self._pool.end(call, self._collected())
        else:
            failure = AppFailure(True, "application_reset", "the application closed the connection")
            self._pool.end(call, failure)

    def data_received(self, data: bytes) -> None:
        if self.call is None:
            self.abort()  # an answer to nothing
            return
        self._fed = len(data)
        self._unparsed += self._fed
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if self._failure is None:
                self._failure = _bad(f"is not valid HTTP/1.1: {error}")
        if self._response is not None:
            self._hand_over(self._response)
        elif self._failure is not None or self._unparsed > MAX_HEADER_BYTES or self._count > MAX_HEADER_LINES:
            self._fail(self._failure or _too_many_headers())

    def _hand_over(self, response: AppResponse) -> None:
        """A response is whole: the connection takes the next call, if nothing speaks against it."""
        call, self.call, self._response = self.call, None, None
        if self._reusable and self.usable:
            if call is not None and call.method == b"HEAD":
                # The parser cannot be told that the body announced here never comes.
                self._parser = httptools.HttpResponseParser(self)
            self._pool.rest(self)
        else:
            self.usable = False
            self._transport.close()
        if call is not None:
            self._pool.end(call, response)

    def _fail(self, failure: AppFailure) -> None:
        call = self.call
        self.abort()
        if call is not None:
            self._pool.end(call, failure)

    # -- what httptools calls --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._response is not None:
            self._reusable = False  # a second response to one request
            raise _Stop
        self._begin()

    def _begin(self) -> None:
        self._reason = b""
        self._lines: list[bytes] = []
        self._count = 0
        self._body: list[bytes] = []
        self._size = 0
        self._length: int | None = None
        self._chunked = False
        self._until_close = False
        self._in_head = True
        #: Bytes received after those in which the response began, or since the last of its body.
        self._unparsed = 0
        self._began_in = self._fed

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer
            return
        self._count += 1
        lower = name.lower()
        if lower == b"content-length":
            value = value.rstrip(b" \t")  # llhttp leaves blanks at the end of a value
            if self._length is not None or not value.isdigit():
                self._refuse(_bad("has more than one content-length"))
            self._length = int(value)
        elif lower == b"transfer-encoding":
            if self._chunked or value.rstrip(b" \t").lower() != b"chunked":
                self._refuse(_bad("has a transfer-encoding other than chunked"))
            self._chunked = True
        elif lower not in _DROPPED and lower[:10] != OWN_PREFIX:
            self._lines += (name, b": ", value, b"\r\n")

    def on_headers_complete(self) -> None:
        self._in_head = False
        status = self._parser.get_status_code()
        if not 200 <= status <= 599:
            if status not in _INTERIM:
                self._refuse(_unexpected(status))
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._refuse(_bad(f"comes after more than {MAX_INTERIM} interim ones"))
            return
        if self._count > MAX_HEADER_LINES or (
            self._began_in + self._unparsed > MAX_HEADER_BYTES and self._head_size() > MAX_HEADER_BYTES
        ):
            self._refuse(_too_many_headers())
        if self._chunked and self._length is not None:
            self._refuse(_bad("has both transfer-encoding and content-length"))
        if _REASON.fullmatch(self._reason) is None:
            self._reason = b""
        call = self.call
        if call is not None and call.method == b"HEAD":
            self._response = self._collected()
            self._reusable = self._parser.should_keep_alive()
        elif self._length is None and not self._chunked and status not in (204, 304):
            self._until_close = True

    def _head_size(self) -> int:
        return len(self._reason) + sum(map(len, self._lines))

    def on_body(self, body: bytes) -> None:
        if self._response is not None:
            self._reusable = False  # the body of a response that has none
            raise _Stop
        self._unparsed = 0
        self._size += len(body)
        if self._size > self._pool.max_body:
            message = f"a response body may have {self._pool.max_body} bytes; larger ones are not relayed yet"
            self._refuse(AppFailure(True, "response_too_large", message))
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._response is None and self._parser.get_status_code() >= 200:
            self._response = self._collected()
            self._reusable = self._parser.should_keep_alive()

    def _refuse(self, failure: AppFailure) -> None:
        self._failure = failure
        raise _Stop

    def _collected(self) -> AppResponse:
        body = self._body
        block = b"".join(self._lines)
        if b"_" in block:
            block = b"".join(without_disguised(self._lines, _DROPPED))
        return AppResponse(
            self._parser.get_status_code(),
            self._reason,
            block,
            b"" if not body else body[0] if len(body) == 1 else b"".join(body),
            self._length,
        )

    def __repr__(self) -> str:
        state = "at work" if self.call is not None else "idle" if self.usable else "closed"
        return f"<AppConnection {state}>"


def _bad(what: str) -> AppFailure:
    return AppFailure(True, "bad_response", f"the application's response {what}")


def _unexpected(status: int) -> AppFailure:
    if status == 101:
        message = "the application switched protocols, which nobody asked for"
        return AppFailure(True, "upgrade_not_supported", message)
    return _bad(f"has the status {status}")


def _too_many_headers() -> AppFailure:
    message = f"a response may have {MAX_HEADER_LINES} header lines of {MAX_HEADER_BYTES} bytes in all"
    return AppFailure(True, "response_headers_too_large", message)
