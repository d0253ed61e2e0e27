"""One request at the application, as its agent sees it: both bodies on their way, and what came of it."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

from busmesh.decide.authz.engine import Decision
from busmesh.errors import RemoteProtocolError
from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.flow import Gate, Receiver, Sender
from busmesh.relay.inbound.peer import Peer
from busmesh.relay.inbound.websocket import GOING_AWAY, FrameCutter
from busmesh.telemetry.spans import Span
from busmesh.wire.frame import Kind
from busmesh.wire.http import Refusal, WireRequest, encode_refusal, encode_response
from busmesh.wire.stream import Opening, encode_opening


class Keeper(Protocol):
    """Who knows all that is at work here, and sends for it.

    Attributes:
        gate: the bus, for bodies in parts.
    """

    gate: Gate

    @property
    def chunk(self) -> int:
        """Bytes of a body in one frame."""

    @property
    def instance(self) -> str:
        """The name of this instance."""

    def send(
        self, peer: Peer, kind: int, stream: int, plaintext: bytes, *, tell_if_gone: bool = False
    ) -> None:
        """Send a frame to a caller."""

    def done(self, work: Work, result: AppResponse | AppFailure) -> None:
        """Hear what became of a call whose response comes in one piece."""

    def begun(self, work: Work) -> None:
        """Hear that a response has begun and goes back in parts."""

    def sent(self, work: Work) -> None:
        """Hear that such a response was sent to its end."""

    def over(self, work: Work) -> None:
        """Hear that nothing more comes of it."""


class Work:
    """One request at the application. It consumes the response that comes in parts.

    Attributes:
        deadline: monotonic seconds; of the response's beginning, or of its end if the caller says so.
        moved: when either body last got on, for a response in parts.
        spent: the response's failure comes from further on, where it was tried again already.
        status: what went back.
        flags: response flags; empty for the application's own response.
        upload: the request's body, if it comes in parts.
        download: the response's body, once it goes in parts.
    """

    __slots__ = (
        "_frames",
        "_inbound",
        "_leaving",
        "call",
        "deadline",
        "download",
        "flags",
        "key",
        "moved",
        "opening",
        "peer",
        "request",
        "span",
        "spent",
        "started",
        "status",
        "stream",
        "switched",
        "trace",
        "upload",
    )

    def __init__(
        self,
        inbound: Keeper,
        peer: Peer,
        stream: int,
        request: WireRequest,
        opening: Opening | None,
        deadline: float,
        started: float,
    ) -> None:
        self._inbound = inbound
        self.key = (peer.session.number, stream)
        self.peer = peer
        self.stream = stream
        self.request = request
        self.opening = opening
        self.deadline = deadline
        self.started = self.moved = started
        self.call: Call | None = None
        #: Its trace id, if the calls that the application makes for it find it by that.
        self.trace = b""
        self.spent = False
        self.span: Span | None = None
        self.status = 0
        self.flags = ""
        self.switched = False
        self._frames: FrameCutter | None = None
        self._leaving = False
        self.upload: Receiver | None = None
        self.download: Sender | None = None

    @property
    def size(self) -> int:
        """Bytes of the request's body that came."""
        return self.upload.size if self.upload is not None else len(self.request.body)

    @property
    def under_way(self) -> bool:
        """Whether a body is on its way; else the application is at work and takes its time."""
        return self.status != 0 or (self.call is not None and not self.call.finished)

    @property
    def attempt(self) -> int:
        return self.request.attempt

    def done(self, result: AppResponse | AppFailure) -> None:
        """Hear that the application answered, in one piece, or did not."""
        self.call = None  # work and call hold each other: let go, or the collector must
        self._inbound.done(self, result)

    def emit(self, kind: Kind, plaintext: bytes) -> None:
        """Send a frame of this stream; the bus says if nobody gets it."""
        self._inbound.send(self.peer, kind, self.stream, plaintext, tell_if_gone=True)

    # -- what the caller sends -------------------------------------------------------------------

    def take_data(self, number: int, data: bytes) -> None:
        """Take a part of the request's body.

        Raises:
            RemoteProtocolError: a part is missing, or it is more than was granted or declared.
        """
        upload, call, opening = self.upload, self.call, self.opening
        if upload is None or call is None or opening is None or call.finished:
            raise RemoteProtocolError("a part of a body that has ended")
        if opening.upgrade and not self.switched:
            raise RemoteProtocolError("another protocol before it was switched to")
        upload.data(number, len(data))
        if opening.length is not None and upload.size > opening.length:
            raise RemoteProtocolError("more of a body than was declared")
        self.moved = time.monotonic()
        call.write(data)
        upload.placed()

    def take_end(self, number: int, trailers: bytes) -> None:
        """Take the end of the request's body.

        Raises:
            RemoteProtocolError: something is missing before it.
        """
        upload, call, opening = self.upload, self.call, self.opening
        if upload is None or call is None or opening is None or call.finished:
            raise RemoteProtocolError("a second end of a body")
        upload.end(number)
        if opening.length is not None and upload.size != opening.length:
            raise RemoteProtocolError("less of a body than was declared")
        call.end(trailers)
        if self.switched and self.download is not None and self.download.ended:
            self._inbound.over(self)

    # -- what the application sends, in parts ----------------------------------------------------

    def interim(self, status: int, reason: bytes, headers: bytes) -> None:
        self.emit(Kind.INTERIM, encode_response(status, reason, headers, b""))

    def begin(self, response: AppResponse, opening: Opening) -> None:
        self.status = response.status
        self.switched = bool(opening.upgrade)
        if opening.upgrade.lower() == b"websocket":
            self._frames = FrameCutter()
        self._inbound.begun(self)
        head = encode_response(*response._replace(declared=None), self.spent)
        self.emit(Kind.RESPONSE_OPENING, encode_opening(opening, head))
        source = self.call.connection if self.call is not None else None
        assert source is not None, "a response comes over a connection"
        done = partial(self._inbound.sent, self)
        self.download = Sender(self.emit, source, self._inbound.gate, self._inbound.chunk, done)

    def data(self, data: bytes) -> None:
        if self.download is None:
            return
        self.moved = time.monotonic()
        frames = self._frames
        if frames is None:
            self.download.write(data)
        elif not (self._leaving and frames.closing):  # nothing follows a Close
            boundary = frames.feed(data)
            if self._leaving and boundary and not frames.closing:
                data = data[:boundary] + GOING_AWAY
                frames.closing = True
            self.download.write(data)

    def go_away(self) -> None:
        """Tell a WebSocket's client to go, as soon as no frame is under way."""
        frames = self._frames
        if frames is not None and not frames.closing and self.download is not None:
            self._leaving = True
            if frames.between:
                frames.closing = True
                self.download.write(GOING_AWAY)

    def end(self, trailers: bytes) -> None:
        if self.download is None:
            return
        self.download.detach()
        self.download.end(trailers)

    def grant(self, total: int) -> None:
        """Hear how much of the response the caller takes."""
        if self.download is not None:
            self.moved = time.monotonic()
            self.download.grant(total)

    def reset(self, failure: AppFailure) -> None:
        message = f"{self._inbound.instance}: {failure.message}"
        self.break_off(Refusal(True, 502, "UF", failure.code, message))

    # -- ends ------------------------------------------------------------------------------------

    def break_off(self, refusal: Refusal) -> None:
        """Tell the caller that no more comes of a response that has begun."""
        self.emit(Kind.RESET, encode_refusal(refusal))
        self.flags = refusal.flags
        self._inbound.over(self)

    def stop(self) -> None:
        """Let go of everything: the application's connection is closed if it is at work."""
        call, self.call = self.call, None
        if call is not None and (call.connection is not None or call.queue is not None):
            call.cancel()
        if self.download is not None:
            self.download.close()
        if self.upload is not None:
            self.upload.close()
            self.upload = None


class Observer(Protocol):
    """Who hears of each request that came in: telemetry."""

    def begin_inbound(self, work: Work) -> bytes:
        """Return the header block for the application, with this hop's trace context in it."""

    def judged(self, peer: Peer, request: WireRequest, decision: Decision) -> None:
        """Hear of a request that was denied, or would be by a policy in dry run, or is audited."""

    def end_inbound(self, work: Work, size: int) -> None:
        """Hear that ``work.status`` and ``work.flags`` went back, with a body of ``size`` bytes."""
