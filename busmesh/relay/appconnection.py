"""One connection to the application: HTTP/1.1, one call at a time, each response parsed strictly.

The application is as little trusted as a caller: its response is taken apart and written anew, and what it
sends beyond one response never answers the next request.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Protocol

import httptools

from busmesh.relay.call import AppFailure, AppResponse, Call
from busmesh.relay.httpdate import date_line
from busmesh.relay.lines import Meanings
from busmesh.relay.outbox import Outbox
from busmesh.wire.http import HOP_BY_HOP, WRITTEN_BY_AGENTS
from busmesh.wire.stream import NOT_IN_TRAILERS, Opening

__all__ = ["AppConnection", "AppFailure", "AppResponse", "Call"]

MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_LINES = 200

#: A body whose length is declared and not above this is awaited, and sent in one piece with its head.
WHOLE = 64 * 1024
#: Interim responses before the final one; more are a way to keep the agent busy.
MAX_INTERIM = 100

#: No longer than what a frame has room for.
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]{0,255}")
_LENGTH, _ENCODING, _UPGRADE, _DATE, _GRPC, _LOAD, _DROP = range(1, 8)
_MEANINGS = Meanings(
    {
        **dict.fromkeys(HOP_BY_HOP | WRITTEN_BY_AGENTS, _DROP),
        b"content-length": _LENGTH,
        b"transfer-encoding": _ENCODING,
        b"upgrade": _UPGRADE,
        b"date": _DATE,
        b"grpc-status": _GRPC,
        b"endpoint-load-metrics": _LOAD,
        b"endpoint-load-metrics-bin": _DROP,
    },
    _DROP,
)
#: Interim responses that the parser knows to have no body; the final one follows (RFC 9110 section 15.2).
_INTERIM = (100, 102, 103)


class Pool(Protocol):
    """What a connection tells its pool.

    Attributes:
        outbox: takes whole requests.
        report: what the application last said of its load, and when (monotonic seconds).
    """

    outbox: Outbox
    report: tuple[bytes, float]

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
    """One connection to the application, at work on at most one call. It is the source of the response."""

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
        self._paused = False
        #: The application keeps up with what it is sent, or what it was sent before.
        self._writable = True
        #: The response goes to the call's consumer in parts.
        self._in_parts = False
        #: The application speaks the protocol that was asked for; what it sends is not HTTP.
        self._switched = False
        self._closed_half = False
        self._begin()

    # -- the request -----------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.usable = True

    def start(self, call: Call) -> None:
        """Send a call's request; its end is told to the pool."""
        self.call = call
        self._interim = 0
        call.connection = self
        if call.upload is not None:
            if self._writable:
                call.upload.resume()
            else:
                call.upload.pause()
        if call.opening is None:
            self._pool.outbox.send(self._transport, call.message)
        else:
            self._transport.write(call.message)
            for data in call.take_early():
                self.write(call, data)
            if call.finished:
                self.finish(call)

    def write(self, call: Call, data: bytes) -> None:
        """Send more of a request's body."""
        assert call.opening is not None, "only an open request has more of a body"
        if self._transport.is_closing():
            return
        if call.opening.length is None and not call.opening.upgrade:
            self._transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            self._transport.write(data)

    def finish(self, call: Call) -> None:
        """Send the end of a request's body."""
        assert call.opening is not None, "only an open request has an end"
        if self._transport.is_closing():
            return
        if call.opening.upgrade:
            self._transport.write_eof()
            self._close_if_over()
        elif call.opening.length is None:
            self._transport.write(b"0\r\n%b\r\n" % call.trailers)

    def pause_writing(self) -> None:
        self._writable = False
        if self.call is not None and self.call.upload is not None:
            self.call.upload.pause()

    def resume_writing(self) -> None:
        self._writable = True
        if self.call is not None and self.call.upload is not None:
            self.call.upload.resume()

    # -- the response ----------------------------------------------------------------------------

    def abort(self) -> None:
        """Close at once; the call at work, if any, hears nothing more."""
        self.usable = False
        self.call = None
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        if not self._switched:
            return False
        self._closed_half = True
        call = self.call
        self._close_if_over()
        if call is not None and call.consumer is not None:
            call.consumer.end(b"")
        return True

    def _close_if_over(self) -> None:
        """A switched connection is over when both sides have sent their end."""
        call = self.call
        if self._closed_half and call is not None and call.finished:
            self.call = call.connection = None
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        call, self.call = self.call, None
        self._pool.forget(self)
        if call is None or call.cancelled:
            return
        if self._until_close and exc is None:
            # A response without length ends with the connection (RFC 9112 section 6.3).
            if self._in_parts and call.consumer is not None:
                call.connection = None
                call.consumer.end(b"")
            else:
                self._pool.end(call, self._collected())
        else:
            self._tell_failure(
                call, AppFailure(True, "application_reset", "the application closed the connection")
            )

    def _tell_failure(self, call: Call, failure: AppFailure) -> None:
        if self._in_parts and call.consumer is not None and not call.cancelled:
            call.connection = None
            call.consumer.reset(failure)
        else:
            self._pool.end(call, failure)

    def data_received(self, data: bytes) -> None:
        call = self.call
        if call is None:
            self.abort()  # an answer to nothing
            return
        if self._switched and call.consumer is not None:
            call.consumer.data(data)
            return
        self._fed = len(data)
        self._unparsed += self._fed
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            if self._failure is None and self._upgrade and self._response is None:
                self._switch(call, data[end.args[0] :])
                return
            self._reusable = False
            self._failure = self._failure or _unexpected(101)
        except httptools.HttpParserError as error:
            self._reusable = False
            if self._failure is None:
                self._failure = _bad(f"is not valid HTTP/1.1: {error}")
        if self._response is not None:
            self._hand_over(self._response)
        elif self._failure is not None or self._unparsed > MAX_HEADER_BYTES or self._too_many():
            self.fail(self._failure or _too_many_headers())
        elif self._has_head and call.consumer is not None:
            self._pass_on(call)

    def _pass_on(self, call: Call) -> None:
        """Hand over what came of a response that does not have to be awaited."""
        consumer = call.consumer
        assert consumer is not None, "checked by the caller"
        if not self._in_parts:
            if self._length is not None and self._length <= WHOLE:
                return
            self._in_parts = True
            consumer.begin(self._head(), Opening(self._length))
        if self._body and self.call is call:
            consumer.data(self._take_body())

    def _switch(self, call: Call, early: bytes) -> None:
        """The application speaks another protocol from here on."""
        assert call.consumer is not None, "an upgrade is asked for by a consumer only"
        self._switched = self._in_parts = True
        call.consumer.begin(self._head(), Opening(upgrade=self._upgrade))
        if early and self.call is call:
            call.consumer.data(early)

    def _hand_over(self, response: AppResponse) -> None:
        """A response is whole: the connection takes the next call, if nothing speaks against it."""
        call, self.call, self._response = self.call, None, None
        in_parts, self._in_parts = self._in_parts, False
        trailers = b"".join(self._trailers)
        if self._reusable and self.usable and (call is None or call.finished):
            if call is not None and call.method == b"HEAD":
                # The parser cannot be told that the body announced here never comes.
                self._parser = httptools.HttpResponseParser(self)
            if not in_parts:
                self._pool.rest(self)
        else:
            self.usable = False
            self._transport.close()
        if call is None:
            return
        consumer = call.consumer
        if consumer is None or not (in_parts or trailers):
            self._pool.end(call, response)
        else:
            if not in_parts:
                consumer.begin(response._replace(body=b"", declared=None), Opening())
            call.connection = None
            if response.body:
                consumer.data(response.body)
            consumer.end(trailers)
        if in_parts and self.usable:
            self.resume_reading()
            self._pool.rest(self)

    def fail(self, failure: AppFailure) -> None:
        """Close at once; the call at work hears why."""
        call = self.call
        self.abort()
        if call is not None:
            self._tell_failure(call, failure)

    # -- what httptools calls --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._response is not None:
            self._reusable = False  # a second response to one request
            raise _Stop
        self._begin()

    def _begin(self) -> None:
        self._reason = b""
        self._lines: list[bytes] = []
        self._dated = self._grpc = False
        self._trailers: list[bytes] = []
        #: Header lines that are in neither list.
        self._others = 0
        self._body: list[bytes] = []
        self._size = 0
        self._length: int | None = None
        self._chunked = False
        self._until_close = False
        self._in_head = True
        #: The head of the final response is whole.
        self._has_head = False
        self._upgrade = b""
        #: Bytes received after those in which the response began, or since the last of its body.
        self._unparsed = 0
        self._began_in = self._fed

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        meaning = _MEANINGS[name]
        if not self._in_head:
            if self._response is not None:
                self._reusable = False  # trailers of a response that has no body
                raise _Stop
            if meaning in (0, _DATE, _GRPC) and name.lower() not in NOT_IN_TRAILERS:
                self._trailers += (name, b": ", value, b"\r\n")
        elif not meaning:  # nearly all
            self._lines += (name, b": ", value, b"\r\n")
        elif meaning == _DATE:
            self._dated = True
            self._lines += (name, b": ", value, b"\r\n")
        elif meaning == _GRPC:
            self._grpc = True
            self._lines += (name, b": ", value, b"\r\n")
        else:
            self._others += 1
            if meaning == _LOAD:
                self._pool.report = (value, time.monotonic())
            elif meaning != _DROP:
                self._frame(meaning, value.rstrip(b" \t"))  # llhttp leaves blanks at the end of a value

    def _frame(self, meaning: int, value: bytes) -> None:
        """Take a header that says where the body ends, or what follows the head."""
        if meaning == _LENGTH:
            if self._length is not None or not value.isdigit():
                self._refuse(_bad("has more than one content-length"))
            self._length = int(value)
        elif meaning == _ENCODING:
            if self._chunked or value.lower() != b"chunked":
                self._refuse(_bad("has a transfer-encoding other than chunked"))
            self._chunked = True
        else:
            self._upgrade = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        status = self._parser.get_status_code()
        if not 200 <= status <= 599:
            self._judge_interim(status)
            return
        if self._too_long():
            self._refuse(_too_many_headers())
        if self._chunked and self._length is not None:
            self._refuse(_bad("has both transfer-encoding and content-length"))
        call = self.call
        self._upgrade = b""
        self._has_head = True
        if call is not None and call.method == b"HEAD":
            self._response = self._collected()
            self._reusable = self._parser.should_keep_alive()
        elif self._length is None and not self._chunked and status not in (204, 304):
            self._until_close = True

    def _judge_interim(self, status: int) -> None:
        """Take a response that is not the final one: pass it on, or switch protocols if asked."""
        call = self.call
        asked = call.opening if call is not None else None
        if status == 101 and asked is not None and asked.upgrade and not self._too_long():
            if self._upgrade.lower() != asked.upgrade.lower():
                self._refuse(_unexpected(status))
            return
        self._upgrade = b""
        if status not in _INTERIM:
            self._refuse(_unexpected(status))
        self._interim += 1
        if self._interim > MAX_INTERIM:
            self._refuse(_bad(f"comes after more than {MAX_INTERIM} interim ones"))
        wanted = status != 100 or (asked is not None and asked.expects)
        if call is not None and call.consumer is not None and wanted and not self._too_long():
            head = self._head()
            call.consumer.interim(status, head.reason, head.headers)

    def _too_many(self) -> bool:
        return self._others + (len(self._lines) + len(self._trailers)) // 4 > MAX_HEADER_LINES

    def _too_long(self) -> bool:
        if self._too_many():
            return True
        return self._began_in + self._unparsed > MAX_HEADER_BYTES and self._head_size() > MAX_HEADER_BYTES

    def _head_size(self) -> int:
        return len(self._reason) + sum(map(len, self._lines))

    def on_body(self, body: bytes) -> None:
        if self._response is not None:
            self._reusable = False  # the body of a response that has none
            raise _Stop
        self._unparsed = 0
        self._size += len(body)
        if self._size > self._pool.max_body and (self.call is None or self.call.consumer is None):
            message = f"a response body may have {self._pool.max_body} bytes here"
            self._refuse(AppFailure(True, "response_too_large", message))
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._response is None and self._parser.get_status_code() >= 200:
            if sum(map(len, self._trailers)) > MAX_HEADER_BYTES or self._too_many():
                self._refuse(_too_many_headers())
            self._response = self._collected()
            self._reusable = self._parser.should_keep_alive()

    def _refuse(self, failure: AppFailure) -> None:
        self._failure = failure
        raise _Stop

    def _head(self, body: bytes = b"") -> AppResponse:
        block = b"".join(self._lines)
        if not self._dated and self._has_head:
            block += date_line()  # RFC 9110 section 6.6.1
        reason = self._reason
        if reason != b"OK" and _REASON.fullmatch(reason) is None:
            reason = b""
        return AppResponse(self._parser.get_status_code(), reason, block, body, self._length, self._grpc)

    def _collected(self) -> AppResponse:
        return self._head(self._take_body())

    def _take_body(self) -> bytes:
        body, self._body = self._body, []
        return b"" if not body else body[0] if len(body) == 1 else b"".join(body)

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
