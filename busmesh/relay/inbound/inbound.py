"""From a sealed request on the bus to the local application, and back to the caller sealed.

Only frames of a session count: there is no other way to the application through the agent, so every
request that arrives comes from a proven identity. Where the answer goes follows from that identity, never
from the reply subject of the message, which anybody on the bus can write.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from busmesh.bus.bus import Bus
from busmesh.bus.messages import is_no_responders
from busmesh.decide.ratelimit import RateLimiter, retry_after
from busmesh.decide.request import RequestHead
from busmesh.errors import RemoteProtocolError
from busmesh.names import SpiffeId, Subjects
from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.pool import Application
from busmesh.relay.application.rendering import render_opening, render_request
from busmesh.relay.contexts import Contexts
from busmesh.relay.flow import STREAM_IDLE_S, STREAM_TICK_S, Gate, Receiver, Windows
from busmesh.relay.inbound.access import Access
from busmesh.relay.inbound.peer import Peer
from busmesh.relay.inbound.work import Observer, Work
from busmesh.relay.replies import Replies
from busmesh.relay.ticker import Ticker
from busmesh.telemetry.tally import Tally
from busmesh.telemetry.tracecontext import TRACE_ID_IN_BLOCK
from busmesh.wire.frame import OVERHEAD, FrameError, Kind, Session, read_header, unknown_session
from busmesh.wire.http import Refusal, WireRequest, decode_request, encode_refusal, encode_response
from busmesh.wire.probe import ProbeState, decode_probe, encode_probe_result
from busmesh.wire.stream import Opening, data_size, decode_credit, decode_data, decode_end, decode_opening

log = logging.getLogger(__name__)

TICK_S = 0.01
#: "Unknown session" is written unsealed to whoever asks, so it is bounded per second.
MAX_NOTICES_PER_S = 1000
MAX_SESSIONS = 8192
#: Of one caller, which has one for each of its workers, at most 64, and for a while the one before. Above it
#: the caller's own oldest ends, so whoever opens one after the other ends nobody else's.
MAX_SESSIONS_OF_ONE = 256
#: Requests at work at once; above it they are refused, not processed (Envoy's default).
MAX_ACTIVE = 1024
#: How long a caller may be silent that says a word each second while it has streams here.
SILENT_S = 5.0
#: "Nobody took this" comes unsealed, so anybody on the bus can write it: a caller that says a word after it
#: is not gone.
GONE_S = 2.0

#: A deadline is the caller's: it says so when it has passed. The work for one that does not ends later, by:
GRACE_S = 0.02

#: What each request looks at, as plain numbers: a look into an enum costs twice what the comparison does.
_REQUEST, _RESPONSE = int(Kind.REQUEST), int(Kind.RESPONSE)
_OF_A_STREAM = frozenset((Kind.DATA, Kind.CREDIT, Kind.END, Kind.RESET))

#: What an application's failure means to the caller: DPE stands for what would end the same elsewhere.
_FLAGS = {
    "overflow": "UO",
    "response_too_large": "DPE",
    "response_headers_too_large": "DPE",
    "upgrade_not_supported": "DPE",
}


class Inbound:
    """The receiver's side of the mesh.

    Args:
        bus: the connection to answer on.
        subjects: the mesh's subjects.
        me: this instance's identity.
        application: where requests go.
        observer: telemetry.
        limiter: rate limits of this instance's service.
        contexts: where the calls of the application find the requests that they are made for.
        max_active: requests at work at once.

    Attributes:
        access: what the policies in force say of who may do what; None if they say nothing of this instance.
        served: requests that were at work and are over; ``failed`` are those with a status of 500 or more.
        refused: requests that were not taken.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        subjects: Subjects,
        me: SpiffeId,
        application: Application,
        observer: Observer,
        limiter: RateLimiter | None = None,
        contexts: Contexts | None = None,
        max_active: int = MAX_ACTIVE,
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._me = me
        self._application = application
        self._observer = observer
        self._limiter = limiter
        self._contexts = contexts if contexts is not None else Contexts()
        self._max_active = max_active
        self.access: Access | None = None
        self._peers: OrderedDict[int, Peer] = OrderedDict()
        self._numbers: dict[SpiffeId, dict[int, None]] = {}  # of the sessions of each caller, oldest first
        #: What awaits a response, and what has one that is still on its way, by session and stream.
        self._work: dict[tuple[int, int], Work] = {}
        self._streams: dict[tuple[int, int], Work] = {}
        self.gate = Gate(lambda: bus.busy)
        bus.on_writable(self.gate.open)
        bus.on_connection(self._on_connection)
        self._windows = Windows()
        self._notices = 0
        self._notice_second = 0
        self._replies = Replies(subjects.root, "reply", me.instance)
        self._ticker = Ticker(TICK_S, self._tick)
        self._stream_ticker = Ticker(STREAM_TICK_S, self._tick_streams)
        self._malformed = Tally(log, "malformed requests")
        self.served = self.failed = self.refused = 0
        self.bad_frames = 0
        #: Frames of sessions that do not stand here: made with an agent from before, ended, or made up.
        self.unknown_sessions = 0
        #: Why no request is taken at present, told to callers; they try elsewhere. Empty: requests are taken.
        self.closed_because = ""

    def add_session(self, session: Session, fingerprint: str) -> None:
        """Accept frames of a session whose handshake is complete."""
        if session.number in self._peers:
            self._forget(session.number)
        self._peers[session.number] = Peer(session, self._subjects, self._me, fingerprint)
        own = self._numbers.setdefault(session.peer, {})
        own[session.number] = None
        if len(own) > MAX_SESSIONS_OF_ONE:
            self._forget(next(iter(own)))
        elif len(self._peers) > MAX_SESSIONS:
            self._forget(next(iter(self._peers)))

    def _forget(self, number: int) -> None:
        peer = self._peers.pop(number).session.peer
        own = self._numbers[peer]
        del own[number]
        if not own:
            del self._numbers[peer]

    def forget_sessions(self, older_than: float) -> None:
        """Drop sessions made before ``older_than`` (monotonic seconds) that are not at work."""
        at_work = {number for number, _ in (*self._work, *self._streams)}
        for number in [n for n, p in self._peers.items() if p.since < older_than and n not in at_work]:
            self._forget(number)

    def close_sessions(self, which: Callable[[Session], bool]) -> int:
        """End the sessions that ``which`` names, and what they have at work here; return how many."""
        ended = {number for number, peer in self._peers.items() if which(peer.session)}
        if not ended:
            return 0
        for work in [*self._streams.values(), *self._work.values()]:
            if work.key[0] in ended:
                work.flags = work.flags or "RBAC"
                self._cancelled(work)
        for number in ended:
            self._forget(number)
        return len(ended)

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
            if kind == _REQUEST:
                self._request(peer, stream, decode_request(plaintext), None)
            else:
                self._other(kind, peer, stream, plaintext)
        except FrameError:
            self.bad_frames += 1
        except RemoteProtocolError as error:
            # Sealed by a proven peer, and still not what an agent writes.
            self.bad_frames += 1
            if peer is not None:
                self._malformed.add(f"{error}, from {peer.session.peer}")
                self._refuse(peer, stream, Refusal(False, 400, "DPE", "malformed_request", str(error)))

    def _other(self, kind: int, peer: Peer, stream: int, plaintext: bytes) -> None:
        """Take a frame that is not a request in one piece."""
        peer.heard = time.monotonic()
        peer.gone = 0.0
        if kind == Kind.REQUEST_OPENING:
            opening, message = decode_opening(plaintext)
            self._request(peer, stream, decode_request(message), opening)
            return
        if kind == Kind.PROBE:
            self._answer_probe(peer, stream, decode_probe(plaintext))
            return
        if kind not in _OF_A_STREAM:
            self.bad_frames += 1
            return
        key = (peer.session.number, stream)
        work = self._work.get(key) or self._streams.get(key)
        if work is None:
            return  # it has ended meanwhile, and its caller will have heard so
        try:
            if kind == Kind.DATA:
                work.take_data(*decode_data(plaintext))
            elif kind == Kind.CREDIT:
                work.grant(decode_credit(plaintext))
            elif kind == Kind.END:
                work.take_end(*decode_end(plaintext))
            else:
                self._cancelled(work)
        except RemoteProtocolError as error:
            self.bad_frames += 1
            self._malformed.add(f"{error}, from {peer.session.peer}")
            self._broken(work, Refusal(True, 502, "UF", "stream_broken", str(error)))

    def _unknown_session(self, number: int, stream: int, reply: bytes) -> None:
        self.unknown_sessions += 1
        second = int(time.monotonic())
        if second != self._notice_second:
            self._notice_second, self._notices = second, 0
        self._notices += 1
        to = self._replies.to(reply)
        if self._notices > MAX_NOTICES_PER_S or to is None:
            self.bad_frames += 1
            return
        frame = unknown_session(number, stream)
        self._bus.write(b"PUB %b %d\r\n%b\r\n" % (to, len(frame), frame))

    def _request(self, peer: Peer, stream: int, request: WireRequest, opening: Opening | None) -> None:
        now = time.monotonic()
        left = (request.deadline_ms - peer.session.now_ms(now)) / 1000
        if left <= 0:
            self._refuse(
                peer, stream, Refusal(False, 504, "UT", "too_late", "the deadline passed on the way")
            )
            return
        if self.closed_because:
            message = f"{self._me.instance} takes no requests: {self.closed_because}"
            self._refuse(peer, stream, Refusal(False, 503, "UH", "not_serving", message))
            return
        if len(self._work) + len(self._streams) >= self._max_active:
            message = f"{self._me.instance} works on {self._max_active} requests already"
            self._refuse(peer, stream, Refusal(False, 503, "UO", "overflow", message))
            return
        key = (peer.session.number, stream)
        if key in self._work or key in self._streams:
            # One answer per stream: a second request would hide the first from the limit.
            self.bad_frames += 1
            return
        peer.heard = now
        access = self.access
        if access is not None:
            admitted = access.admit(peer, request)
            if isinstance(admitted, Refusal):
                self._refuse(peer, stream, admitted)
                return
            request = admitted
        limiter = self._limiter
        if not (limiter is None or limiter.idle or self._within_limits(limiter, peer, stream, request, now)):
            return
        work = Work(self, peer, stream, request, opening, now + left, now)
        if opening is not None:
            self._open(work, opening)
        self._work[key] = work
        block = self._observer.begin_inbound(work)
        trace = block[TRACE_ID_IN_BLOCK]
        if self._contexts.begin(trace, work):
            work.trace = trace
        if opening is None:
            message_bytes = render_request(request.method, request.target, block, request.body)
        else:
            message_bytes = render_opening(request.method, request.target, block, request.body, opening)
        work.call = Call(request.method, message_bytes, work.done, opening, work, work.upload)
        self._application.send(work.call)
        self._ticker.wake()
        if opening is not None and work.upload is not None and request.body:
            work.upload.placed()

    def _within_limits(
        self, limiter: RateLimiter, peer: Peer, stream: int, request: WireRequest, now: float
    ) -> bool:
        """Ask the rate limits; a caller over one hears so, and when to ask again."""
        service = peer.session.peer.service
        if service is None:
            return True
        head = RequestHead.from_block(request.method, request.target, request.headers)
        verdict = limiter.check(service, head, now)
        if verdict.allowed:
            return True
        message = f"{service} is over the limit {verdict.limit} of {self._me.service}"
        wait = retry_after(verdict.wait)
        self._refuse(peer, stream, Refusal(False, 429, "RL", "rate_limited", message, wait))
        return False

    def _open(self, work: Work, opening: Opening) -> None:
        """Prepare for a body that follows.

        Raises:
            RemoteProtocolError: what is here of it already is not what an agent sends.
        """
        body = work.request.body
        if (opening.length is not None and len(body) > opening.length) or (opening.upgrade and body):
            raise RemoteProtocolError("more of a body than was declared")
        work.upload = Receiver(work.emit, self._windows)
        self._stream_ticker.wake()
        try:
            work.upload.opened(len(body))
        except RemoteProtocolError:
            work.stop()
            raise

    def done(self, work: Work, result: AppResponse | AppFailure) -> None:
        """Hear what became of a call, unless its response comes in parts."""
        if self._work.pop(work.key, None) is None:
            return
        if isinstance(result, AppFailure):
            status = 502 if result.processed else 503
            flags = _FLAGS.get(result.code, "UF")
            message = f"{self._me.instance}: {result.message}"
            self._end(work, Refusal(result.processed, status, flags, result.code, message))
            return
        plaintext = encode_response(*result, work.spent)
        if len(plaintext) + OVERHEAD > self._bus.max_payload:
            limit = self._bus.max_payload
            message = f"the response of {self._me.instance} exceeds the {limit} bytes that the bus takes"
            self._end(work, Refusal(True, 502, "DPE", "response_too_large", message))
            return
        self.send(work.peer, _RESPONSE, work.stream, plaintext)
        work.status = result.status
        if work.upload is not None:
            work.stop()
        self._ended(work, len(result.body))

    def _ended(self, work: Work, size: int) -> None:
        """A request is over: forget it, and let telemetry hear of it."""
        if work.trace:
            self._contexts.end(work.trace)
        self.served += 1
        if work.status >= 500:
            self.failed += 1
        self._observer.end_inbound(work, size)

    def _end(self, work: Work, refusal: Refusal) -> None:
        """End what has no response yet, in this agent's name."""
        self._refuse(work.peer, work.stream, refusal)
        work.status, work.flags = refusal.status, refusal.flags
        work.stop()
        self._ended(work, 0)

    def _refuse(self, peer: Peer, stream: int, refusal: Refusal) -> None:
        self.refused += 1
        self.send(peer, Kind.REFUSAL, stream, encode_refusal(refusal))

    def send(
        self, peer: Peer, kind: int, stream: int, plaintext: bytes, *, tell_if_gone: bool = False
    ) -> None:
        """Send a frame to a caller; it is told on the subject of the gone if nobody gets it, if asked."""
        frame = peer.session.seal(kind, stream, plaintext)
        if tell_if_gone:
            gone = b" %b%d" % (peer.gone_head, stream)
            self._bus.write(b"%b%b %d\r\n%b\r\n" % (peer.reply_head, gone, len(frame), frame))
        else:
            self._bus.write(b"%b %d\r\n%b\r\n" % (peer.reply_head, len(frame), frame))

    # -- responses in parts ------------------------------------------------------------------------

    def begun(self, work: Work) -> None:
        """Hear that the response to ``work`` has begun and goes back in parts."""
        self._work.pop(work.key, None)
        self._streams[work.key] = work
        if not work.request.until_the_end:
            work.deadline = math.inf
        self._stream_ticker.wake()

    def go_away(self) -> None:
        """Tell those who stay until they are told to go elsewhere: this instance is draining."""
        for work in list(self._streams.values()):
            work.go_away()

    def sent(self, work: Work) -> None:
        """Hear that a response was sent to its end."""
        call = work.call
        if not work.switched or call is None or call.finished:
            self.over(work)

    def over(self, work: Work) -> None:
        """Forget a request whose response had begun."""
        if self._streams.pop(work.key, None) is not None:
            work.stop()
            self._ended(work, work.download.size if work.download is not None else 0)

    def _broken(self, work: Work, refusal: Refusal) -> None:
        """Something is wrong with a stream that nothing mends."""
        if work.key in self._streams:
            work.break_off(refusal)
        elif self._work.pop(work.key, None) is not None:
            self._end(work, refusal)

    def _cancelled(self, work: Work) -> None:
        """The caller waits no longer."""
        work.flags = work.flags or "DC"
        if work.key in self._streams:
            self.over(work)
        elif self._work.pop(work.key, None) is not None:
            work.status = 499
            work.stop()
            self._ended(work, 0)

    def on_gone(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Hear that nobody took a part of a response: its caller is gone, or somebody says so."""
        if not is_no_responders(headers):
            self.bad_frames += 1
            return
        session = subject[subject.rfind(b".") + 1 :].partition(b"-")[0]
        try:
            peer = self._peers.get(int(session, 16))
        except ValueError:
            peer = None
        if peer is not None and not peer.gone:
            peer.gone = time.monotonic()

    def _on_connection(self, standing: bool) -> None:
        """Without the bus a stream has a gap: its caller gives it up as well."""
        if not standing:
            for work in [*self._streams.values(), *self._work.values()]:
                if work.key in self._streams or work.upload is not None:
                    self._cancelled(work)

    def _answer_probe(self, peer: Peer, stream: int, counter: int) -> None:
        key = (peer.session.number, stream)
        if key in self._work or key in self._streams:
            state = ProbeState.AT_WORK
        elif peer.session.window.accept(counter):
            state = ProbeState.NEVER_SEEN  # and never accepted from now on
        else:
            state = ProbeState.ANSWERED
        self.send(peer, Kind.PROBE_RESULT, stream, encode_probe_result(state))

    # -- time ------------------------------------------------------------------------------------

    def _tick(self, now: float) -> bool:
        """End what its caller has stopped waiting for, at the application too."""
        passed = now - GRACE_S
        for work in [work for work in self._work.values() if passed >= work.deadline]:
            del self._work[work.key]
            message = f"no response from the application of {self._me.instance}"
            self._end(work, Refusal(True, 504, "UT", "timeout", message))
        return bool(self._work)

    def _tick_streams(self, now: float) -> bool:
        """Look after bodies in parts: break off what is late, at rest or without a caller; grant again."""
        uploads = [work for work in self._work.values() if work.upload is not None]
        for work in [*self._streams.values(), *uploads]:
            peer = work.peer
            if now >= work.deadline + GRACE_S:
                self._broken(work, Refusal(True, 504, "UT", "timeout", "the response did not end in time"))
            elif work.under_way and now - work.moved > STREAM_IDLE_S:
                message = f"nothing moved for {STREAM_IDLE_S:g} s"
                self._broken(work, Refusal(True, 504, "UT", "stream_idle", message))
            elif now - peer.heard > SILENT_S or (peer.gone and now - peer.gone > GONE_S):
                self._cancelled(work)
            elif work.upload is not None:
                work.upload.remind()
        return bool(self._streams or uploads)

    @property
    def active(self) -> int:
        return len(self._work) + len(self._streams)

    @property
    def instance(self) -> str:
        return self._me.instance

    @property
    def chunk(self) -> int:
        """Bytes of a body in one frame."""
        return data_size(self._bus.max_payload)

    def statistics(self) -> dict[str, int]:
        return {
            "active": self.active,
            "streams": len(self._streams),
            "sessions": len(self._peers),
            "refused": self.refused,
            "bad_frames": self.bad_frames,
            "unknown_sessions": self.unknown_sessions,
        }

    def __repr__(self) -> str:
        return f"<Inbound active={self.active} sessions={len(self._peers)} refused={self.refused}>"
