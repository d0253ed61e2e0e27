"""One connection of a local client: the requests waiting on it, and how long it may take over what.

At most one request is being served, the next ones wait in order. The body of a request may still be coming
while it is served, and its response may come in parts; neither is kept here longer than it takes to pass on.
What a response looks like is in :mod:`busmesh.relay.client.response`, in which order things are written in
:mod:`busmesh.relay.client.writer`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from busmesh.decide.request import RequestHead
from busmesh.relay.client.answers import Answer
from busmesh.relay.client.parsing import RequestParser
from busmesh.relay.client.rates import Rates
from busmesh.relay.client.refusals import Limits
from busmesh.relay.client.request import Request
from busmesh.relay.client.response import CONTINUE, GRANTED, Framing, Response, interim, last
from busmesh.relay.client.sockets import failed, keep_little_unsent
from busmesh.relay.client.writer import Writer
from busmesh.relay.outbox import Outbox
from busmesh.relay.upload import KEPT
from busmesh.wire.stream import Opening

log = logging.getLogger(__name__)

#: After a refusal the client may still be sending; closing at once would reset the connection and lose the
#: answer, so for so long what comes is read and dropped.
LINGER_S = 2.0
#: What a client may send after asking for another protocol, before the answer: nothing that is not kept here.
MAX_EARLY = 64 * 1024
#: A client that closed its half and then vanished has reset the connection by then.
VANISHED_S = 0.01


class _Tunnel:
    """Takes a CONNECT's place in the queue; what is granted is only that requests may follow."""

    __slots__ = ()


class _Refused:
    """Takes a bad request's place in the queue, so that earlier pipelined ones are answered first."""

    __slots__ = ("answer",)

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


#: Why nothing is read at present, as bits: plain numbers, because each request looks at them and an operation
#: on an enum costs half a microsecond.
_PIPELINE, _QUEUED, _FLOW = 1, 2, 4


class Server(Protocol):
    """What a connection needs of the listener that accepted it.

    Attributes:
        limits: what is admitted.
        outbox: takes whole responses.
        connections: those that stand.
        refused: counts what was no request.
        now: monotonic seconds, moved on once a second.
        closing: no connection is to go on after the response under way.
        handle: takes a request; it answers now or later.
        abandon: hears that the client of a request being served is gone.
    """

    limits: Limits
    outbox: Outbox
    connections: set[Connection]
    refused: int
    now: float
    closing: bool
    handle: Callable[[Request], None]
    abandon: Callable[[Request], None]


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, listener: Server) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._parser = RequestParser(self, listener.limits)
        self._rates = Rates(listener.limits.min_rate)
        self._writer = Writer(listener.outbox, self._rates)
        self._response = Response()
        self._transport: asyncio.Transport | None = None
        self.deadline = 0.0
        self._queue: deque[Request | _Tunnel | _Refused] = deque()
        self._serving: Request | None = None
        #: The request whose body is still coming; it may wait in the queue or be served.
        self._arriving: Request | None = None
        #: Its client need not wait for ``100 Continue``, or does not.
        self._invited = True
        self._stepping = False
        self._holds = 0
        self._writable = True
        self._closing = False
        self._half_closed = False
        #: The other side of a switched connection has sent its end.
        self._answered = False
        self._resting_since = 0.0

    # -- connection events -----------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = self._writer.transport = transport
        keep_little_unsent(transport)
        self._listener.connections.add(self)
        self._rest()
        if len(self._listener.connections) > self._limits.connections:
            self.refused(
                Answer(503, "UO", "too_many_connections", "this agent has too many connections open")
            )
            self._step()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._writer.transport = None
        self._parser.close()
        self._queue.clear()
        self._arriving = None
        self._listener.connections.discard(self)
        if self._serving is not None:
            serving, self._serving = self._serving, None
            self._listener.abandon(serving)

    def eof_received(self) -> bool:
        # A half-closed client may still read its answers.
        self._writer.flush()
        self._half_closed = True
        if self._response.framing is Framing.SWITCHED:
            arriving, self._arriving = self._arriving, None
            if arriving is not None and arriving.upload is not None:
                arriving.upload.end(b"")
            if self._answered and self._serving is not None:
                self._served(self._serving)
            return self._serving is not None
        self._parser.end()
        self._closing = True
        self._step()
        self._look_for_client()
        return self.busy

    def _look_for_client(self) -> None:
        """Find out whether a client that closed its half is still there.

        One that is gone has closed in the same way, and only writing tells: its system then resets the
        connection. An interim response may be written to any HTTP/1.1 client (RFC 9110 section 15.2).
        """
        serving = self._serving
        if serving is None or serving.http10 or self._response.framing:
            return
        self._writer.write(CONTINUE)
        asyncio.get_running_loop().call_later(VANISHED_S, self._cut_vanished)

    def _cut_vanished(self) -> None:
        if self._transport is not None and failed(self._transport):
            self._transport.abort()

    def pause_writing(self) -> None:
        """Serve no more while the client does not read: what it asks for would pile up here."""
        self._writable = False
        self._look_again()
        if self._serving is not None and self._serving.download is not None:
            self._serving.download.pause()

    def resume_writing(self) -> None:
        self._writable = True
        if self._serving is not None and self._serving.download is not None:
            self._serving.download.resume()
        if not self._closing:
            self._rest()
        self._step()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._rates.came += len(data)
        self._parser.feed(data)
        self._step()
        if self._arriving is not None and self._arriving is not self._serving:
            self._hold(_QUEUED)

    def _rest(self) -> None:
        """Set the time by which the client has to do what comes next."""
        now = self._listener.now
        if not self._parser.in_message:
            self._resting_since = now
            self.deadline = now + self._limits.rate_grace
        elif self._parser.in_body:
            self._look_again()
        else:
            self.deadline = now + self._limits.header_timeout

    def _hold(self, why: int) -> None:
        if self._transport is not None and not self._holds:
            self._transport.pause_reading()
        self._holds |= why

    def _release(self, why: int) -> None:
        if self._holds:
            self._holds &= ~why
            if not self._holds and self._transport is not None:
                if self._parser.in_body:
                    self._look_again()  # it was we who did not read
                self._transport.resume_reading()

    def hold_flow(self, held: bool) -> None:
        """Read nothing while whoever takes the body is behind."""
        if held:
            self._hold(_FLOW)
        else:
            self._release(_FLOW)

    # -- what the parser found ---------------------------------------------------------------------

    def begun(self) -> None:
        self.deadline = self._listener.now + self._limits.header_timeout

    def parsed(
        self,
        head: RequestHead,
        authority: bytes,
        traceparent: bytes | None,
        tracestate: bool,
        body: bytes,
        keep_alive: bool,
        http10: bool,
        opening: Opening | None,
    ) -> None:
        request = Request(self, head, authority, traceparent, tracestate, body, keep_alive, http10, opening)
        if opening is not None:
            self._arriving = request
            self._invited = not opening.expects
            self._look_again()
        self._queue.append(request)
        if len(self._queue) >= self._limits.pipelined:
            self._hold(_PIPELINE)

    def body(self, data: bytes) -> None:
        request = self._arriving
        if request is None:  # it was answered already
            return
        if not self._invited:
            self._invite()
        if request.upload is None or (request.upgrade and self._response.framing is not Framing.SWITCHED):
            request.body += data
            if request.upgrade and len(request.body) > MAX_EARLY:
                self._hold(_QUEUED)
            elif not request.upgrade and len(request.body) > KEPT:
                self._hold(_FLOW)  # until somebody takes the body: the rule may have the request wait
        else:
            request.upload.write(data)

    def _invite(self) -> None:
        """From here on the client is to send."""
        self._invited = True
        self._look_again()

    def ended(self, trailers: bytes) -> None:
        request, self._arriving = self._arriving, None
        if request is None:
            return
        if request.upload is None:
            request.complete, request.trailers = True, trailers
            self._release(_FLOW)
        else:
            request.upload.end(trailers)

    def tunnelled(self) -> None:
        self._queue.append(_Tunnel())

    def refused(self, answer: Answer) -> None:
        self._listener.refused += 1
        self._closing = True  # what follows on this connection is not trusted
        arriving, self._arriving = self._arriving, None
        if arriving is not None and arriving is self._serving:
            begun = bool(self._response.framing)
            self._serving = None
            self._listener.abandon(arriving)
            if begun:
                self._writer.reset()
                return
        elif arriving is not None and self._queue and self._queue[-1] is arriving:
            self._queue.pop()
        self._queue.append(_Refused(answer))

    # -- serving ---------------------------------------------------------------------------------

    def _step(self) -> None:
        """Serve what waits, one request after the other; a handler may answer at once or later."""
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._queue and self._serving is None and self._writable and self._transport is not None:
                item = self._queue.popleft()
                if isinstance(item, Request):
                    self._serve(item)
                elif isinstance(item, _Tunnel):
                    self._writer.write(GRANTED)
                    self._rest()
                else:
                    self._queue.clear()
                    self._writer.write(last(item.answer))
                    self._linger()
                    return
        finally:
            self._stepping = False
        if self._holds & _PIPELINE and not self._queue:
            self._release(_PIPELINE)
        if self._closing and self._serving is None and not self._queue:
            self._writer.close()

    def _serve(self, request: Request) -> None:
        self._serving = request
        if self._holds & _QUEUED:
            self._release(_QUEUED)
        try:
            self._listener.handle(request)
        except Exception:
            log.exception("a request could not be handled; this is a fault of the agent")
            request.answer(Answer(500, "UF", "internal_error", "the agent failed; its log says more"))

    def _linger(self) -> None:
        """Close, but go on reading for a while: a client that still sends would lose its answer."""
        self._closing = True
        self._arriving = None
        self._parser.stop()
        if self._writer.end():
            self._release(_PIPELINE | _QUEUED | _FLOW)
            self.deadline = self._listener.now + LINGER_S
        else:
            self._writer.close()

    # -- responses -------------------------------------------------------------------------------

    def write_response(
        self, request: Request, status: int, reason: bytes, headers: bytes, body: bytes, declared: int | None
    ) -> None:
        if self._serving is not request:
            return
        keep = self._may_keep(request) and self._arriving is not request
        self._writer.send(self._response.whole(request, status, reason, headers, body, declared, keep))
        self._served(request)

    def write_interim(self, request: Request, status: int, reason: bytes, headers: bytes) -> None:
        awaited = self._serving is request and not self._response.framing and not request.http10
        if awaited and self._writable:
            self._writer.write(interim(status, reason, headers))
            if status == 100:
                self._invite()

    def begin_response(
        self, request: Request, status: int, reason: bytes, headers: bytes, opening: Opening
    ) -> None:
        if self._serving is not request:
            return
        keep = self._may_keep(request)
        self._writer.write(self._response.begin(request, status, reason, headers, opening, keep))
        if opening.upgrade:
            self._switch(request)

    def _switch(self, request: Request) -> None:
        """From here on the connection carries bytes; what the client sent early belongs to them."""
        self._release(_QUEUED)
        early, request.body = request.body, b""
        if request.upload is not None:
            request.upload.write(early)
            if self._half_closed:
                request.upload.end(b"")

    def write_part(self, request: Request, data: bytes) -> None:
        if self._serving is request:
            line = self._response.part(len(data))
            if line:
                self._writer.write_chunk(line, data)
            else:
                self._writer.write(data)

    def finish_response(self, request: Request, trailers: bytes) -> None:
        if self._serving is not request:
            return
        if self._response.framing is Framing.SWITCHED and not self._half_closed:
            self._answered = True
            self._writer.end()
            return
        end = self._response.end(trailers)
        if end:
            self._writer.write(end)
        self._served(request)

    def break_off(self, request: Request) -> None:
        """End a response that cannot be completed."""
        if self._serving is request:
            self._serving = None
            self._writer.reset()

    def _may_keep(self, request: Request) -> bool:
        return request.keep_alive and not self._listener.closing and not (self._closing and not self._queue)

    def _served(self, request: Request) -> None:
        """The response is written to its end: go on with the next request, or close."""
        self._serving = None
        response = self._response
        switched = response.framing is Framing.SWITCHED
        response.framing = Framing.NONE
        if self._arriving is request and not switched:
            self._linger()
        elif not response.keep or switched:
            self._closing = True
            self._queue.clear()
            self._writer.flush()
            self._look_again()
            self._writer.close()
        else:
            if self._writable:
                self._rest()
            if self._queue or self._closing:
                self._step()

    @property
    def writable(self) -> bool:
        """Whether the client keeps up with what is written to it."""
        return self._writable

    @property
    def busy(self) -> bool:
        return self._serving is not None or bool(self._queue)

    def close_if_idle(self) -> None:
        if not self.busy and not self._parser.in_message:
            self._writer.close()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    # -- time ------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        """Begin to measure how fast the client sends and reads."""
        self._rates.look(self._listener.now, self._writer.unread())
        self.deadline = self._listener.now + self._limits.rate_grace

    def expire(self) -> None:
        """The deadline passed: cut a client that does not read, answer a slow one, close a resting one."""
        transport = self._transport
        if transport is None:
            return
        self._writer.flush()
        if self._rates.reads_too_slowly(self._listener.now, self._writer.unread()):
            self._writer.reset()
        elif self._serving is not None:
            if self._sends_too_slowly():
                self._parser.late()
                self._step()
            else:
                self._look_again()
        elif transport.get_write_buffer_size():
            self._look_again()
        elif transport.is_closing():
            transport.abort()
        elif self._parser.in_message and not self._closing:
            self._parser.late()
            self._step()
        else:
            self._expire_at_rest()

    def _sends_too_slowly(self) -> bool:
        """Say whether the body of the request being served comes too slowly, and not for our reasons."""
        awaited = self._arriving is self._serving and self._parser.in_body and self._invited
        return awaited and not self._holds and self._rates.sends_too_slowly(self._listener.now)

    def _expire_at_rest(self) -> None:
        """Close a connection that has rested long enough, or that only lingers."""
        end = self._resting_since + self._limits.idle_timeout
        if self._closing or self._listener.now >= end:
            self._writer.close()
        elif self._writer.unread():
            self._look_again()
        else:
            self.deadline = end

    def __repr__(self) -> str:
        state = "serving" if self._serving is not None else "resting"
        return f"<Connection {state} waiting={len(self._queue)} framing={self._response.framing.name}>"
