"""Tries: a request sealed for one instance, what comes back, and what silence means.

Each try that :meth:`Tries.send` begins ends in exactly one call to the caller: ``answered``, ``failed`` or
``over``. It is found again by its stream number when something sealed arrives, and by the ticker when nothing
does.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from random import Random
from typing import Protocol

from busmesh.bus.bus import Bus
from busmesh.bus.messages import is_no_responders
from busmesh.decide.retry import IDEMPOTENT, Outcome, outcome_of_refusal
from busmesh.errors import RemoteProtocolError
from busmesh.relay.destination.upstream import Endpoint
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.flow import STREAM_TICK_S, Emit, Gate
from busmesh.relay.ticker import Ticker
from busmesh.relay.tries.exchange import Exchange
from busmesh.relay.tries.flight import Flight
from busmesh.relay.tries.probing import PROBE_AFTER_S, Prober
from busmesh.relay.tries.streams import Streams, decode_interim
from busmesh.wire.frame import OVERHEAD, FrameError, Kind, Session, read_header
from busmesh.wire.http import (
    FINAL,
    SWITCHING,
    Refusal,
    WireResponse,
    decode_refusal,
    decode_response,
    encode_refusal,
    encode_request,
)
from busmesh.wire.probe import ProbeState, decode_probe_result
from busmesh.wire.stream import Opening, decode_credit, decode_opening, encode_opening

log = logging.getLogger(__name__)

#: "Nobody listens" and "unknown session" come unsealed, so anybody on the bus can write them. A request that
#: may not be repeated is believed lost only if the instance, asked, says nothing sealed for so long.
DOUBT_S = 0.1
TICK_S = 0.01
#: What each answer looks at, as plain numbers: a look into an enum costs twice what the comparison does.
_REQUEST, _RESPONSE, _UNKNOWN_SESSION = int(Kind.REQUEST), int(Kind.RESPONSE), int(Kind.UNKNOWN_SESSION)
#: "No deadline" in a frame.
NEVER_MS = (1 << 32) - 1


class TryFailed(Exception):
    """A try that cannot be made: what there is to send does not fit into a frame."""


class Caller(Protocol):
    """Who hears how tries end."""

    def answered(self, exchange: Exchange, response: WireResponse) -> None:
        """The application answered, in one piece."""

    def wants_another(self, exchange: Exchange, response: WireResponse) -> bool:
        """A response begins that comes in parts: say whether another try shall be made instead."""

    def begins(self, exchange: Exchange) -> None:
        """A response begins that comes in parts."""

    def hedges(self, exchange: Exchange) -> bool:
        """A try has its own time behind it, the request has some left: say whether it goes on."""

    def failed(
        self,
        exchange: Exchange,
        outcome: Outcome,
        status: int,
        flags: str,
        code: str,
        message: str,
        *,
        alive: bool = True,
    ) -> None:
        """There is no response; ``alive`` unless the instance is believed dead or nothing reached it."""

    def over(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        """A response in parts has ended, in whatever way."""


class Tries:
    """The tries of one agent.

    Args:
        bus: the connection to publish on.
        upstreams: the instances known.
        caller: hears how they end.
        renew_session: called when an endpoint's session is unknown to it or used up.
        gone: called when the bus said that nobody listens at an endpoint, with the number of the process of
            it that was asked.
        rng: source of the first stream number.

    Attributes:
        sent: tries without a response, by stream number.
        begun: those whose response comes in parts.
    """

    def __init__(
        self,
        bus: Bus,
        upstreams: Upstreams,
        caller: Caller,
        *,
        renew_session: Callable[[Endpoint], None],
        gone: Callable[[Endpoint, int], None],
        rng: Random,
    ) -> None:
        self._bus = bus
        self._upstreams = upstreams
        self._caller = caller
        self._renew_session = renew_session
        self._gone = gone
        self._stream = rng.getrandbits(62)
        self._flight = Flight(PROBE_AFTER_S)
        self.sent = self._flight.sent
        self._prober = Prober(bus, self._silent)
        self.streams = Streams(self.emitter, caller.over)
        self.begun = self.streams.begun
        self.gate = Gate(lambda: bus.busy)
        bus.on_writable(self.gate.open)
        self._ticker = Ticker(TICK_S, self._tick)
        self._stream_ticker = Ticker(STREAM_TICK_S, self._tick_streams)
        self.late_replies = 0
        self.bad_frames = 0

    # -- sending -----------------------------------------------------------------------------------

    def send(self, exchange: Exchange, endpoint: Endpoint, now: float) -> None:
        """Seal a request for ``endpoint`` and publish it; ``exchange.ends`` bounds the try.

        Raises:
            TryFailed: the headers are larger than the bus takes; nothing was sent.
        """
        session = endpoint.session
        assert session is not None, "an endpoint without a session is not usable"
        bus, request, upload = self._bus, exchange.request, exchange.upload
        # A try that is hedged goes on when its own time is up, and the instance must not end it then.
        left = (exchange.deadline if exchange.rule.retries.hedge else exchange.ends) - now
        exchange.endpoint, exchange.session, exchange.sent_at = endpoint, session, now
        head = exchange.head
        plaintext = encode_request(
            session.now_ms(now) + int(left * 1000) if left < math.inf else NEVER_MS,
            len(exchange.tried),
            head.method,
            head.target,
            b"traceparent: %b\r\n%b" % (exchange.traceparent, exchange.request_block()),
            request.body if upload is None else b"",
            exchange.rule.timeout is not None,
        )
        kind = _REQUEST
        if upload is not None:
            kind = int(Kind.REQUEST_OPENING)
            plaintext = encode_opening(request.opening or Opening(len(request.body)), plaintext)
            plaintext += upload.begin(self.emitter(exchange), bus.max_payload - OVERHEAD - len(plaintext))
        if len(plaintext) + OVERHEAD > bus.max_payload:
            raise TryFailed
        if exchange.ends - now < self._flight.look_after:
            self._flight.look_after = exchange.ends - now
        self._stream = stream = self._stream + 1 & 0x7FFF_FFFF_FFFF_FFFF
        exchange.stream, exchange.counter = stream, session.sent
        frame = session.seal(kind, stream, plaintext)
        bus.write(b"%b%d %d\r\n%b\r\n" % (session.head, stream, len(frame), frame))
        endpoint.active += 1
        self.sent[stream] = exchange
        self._ticker.wake()
        if upload is not None:
            self._stream_ticker.wake()
            if not request.upgrade:
                upload.proceed()
        if session.spent:
            self._renew_session(endpoint)

    def emitter(self, exchange: Exchange) -> Emit:
        """Return what writes further frames of an exchange's stream, for the try that begins now."""
        endpoint, session = exchange.endpoint, exchange.session
        assert endpoint is not None, "a stream leads somewhere"
        assert session is not None, "a stream is sealed"

        def emit(kind: Kind, plaintext: bytes) -> None:
            stream = exchange.stream
            frame = session.seal(kind, stream, plaintext)
            # Where nobody listens the bus says so as to a probe: what came before may have been served.
            self._bus.write(b"%bp%d %d\r\n%b\r\n" % (session.head, stream, len(frame), frame))

        return emit

    def cancel(self, exchange: Exchange, code: str) -> bool:
        """Take back a try without a response, and tell the instance so; False if there is none."""
        if self.sent.pop(exchange.stream, None) is None:
            return False
        self._tell_cancelled(exchange, code)
        return True

    def _tell_cancelled(self, exchange: Exchange, code: str) -> None:
        refusal = Refusal(True, 499, "DC", code, "nobody waits for the answer any more")
        self.emitter(exchange)(Kind.RESET, encode_refusal(refusal))

    # -- what comes --------------------------------------------------------------------------------

    def on_reply(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a message on one of this instance's reply subjects."""
        if headers:
            if is_no_responders(headers):
                self._nobody_listens(_noticed(subject))
            return
        try:
            kind, number, counter, stream = read_header(payload)
        except FrameError:
            self.bad_frames += 1
            return
        exchange = self.sent.get(stream) or self.begun.get(stream)
        if exchange is None:
            self.late_replies += 1
            return
        endpoint, session = exchange.endpoint, exchange.session
        if endpoint is None or session is None or session.number != number:
            self.bad_frames += 1
            return
        if kind == _UNKNOWN_SESSION:
            asked, _, sender = subject.rpartition(b".")
            notice = _noticed(asked)
            if not notice or sender != endpoint.instance.encode():  # nobody else can know
                self.bad_frames += 1
                return
            self._session_unknown(exchange, endpoint, session, probe=notice[:1] == b"p")
            return
        try:
            plaintext = session.open(payload, counter)
        except FrameError as error:
            self.bad_frames += 1
            log.debug("a frame for a request to %s was dropped: %s", endpoint, error)
            return
        endpoint.unanswered = 0
        try:
            if kind == _RESPONSE and exchange.download is None:
                response = decode_response(plaintext)
                del self.sent[stream]
                self._caller.answered(exchange, response)
            else:
                self._opened(kind, exchange, plaintext)
        except RemoteProtocolError as error:
            # Sealed by the instance itself, and still not what an agent writes: nothing better will come.
            self.bad_frames += 1
            self._tell_cancelled(exchange, "malformed_response")
            self.sent.pop(stream, None)
            message = f"instance {endpoint.instance} answered what cannot be read: {error}"
            self._caller.failed(exchange, Outcome.UNKNOWN, 502, "DPE", "malformed_response", message)

    def _opened(self, kind: int, exchange: Exchange, plaintext: bytes) -> None:
        """Take a frame that is not a response in one piece."""
        if exchange.download is not None:
            self._opened_later(kind, exchange, plaintext)
        elif kind == Kind.REFUSAL:
            refusal = decode_refusal(plaintext)
            del self.sent[exchange.stream]
            outcome = outcome_of_refusal(refusal.processed, refusal.flags)
            exchange.retry_after = refusal.retry_after
            self._caller.failed(
                exchange, outcome, refusal.status, refusal.flags, refusal.code, refusal.message
            )
        elif kind == Kind.PROBE_RESULT:
            self._probed(exchange, decode_probe_result(plaintext))
        elif kind == Kind.RESPONSE_OPENING:
            self._begin_response(exchange, plaintext)
        elif kind == Kind.CREDIT and exchange.upload is not None:
            exchange.upload.grant(decode_credit(plaintext))
        elif kind == Kind.INTERIM:
            exchange.request.interim(*decode_interim(plaintext))
        else:
            self.bad_frames += 1

    def _begin_response(self, exchange: Exchange, plaintext: bytes) -> None:
        opening, message = decode_opening(plaintext)
        response = decode_response(message, SWITCHING if opening.upgrade else FINAL)
        if self._caller.wants_another(exchange, response):
            self.cancel(exchange, "tried_again")
            message_text = f"instance {exchange.instance} answered {response.status}"
            self._caller.failed(
                exchange, Outcome.UNKNOWN, response.status, "", "retriable_response", message_text
            )
            return
        self._caller.begins(exchange)
        self.streams.begin(exchange, opening, response)
        del self.sent[exchange.stream]
        self._stream_ticker.wake()

    def _opened_later(self, kind: int, exchange: Exchange, plaintext: bytes) -> None:
        """Take a frame that belongs to a response which has begun."""
        if kind != Kind.PROBE_RESULT:
            self.streams.take(kind, exchange, plaintext)
            return
        try:
            state = decode_probe_result(plaintext)
        except RemoteProtocolError as error:
            self.streams.break_off(exchange, "DPE", "stream_broken", str(error))
            return
        if state is not ProbeState.AT_WORK:
            self.streams.break_off(exchange, "UF", "response_lost", "its end was lost on the bus")

    def _probed(self, exchange: Exchange, state: ProbeState) -> None:
        if state is ProbeState.AT_WORK:
            exchange.doubt, exchange.vouched = None, True
            return
        if state is ProbeState.NEVER_SEEN:
            message = f"the request to {exchange.instance} was lost on the bus"
            self._fail(exchange, Outcome.NOT_PROCESSED, "request_lost", message)
        else:
            message = f"the response from {exchange.instance} was lost on the bus"
            self._fail(exchange, Outcome.UNKNOWN, "response_lost", message)

    # -- signs that something is wrong ---------------------------------------------------------------

    def _fail(self, exchange: Exchange, outcome: Outcome, code: str, message: str) -> None:
        """End a try without a response in a failure of the upstream."""
        if self.sent.pop(exchange.stream, None) is not None:
            self._caller.failed(exchange, outcome, 503, "UF", code, message, alive=False)

    def _nobody_listens(self, tail: bytes) -> None:
        """The bus itself answered: the instance's agent is gone, or that process of it."""
        probe = tail[:1] == b"p"
        digits = tail[1:] if probe else tail
        stream = int(digits) if digits.isdigit() and len(digits) < 20 else 0
        exchange = self.sent.get(stream) or self.begun.get(stream)
        if exchange is None or exchange.endpoint is None or exchange.session is None:
            return
        endpoint, worker = exchange.endpoint, exchange.session.worker
        message = f"nobody listens at instance {endpoint.instance}"
        self._gone(endpoint, worker)
        # A request that nobody got is safe to repeat; one that was delivered before its agent died is not.
        if not probe:
            self._not_delivered(exchange, "instance_gone", message)
        self.fail_all(endpoint, "instance_gone", message, worker)

    def _not_delivered(self, exchange: Exchange, code: str, message: str) -> None:
        """Somebody says, unsealed, that this try reached no application."""
        idempotent = exchange.request.head.method in IDEMPOTENT
        if not idempotent and not exchange.vouched:
            if exchange.doubt is None:
                exchange.doubt = (time.monotonic(), code, message)
                self._prober.ask(exchange)
            return
        outcome = Outcome.UNKNOWN if exchange.vouched else Outcome.NOT_PROCESSED
        self._fail(exchange, outcome, code, message)

    def fail_all(self, endpoint: Endpoint, code: str, message: str, worker: int | None = None) -> None:
        """Fail what is in flight to ``endpoint``, as no answer will come; what is in doubt ends by itself.

        Args:
            worker: the only process of the instance that is gone; None: all of it is.
        """
        for exchange in self._flight.to(endpoint, worker):
            if exchange.doubt is None:
                self._fail(exchange, Outcome.UNKNOWN, code, message)
        self.streams.fail_all(endpoint, code, message, worker)

    def bus_lost(self) -> None:
        """No answer to what is in flight will ever come."""
        message = "the connection to the bus was lost"
        for exchange in list(self.sent.values()):
            self._fail(exchange, Outcome.UNKNOWN, "bus_unavailable", message)
        for exchange in list(self.begun.values()):
            self.streams.break_off(exchange, "UF", "bus_unavailable", message)

    def _session_unknown(
        self, exchange: Exchange, endpoint: Endpoint, session: Session, *, probe: bool
    ) -> None:
        """The instance has restarted, and could not open *this* message.

        What came before it, the process before may have served: of a request that is only asked after, this
        proves nothing.
        """
        if endpoint.session is session:
            endpoint.session = None
            self._renew_session(endpoint)
            self._upstreams.changed(endpoint.service)
        message = f"instance {endpoint.instance} has restarted"
        if exchange.download is not None:
            self.streams.break_off(exchange, "UF", "unknown_session", message)
        elif not probe:
            self._not_delivered(exchange, "unknown_session", message)
        elif exchange.doubt is None:
            self._fail(exchange, Outcome.UNKNOWN, "unknown_session", message)

    def _silent(self, endpoint: Endpoint) -> None:
        """The instance answers no question: believe it frozen until it announces itself again.

        Of one worker that says nothing, as the first process announces the instance all the same.
        """
        worker = endpoint.session.worker if endpoint.session is not None else 0
        if worker:
            self._gone(endpoint, worker)
        else:
            endpoint.suspect = True
            self._upstreams.changed(endpoint.service)
        message = f"instance {endpoint.instance} does not answer"
        self.fail_all(endpoint, "instance_silent", message, worker or None)

    # -- time --------------------------------------------------------------------------------------

    def _tick(self, now: float) -> bool:
        """Find what is late."""
        slow = [exchange for exchange in self._flight.late(now) if not self._ends(exchange, now)]
        self._prober.look_after(slow, self.sent, now)
        self._flight.settle()
        return bool(self.sent)

    def _tick_streams(self, now: float) -> bool:
        """Look after bodies in parts; say a word in each session that has one, else the caller seems gone."""
        uploads = {x.session: x for x in self.sent.values() if x.upload is not None}
        self._prober.look_after(list(self.streams.tick(now)), self.begun, now, math.inf)
        self._prober.look_after(list(uploads.values()), self.sent, now, math.inf)
        return bool(self.begun or uploads)

    def _ends(self, exchange: Exchange, now: float) -> bool:
        """End a try whose time is up, or that is believed lost; say whether it has ended or is young."""
        if exchange.stream not in self.sent:
            return True
        if now >= exchange.ends:
            if exchange.ends < exchange.deadline and self._caller.hedges(exchange):
                return True
            self.cancel(exchange, "timeout")
            seconds = (
                exchange.allowed if exchange.ends >= exchange.deadline else exchange.ends - exchange.sent_at
            )
            message = f"no response from {exchange.instance} within {seconds:g} s"
            self._caller.failed(exchange, Outcome.UNKNOWN, 504, "UT", "timeout", message)
            return True
        if exchange.doubt is not None:
            since, code, message = exchange.doubt
            if now - since > DOUBT_S:
                self._fail(exchange, Outcome.NOT_PROCESSED, code, message)
            return True
        return now - exchange.sent_at <= PROBE_AFTER_S

    def statistics(self) -> dict[str, int]:
        return {
            "in_flight": len(self.sent),
            "streams": len(self.begun),
            "late_replies": self.late_replies,
            "bad_frames": self.bad_frames,
        }

    def __repr__(self) -> str:
        return f"<Tries sent={len(self.sent)} begun={len(self.begun)}>"


def _noticed(subject: bytes) -> bytes:
    """Return the stream that a notice is about, with ``p`` before it for all but requests; else nothing."""
    tail = subject[subject.rfind(b".") + 1 :]
    return tail[1:] if tail[:1] == b"_" else b""
