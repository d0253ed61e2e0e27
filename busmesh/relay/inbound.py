"""From a sealed request on the bus to the local application, and back to the caller sealed.

Only frames of a session count: there is no other way to the application through the agent, so every
request that arrives comes from a proven identity. Where the answer goes follows from that identity, never
from the reply subject of the message, which anybody on the bus can write.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Protocol

from busmesh.bus.bus import Bus
from busmesh.errors import RemoteProtocolError
from busmesh.names import SpiffeId, Subjects
from busmesh.relay.appconnection import AppFailure, AppResponse, Call
from busmesh.relay.application import Application, render_request
from busmesh.relay.replies import answerable
from busmesh.relay.tally import Tally
from busmesh.relay.ticker import Ticker
from busmesh.telemetry.series import RequestMetrics
from busmesh.telemetry.spans import Span
from busmesh.wire.frame import OVERHEAD, FrameError, Kind, Session, read_header, unknown_session
from busmesh.wire.http import Refusal, WireRequest, decode_request, encode_refusal, encode_response
from busmesh.wire.probe import ProbeState, decode_probe, encode_probe_result

log = logging.getLogger(__name__)

TICK_S = 0.01
#: "Unknown session" is written unsealed to whoever asks, so it is bounded per second.
MAX_NOTICES_PER_S = 1000
MAX_SESSIONS = 8192
#: Requests at work at once; above it they are refused, not processed (Envoy's default).
MAX_ACTIVE = 1024

#: What an application's failure means to the caller: DPE stands for what would end the same elsewhere.
_FLAGS = {
    "overflow": "UO",
    "response_too_large": "DPE",
    "response_headers_too_large": "DPE",
    "upgrade_not_supported": "DPE",
}


class Peer:
    """A session with a caller, and what is prepared once for all its requests."""

    __slots__ = ("certificate_line", "metrics", "reply_head", "session", "since")

    def __init__(self, session: Session, subjects: Subjects, me: SpiffeId, fingerprint: str) -> None:
        self.session = session
        self.since = time.monotonic()
        self.reply_head = b"PUB %b" % subjects.reply_prefix(session.peer.instance).encode()
        # As Envoy's x-forwarded-client-cert: who proved what to whom.
        self.certificate_line = (
            f"x-forwarded-client-cert: By={me};Hash={fingerprint};URI={session.peer}\r\n".encode()
        )
        self.metrics: RequestMetrics | None = None


class Work:
    """One request at the application."""

    __slots__ = ("call", "deadline", "flags", "peer", "request", "span", "started", "status", "stream")

    def __init__(
        self, peer: Peer, stream: int, request: WireRequest, deadline: float, started: float
    ) -> None:
        self.peer = peer
        self.stream = stream
        self.request = request
        self.deadline = deadline
        self.started = started
        self.call: Call | None = None
        self.span: Span | None = None
        self.status = 0
        self.flags = ""


class Observer(Protocol):
    """Who hears of each request that came in: telemetry."""

    def begin_inbound(self, work: Work) -> bytes:
        """Return the header block for the application, with this hop's trace context in it."""

    def end_inbound(self, work: Work, size: int) -> None:
        """Hear that ``work.status`` and ``work.flags`` went back, with a body of ``size`` bytes."""


class Inbound:
    """The receiver's side of the mesh.

    Args:
        bus: the connection to answer on.
        subjects: the mesh's subjects.
        me: this instance's identity.
        application: where requests go.
        observer: telemetry.
        max_active: requests at work at once.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        subjects: Subjects,
        me: SpiffeId,
        application: Application,
        observer: Observer,
        max_active: int = MAX_ACTIVE,
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._me = me
        self._application = application
        self._observer = observer
        self._max_active = max_active
        self._peers: OrderedDict[int, Peer] = OrderedDict()
        self._work: dict[tuple[int, int], Work] = {}
        self._notices = 0
        self._notice_second = 0
        self._replies = answerable(subjects.root, "reply")
        self._ticker = Ticker(TICK_S, self._tick)
        self._malformed = Tally(log, "malformed requests")
        self.refused = 0
        self.bad_frames = 0
        #: Why no request is taken at present, told to callers; they try elsewhere. Empty: requests are taken.
        self.closed_because = ""

    def add_session(self, session: Session, fingerprint: str) -> None:
        """Accept frames of a session whose handshake is complete."""
        self._peers[session.number] = Peer(session, self._subjects, self._me, fingerprint)
        if len(self._peers) > MAX_SESSIONS:
            self._peers.popitem(last=False)

    def forget_sessions(self, older_than: float) -> None:
        """Drop sessions made before ``older_than`` (monotonic seconds) that are not at work."""
        at_work = {work.peer.session.number for work in self._work.values()}
        for number in [n for n, p in self._peers.items() if p.since < older_than and n not in at_work]:
            del self._peers[number]

    # -- a request -------------------------------------------------------------------------------

    def on_relay(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a message on this instance's relay subject."""
        try:
            kind, number, counter, stream = read_header(payload)
            peer = self._peers.get(number)
            if peer is None:
                self._unknown_session(number, stream, reply)
                return
            plaintext = peer.session.open(payload, counter)
            if kind == Kind.REQUEST:
                self._request(peer, stream, decode_request(plaintext))
            elif kind == Kind.PROBE:
                self._answer_probe(peer, stream, decode_probe(plaintext), reply)
            else:
                self.bad_frames += 1
        except FrameError:
            self.bad_frames += 1
        except RemoteProtocolError as error:
            # Sealed by a proven peer, and still not what an agent writes.
            self.bad_frames += 1
            if peer is not None:
                self._malformed.add(f"{error}, from {peer.session.peer}")
                self._refuse(peer, stream, Refusal(False, 400, "DPE", "malformed_request", str(error)))

    def _unknown_session(self, number: int, stream: int, reply: bytes) -> None:
        second = int(time.monotonic())
        if second != self._notice_second:
            self._notice_second, self._notices = second, 0
        self._notices += 1
        if self._notices > MAX_NOTICES_PER_S or self._replies.fullmatch(reply) is None:
            self.bad_frames += 1
            return
        frame = unknown_session(number, stream)
        self._bus.write(b"PUB %b %d\r\n%b\r\n" % (reply, len(frame), frame))

    def _request(self, peer: Peer, stream: int, request: WireRequest) -> None:
        left = (request.deadline_ms - peer.session.now_ms()) / 1000
        if left <= 0:
            self._refuse(
                peer, stream, Refusal(False, 504, "UT", "too_late", "the deadline passed on the way")
            )
            return
        if self.closed_because:
            message = f"{self._me.instance} takes no requests: {self.closed_because}"
            self._refuse(peer, stream, Refusal(False, 503, "UH", "not_serving", message))
            return
        if len(self._work) >= self._max_active:
            message = f"{self._me.instance} works on {self._max_active} requests already"
            self._refuse(peer, stream, Refusal(False, 503, "UO", "overflow", message))
            return
        key = (peer.session.number, stream)
        if key in self._work:
            self.bad_frames += (
                1  # one answer per stream: a second request would hide the first from the limit
            )
            return
        now = time.monotonic()
        work = self._work[key] = Work(peer, stream, request, now + left, now)
        block = self._observer.begin_inbound(work)
        message_bytes = render_request(request.method, request.target, block, request.body)
        work.call = Call(request.method, message_bytes, lambda result: self._done(key, work, result))
        self._application.send(work.call)
        self._ticker.wake()

    def _done(self, key: tuple[int, int], work: Work, result: AppResponse | AppFailure) -> None:
        work.call = None  # work, call and this closure hold each other: let go, or the collector must
        if self._work.pop(key, None) is None:
            return
        if isinstance(result, AppFailure):
            status = 502 if result.processed else 503
            flags = _FLAGS.get(result.code, "UF")
            message = f"{self._me.instance}: {result.message}"
            self._end(work, Refusal(result.processed, status, flags, result.code, message))
            return
        plaintext = encode_response(
            result.status, result.reason, result.headers, result.body, result.declared
        )
        if len(plaintext) + OVERHEAD > self._bus.max_payload:
            limit = self._bus.max_payload
            message = f"the response of {self._me.instance} exceeds the {limit} bytes that the bus takes"
            self._end(work, Refusal(True, 502, "DPE", "response_too_large", message))
            return
        self._send(work.peer, Kind.RESPONSE, work.stream, plaintext)
        work.status = result.status
        self._observer.end_inbound(work, len(result.body))

    def _end(self, work: Work, refusal: Refusal) -> None:
        self._refuse(work.peer, work.stream, refusal)
        work.status, work.flags = refusal.status, refusal.flags
        self._observer.end_inbound(work, 0)

    def _refuse(self, peer: Peer, stream: int, refusal: Refusal) -> None:
        self.refused += 1
        self._send(peer, Kind.REFUSAL, stream, encode_refusal(refusal))

    def _send(self, peer: Peer, kind: Kind, stream: int, plaintext: bytes) -> None:
        frame = peer.session.seal(kind, stream, plaintext)
        self._bus.write(b"%b%d %d\r\n%b\r\n" % (peer.reply_head, stream, len(frame), frame))

    def _answer_probe(self, peer: Peer, stream: int, counter: int, reply: bytes) -> None:
        if (peer.session.number, stream) in self._work:
            state = ProbeState.AT_WORK
        elif peer.session.window.accept(counter):
            state = ProbeState.NEVER_SEEN  # and never accepted from now on
        else:
            state = ProbeState.ANSWERED
        self._send(peer, Kind.PROBE_RESULT, stream, encode_probe_result(state))

    # -- time ------------------------------------------------------------------------------------

    def _tick(self, now: float) -> bool:
        """End what its caller has stopped waiting for, at the application too."""
        for key, work in [(key, work) for key, work in self._work.items() if now >= work.deadline]:
            del self._work[key]
            if work.call is not None:
                work.call.cancel()
                work.call = None
            message = f"no response from the application of {self._me.instance}"
            self._end(work, Refusal(True, 504, "UT", "timeout", message))
        return bool(self._work)

    @property
    def active(self) -> int:
        return len(self._work)

    def statistics(self) -> dict[str, int]:
        return {
            "active": len(self._work),
            "sessions": len(self._peers),
            "refused": self.refused,
            "bad_frames": self.bad_frames,
        }

    def __repr__(self) -> str:
        return f"<Inbound active={len(self._work)} sessions={len(self._peers)} refused={self.refused}>"
