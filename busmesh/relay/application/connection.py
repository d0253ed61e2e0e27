"""One connection to the application: HTTP/1.1, one call at a time, and what it sends belongs to that call.

What it sends beyond one response never answers the next request.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.parsing import ResponseParser, Speaker
from busmesh.relay.outbox import Outbox
from busmesh.wire.stream import Opening

#: A body whose length is declared and not above this is awaited, and sent in one piece with its head.
WHOLE = 64 * 1024


class Pool(Speaker, Protocol):
    """What a connection tells its pool.

    Attributes:
        outbox: takes whole requests.
    """

    outbox: Outbox

    def rest(self, connection: AppConnection) -> None:
        """Hear that the connection is free for another call."""

    def forget(self, connection: AppConnection) -> None:
        """Hear that the connection is gone."""

    def end(self, call: Call, result: AppResponse | AppFailure) -> None:
        """Hear what became of a call."""


class AppConnection(asyncio.Protocol):
    """One connection to the application, at work on at most one call. It is the source of the response."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: Any = None
        self._parser = ResponseParser(self, pool)
        self.call: Call | None = None
        self.idle_since = 0.0
        self.usable = False
        self._paused = False
        #: The application keeps up with what it is sent, or what it was sent before.
        self._writable = True
        #: The response goes to the call's consumer in parts.
        self._in_parts = False
        #: The application speaks the protocol that was asked for; what it sends is not HTTP.
        self._switched = False
        self._closed_half = False

    # -- the request -----------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.usable = True

    def start(self, call: Call) -> None:
        """Send a call's request; its end is told to the pool."""
        self.call = call
        self._parser.interims = 0
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
        if call is not None and not call.cancelled:
            self._end_with_connection(call, clean=exc is None)
        self._parser.close()

    def _end_with_connection(self, call: Call, *, clean: bool) -> None:
        if self._parser.until_close and clean:
            # A response without length ends with the connection (RFC 9112 section 6.3).
            if self._in_parts and call.consumer is not None:
                call.connection = None
                call.consumer.end(b"")
            else:
                self._pool.end(call, self._parser.collected())
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
        parser = self._parser
        early = parser.feed(data)
        if early is not None:
            self._switch(call, early)
        elif parser.response is not None:
            self._hand_over(parser.response)
        elif parser.failure is not None:
            self.fail(parser.failure)
        elif parser.has_head and call.consumer is not None:
            self._pass_on(call)

    def _pass_on(self, call: Call) -> None:
        """Hand over what came of a response that does not have to be awaited."""
        consumer, parser = call.consumer, self._parser
        assert consumer is not None, "checked by the caller"
        if not self._in_parts:
            if parser.length is not None and parser.length <= WHOLE:
                return
            self._in_parts = True
            consumer.begin(parser.head(), Opening(parser.length))
        if parser.body and self.call is call:
            consumer.data(parser.take_body())

    def _switch(self, call: Call, early: bytes) -> None:
        """The application speaks another protocol from here on."""
        assert call.consumer is not None, "an upgrade is asked for by a consumer only"
        self._switched = self._in_parts = True
        call.consumer.begin(self._parser.head(), Opening(upgrade=self._parser.upgrade))
        if early and self.call is call:
            call.consumer.data(early)

    def _hand_over(self, response: AppResponse) -> None:
        """A response is whole: the connection takes the next call, if nothing speaks against it."""
        parser = self._parser
        call, self.call, parser.response = self.call, None, None
        in_parts, self._in_parts = self._in_parts, False
        trailers = b"".join(parser.trailers)
        if parser.reusable and self.usable and (call is None or call.finished):
            if call is not None and call.method == b"HEAD":
                parser.renew()
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

    def __repr__(self) -> str:
        state = "at work" if self.call is not None else "idle" if self.usable else "closed"
        return f"<AppConnection {state}>"
