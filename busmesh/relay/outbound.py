"""From the local application to an instance elsewhere: route, pick, seal, send; and back.

Nothing here waits. A request becomes an :class:`Exchange`, which is found again by its stream number when the
sealed response arrives, and by the ticker when it does not. Each try ends in exactly one of ``_respond``,
``_stream_over`` and ``_try_failed``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from random import Random

from busmesh.bus.bus import Bus
from busmesh.bus.messages import is_no_responders
from busmesh.decide.retry import IDEMPOTENT, Outcome, may_retry, outcome_of_refusal
from busmesh.decide.route import choose_rule
from busmesh.errors import RemoteProtocolError
from busmesh.names import ServiceName, service_of_authority
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.answers import Answer, shown
from busmesh.relay.exchange import DEFAULT_TIMEOUT_S, Exchange, Observer
from busmesh.relay.flight import Flight
from busmesh.relay.flow import STREAM_TICK_S, Emit, Gate
from busmesh.relay.parking import Parking
from busmesh.relay.probing import PROBE_AFTER_S, Prober
from busmesh.relay.request import Request
from busmesh.relay.streams import Streams, decode_interim
from busmesh.relay.ticker import Ticker
from busmesh.relay.upload import Upload
from busmesh.relay.upstream import Endpoint, Upstreams
from busmesh.wire.frame import OVERHEAD, FrameError, Kind, Session, read_header
from busmesh.wire.http import (
    MAX_HEADER_BLOCK,
    Refusal,
    WireResponse,
    decode_refusal,
    decode_response,
    encode_refusal,
    encode_request,
)
from busmesh.wire.probe import ProbeState, decode_probe_result
from busmesh.wire.stream import Opening, data_size, decode_credit, encode_opening

log = logging.getLogger(__name__)

#: "Nobody listens" and "unknown session" come unsealed, so anybody on the bus can write them. A request that
#: may not be repeated is believed lost only if the instance, asked, says nothing sealed for so long.
DOUBT_S = 0.1
TICK_S = 0.01
MAX_WAITING = 1024
#: The largest body that travels in one piece with its head: what one read brings.
MAX_WHOLE = 256 * 1024
#: "No deadline" in a frame.
NEVER_MS = (1 << 32) - 1


class Outbound:
    """The caller's side of the mesh.

    Args:
        bus: the connection to publish on.
        namespace: what a service name without a namespace means.
        upstreams: the instances known.
        snapshot: policies to begin with; replaced by :meth:`use`.
        observer: telemetry.
        renew_session: called when an endpoint's session is unknown to it or used up.
        gone: called when the bus said that nobody listens at an endpoint.
        rng: source of the first stream number.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        namespace: str,
        upstreams: Upstreams,
        snapshot: Snapshot,
        observer: Observer,
        renew_session: Callable[[Endpoint], None],
        gone: Callable[[Endpoint], None],
        rng: Random,
    ) -> None:
        self._bus = bus
        self._namespace = namespace
        self._upstreams = upstreams
        self._snapshot = snapshot
        self._observer = observer
        self._renew_session = renew_session
        self._gone = gone
        self._stream = rng.getrandbits(62)
        self._flight = Flight(PROBE_AFTER_S)
        self._sent = self._flight.sent
        self._parking = Parking(MAX_WAITING)
        self._prober = Prober(bus, self._silent)
        self._streams = Streams(self._emitter, self._stream_over)
        self._begun = self._streams.begun
        self._gate = Gate(lambda: bus.busy)
        self._ticker = Ticker(TICK_S, self._tick)
        self._stream_ticker = Ticker(STREAM_TICK_S, self._tick_streams)
        self.active = 0
        self.late_replies = 0
        self.bad_frames = 0
        upstreams.on_change = self._release
        bus.on_connection(self._on_connection)
        bus.on_writable(self._gate.open)

    def use(self, snapshot: Snapshot) -> None:
        """Route by ``snapshot`` from the next request on."""
        self._snapshot = snapshot
        self._upstreams.reset()

    # -- a request ---------------------------------------------------------------------------------

    def handle(self, request: Request) -> None:
        """Take a request from the listener."""
        service = service_of_authority(request.authority, self._namespace)
        if service is None:
            message = f"{shown(request.authority)} names no service"
            request.answer(Answer(404, "NR", "no_route", message))
            return
        rule = choose_rule(self._snapshot.service(service), request.head)
        if rule is None:
            message = f"no rule of the routes for {service} matches {shown(request.head.path)}"
            request.answer(Answer(404, "NR", "no_route", message, str(service)))
            return
        exchange = request.exchange = Exchange(request, service, rule, rule.split.pick(), time.monotonic())
        self.active += 1
        if request.opening is not None or (request.body and not self._is_whole(request.body)):
            self._open(exchange)
        self._try(exchange)

    def _is_whole(self, body: bytes) -> bool:
        """Say whether a body travels in one frame with its head, whatever the size of that."""
        return len(body) <= min(MAX_WHOLE, self._bus.max_payload - MAX_HEADER_BLOCK - 1024)

    def _open(self, exchange: Exchange) -> None:
        """Prepare a request whose body is sent in parts."""
        request = exchange.request
        chunk = data_size(self._bus.max_payload)
        sent = partial(self._body_sent, exchange)
        first = b"" if request.upgrade else request.body
        exchange.upload = request.upload = Upload(first, request, self._gate, chunk, sent)
        if request.opening is None or request.complete:
            exchange.upload.end(request.trailers)
        elif exchange.rule.timeout is None and not request.upgrade:
            exchange.deadline = math.inf  # the time for the response begins when the body has been sent

    def _body_sent(self, exchange: Exchange) -> None:
        if exchange.stream in self._begun:
            self._streams.half_ended(exchange)
        elif exchange.deadline == math.inf:
            exchange.deadline = time.monotonic() + DEFAULT_TIMEOUT_S

    def _try(self, exchange: Exchange) -> None:
        """Make one try: choose an instance, seal the request for it, publish it."""
        bus = self._bus
        if not bus.connected:
            self._give_up(exchange, 503, "UF", "bus_unavailable", "the agent has no connection to the bus")
            return
        if bus.congested:
            message = "the bus takes less than is sent; try again later"
            self._give_up(exchange, 503, "UO", "bus_congested", message)
            return
        endpoint = self._upstreams.pick(exchange.target, exchange.tried)
        if endpoint is None:
            self._wait_or_give_up(exchange)
            return
        session = endpoint.session
        assert session is not None, "an endpoint without a session is not usable"
        now = time.monotonic()
        left = exchange.deadline - now
        exchange.endpoint, exchange.session, exchange.sent_at = endpoint, session, now
        self._observer.begin_try(exchange)
        request, upload = exchange.request, exchange.upload
        head = request.head
        plaintext = encode_request(
            session.now_ms() + int(left * 1000) if left < math.inf else NEVER_MS,
            len(exchange.tried),
            head.method,
            head.target,
            b"traceparent: %b\r\n%b" % (exchange.traceparent, exchange.request_block()),
            request.body if upload is None else b"",
            exchange.rule.timeout is not None,
        )
        kind = Kind.REQUEST
        if upload is not None:
            kind = Kind.REQUEST_OPENING
            plaintext = encode_opening(request.opening or Opening(len(request.body)), plaintext)
            plaintext += upload.begin(self._emitter(exchange), bus.max_payload - OVERHEAD - len(plaintext))
        if len(plaintext) + OVERHEAD > bus.max_payload:
            self._observer.end_try(exchange, 431, "DPE")
            message = f"the headers are larger than the bus takes: {bus.max_payload} bytes per message"
            self._give_up(exchange, 431, "DPE", "headers_too_large", message)
            return
        if left < self._flight.look_after:
            self._flight.look_after = left
        self._stream = stream = self._stream + 1 & 0x7FFF_FFFF_FFFF_FFFF
        exchange.stream, exchange.counter = stream, session.sent
        frame = session.seal(kind, stream, plaintext)
        bus.write(b"%b%d %d\r\n%b\r\n" % (endpoint.head, stream, len(frame), frame))
        endpoint.active += 1
        self._sent[stream] = exchange
        self._ticker.wake()
        if upload is not None:
            self._stream_ticker.wake()
            if not request.upgrade:
                upload.proceed()
        if session.spent:
            self._renew_session(endpoint)

    def _emitter(self, exchange: Exchange) -> Emit:
        """Return what writes further frames of an exchange's stream, for the try that begins now."""
        endpoint, session = exchange.endpoint, exchange.session
        assert endpoint is not None, "a stream leads somewhere"
        assert session is not None, "a stream is sealed"

        def emit(kind: Kind, plaintext: bytes) -> None:
            stream = exchange.stream
            frame = session.seal(kind, stream, plaintext)
            # Where nobody listens the bus says so as to a probe: what came before may have been served.
            self._bus.write(b"%bp%d %d\r\n%b\r\n" % (endpoint.head, stream, len(frame), frame))

        return emit

    def abandon(self, request: Request) -> None:
        """Hear that the client of a request is gone: nobody waits, here or at the instance."""
        exchange: Exchange | None = request.exchange
        if exchange is None:
            return
        request.exchange = None
        if exchange.stream in self._begun:
            self._streams.break_off(exchange, "DC", "client_gone", "the client is gone")
        elif exchange.stream in self._sent:
            self._cancel(exchange, "client_gone")
            del self._sent[exchange.stream]
            self._try_failed(exchange, 499, "DC")
            self._give_up(exchange, 499, "DC", "client_gone", "the client is gone")
        elif self._parking.remove(exchange):
            self._give_up(exchange, 499, "DC", "client_gone", "the client is gone")

    def _cancel(self, exchange: Exchange, code: str) -> None:
        """Tell the instance that nobody waits for the answer to this try."""
        refusal = Refusal(True, 499, "DC", code, "nobody waits for the answer any more")
        self._emitter(exchange)(Kind.RESET, encode_refusal(refusal))

    # -- waiting for discovery ---------------------------------------------------------------------

    def _wait_or_give_up(self, exchange: Exchange) -> None:
        """No instance is usable: wait if one may come within reach in a moment."""
        target = exchange.target
        if not self._upstreams.takes(target.service):
            message = f"this agent follows {self._upstreams.capacity} services already"
            self._give_up(exchange, 503, "UO", "too_many_services", message)
            return
        upstream = self._upstreams.upstream(target.service)
        if upstream.pending and self._parking.park(exchange, time.monotonic()):
            self._ticker.wake()
            return
        states = upstream.states()
        message = f"no usable instance of {target} ({states})" if states else f"nobody serves {target}"
        self._give_up(exchange, 503, "UH", "no_healthy_upstream", message)

    def _release(self, service: ServiceName) -> None:
        """Something changed about ``service``: let those that wait for it try again."""
        now = time.monotonic()
        for exchange in self._parking.leave(service):
            if now < exchange.deadline:
                self._try(exchange)
            else:
                self._waited_in_vain(exchange)

    # -- answers -----------------------------------------------------------------------------------

    def on_reply(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a message on one of this instance's reply subjects."""
        tail = subject[subject.rfind(b".") + 1 :]
        if headers:
            if is_no_responders(headers):
                self._nobody_listens(tail)
            return
        try:
            kind, number, counter, stream = read_header(payload)
        except FrameError:
            self.bad_frames += 1
            return
        exchange = self._sent.get(stream) or self._begun.get(stream)
        if exchange is None:
            self.late_replies += 1
            return
        endpoint, session = exchange.endpoint, exchange.session
        if endpoint is None or session is None or session.number != number:
            self.bad_frames += 1
            return
        if kind == Kind.UNKNOWN_SESSION:
            self._session_unknown(exchange, endpoint, session, probe=tail[:1] == b"p")
            return
        try:
            plaintext = session.open(payload, counter)
        except FrameError as error:
            self.bad_frames += 1
            log.debug("a frame for a request to %s was dropped: %s", endpoint, error)
            return
        endpoint.unanswered = 0
        try:
            self._opened(kind, exchange, endpoint, plaintext)
        except RemoteProtocolError as error:
            # Sealed by the instance itself, and still not what an agent writes: nothing better will come.
            self.bad_frames += 1
            self._cancel(exchange, "malformed_response")
            self._sent.pop(stream, None)
            message = f"instance {endpoint.instance} answered what cannot be read: {error}"
            self._failed(exchange, Outcome.UNKNOWN, 502, "DPE", "malformed_response", message)

    def _opened(self, kind: int, exchange: Exchange, endpoint: Endpoint, plaintext: bytes) -> None:
        if exchange.download is not None:
            self._opened_later(kind, exchange, plaintext)
        elif kind == Kind.RESPONSE:
            response = decode_response(plaintext)
            del self._sent[exchange.stream]
            endpoint.active -= 1
            self._observer.end_try(exchange, response.status, "")
            self._respond(exchange, response)
        elif kind == Kind.REFUSAL:
            refusal = decode_refusal(plaintext)
            del self._sent[exchange.stream]
            outcome = outcome_of_refusal(refusal.processed, refusal.flags)
            self._failed(exchange, outcome, refusal.status, refusal.flags, refusal.code, refusal.message)
        elif kind == Kind.PROBE_RESULT:
            self._probed(exchange, decode_probe_result(plaintext))
        elif kind == Kind.RESPONSE_OPENING:
            self._streams.begin(exchange, plaintext)
            del self._sent[exchange.stream]
            self._stream_ticker.wake()
        elif kind == Kind.CREDIT and exchange.upload is not None:
            exchange.upload.grant(decode_credit(plaintext))
        elif kind == Kind.INTERIM:
            exchange.request.interim(*decode_interim(plaintext))
        else:
            self.bad_frames += 1

    def _opened_later(self, kind: int, exchange: Exchange, plaintext: bytes) -> None:
        """Take a frame that belongs to a response which has begun."""
        if kind != Kind.PROBE_RESULT:
            self._streams.take(kind, exchange, plaintext)
            return
        try:
            state = decode_probe_result(plaintext)
        except RemoteProtocolError as error:
            self._streams.break_off(exchange, "DPE", "stream_broken", str(error))
            return
        if state is not ProbeState.AT_WORK:
            self._streams.break_off(exchange, "UF", "response_lost", "its end was lost on the bus")

    def _stream_over(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        """A response in parts has ended, in whatever way."""
        if exchange.endpoint is not None:
            exchange.endpoint.active -= 1
        exchange.release()
        self._observer.end_try(exchange, status, flags)
        self._observer.end_request(exchange, status, flags, size)
        self.active -= 1

    def _nobody_listens(self, tail: bytes) -> None:
        """The bus itself answered: the instance's agent is gone."""
        probe = tail[:1] == b"p"
        digits = tail[1:] if probe else tail
        stream = int(digits) if digits.isdigit() and len(digits) < 20 else 0
        exchange = self._sent.get(stream) or self._begun.get(stream)
        if exchange is None or exchange.endpoint is None:
            return
        endpoint = exchange.endpoint
        message = f"nobody listens at instance {endpoint.instance}"
        self._gone(endpoint)
        # A request that nobody got is safe to repeat; one that was delivered before its agent died is not.
        if not probe:
            self._not_delivered(exchange, "instance_gone", message)
        self.fail_all(endpoint, "instance_gone", message)

    def _not_delivered(self, exchange: Exchange, code: str, message: str) -> None:
        """Somebody says, unsealed, that this try reached no application."""
        idempotent = exchange.request.head.method in IDEMPOTENT
        if not idempotent and not exchange.vouched:
            if exchange.doubt is None:
                exchange.doubt = (time.monotonic(), code, message)
                self._prober.ask(exchange)
            return
        outcome = Outcome.UNKNOWN if exchange.vouched else Outcome.NOT_PROCESSED
        del self._sent[exchange.stream]
        self._failed(exchange, outcome, 503, "UF", code, message)

    def fail_all(self, endpoint: Endpoint, code: str, message: str) -> None:
        """Fail what is in flight to ``endpoint``, as no answer will come; what is in doubt ends by itself."""
        for exchange in self._flight.to(endpoint):
            if exchange.doubt is None:
                del self._sent[exchange.stream]
                self._failed(exchange, Outcome.UNKNOWN, 503, "UF", code, message)
        self._streams.fail_all(endpoint, code, message)

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
            self._streams.break_off(exchange, "UF", "unknown_session", message)
        elif not probe:
            self._not_delivered(exchange, "unknown_session", message)
        elif exchange.doubt is None:
            del self._sent[exchange.stream]
            self._failed(exchange, Outcome.UNKNOWN, 503, "UF", "unknown_session", message)

    def _respond(self, exchange: Exchange, response: WireResponse) -> None:
        status, reason, headers, body, declared = response
        exchange.release()
        exchange.request.respond(status, reason, exchange.response_block(headers), body, declared)
        self._observer.end_request(exchange, status, "", len(body))
        self.active -= 1

    def _failed(
        self, exchange: Exchange, outcome: Outcome, status: int, flags: str, code: str, message: str
    ) -> None:
        """A try failed: make another if that is safe, else tell the application."""
        self._try_failed(exchange, status, flags)
        wanted = time.monotonic() < exchange.deadline
        again = wanted and may_retry(outcome, exchange.request.head.method, len(exchange.tried))
        if again and exchange.repeatable:
            self._try(exchange)
        else:
            self._give_up(exchange, status, flags, code, message)

    def _try_failed(self, exchange: Exchange, status: int, flags: str) -> None:
        endpoint = exchange.endpoint
        if endpoint is not None:
            endpoint.active -= 1
            exchange.try_ended(endpoint)
            self._observer.end_try(exchange, status, flags)

    def _give_up(self, exchange: Exchange, status: int, flags: str, code: str, message: str) -> None:
        exchange.release()
        answer = Answer(status, flags, code, message, str(exchange.service), exchange.instance)
        exchange.request.answer(answer)
        self._observer.end_request(exchange, status, flags, 0)
        self.active -= 1

    # -- time --------------------------------------------------------------------------------------

    def _tick(self, now: float) -> bool:
        """Find what is late."""
        for exchange in self._parking.leave_late(now):
            if now >= exchange.deadline:
                self._waited_in_vain(exchange)
            else:
                self._wait_or_give_up(exchange)
        slow = [exchange for exchange in self._flight.late(now) if not self._ends(exchange, now)]
        self._prober.look_after(slow, self._sent, now)
        self._flight.settle()
        return bool(self._sent or self._parking)

    def _tick_streams(self, now: float) -> bool:
        """Look after bodies in parts; say a word in each session that has one, else the caller seems gone."""
        uploads = {x.session: x for x in self._sent.values() if x.upload is not None}
        self._prober.look_after(list(self._streams.tick(now)), self._begun, now, math.inf)
        self._prober.look_after(list(uploads.values()), self._sent, now, math.inf)
        return bool(self._begun or uploads)

    def _ends(self, exchange: Exchange, now: float) -> bool:
        """End a request whose time is up, or that is believed lost; say whether it has ended or is young."""
        stream = exchange.stream
        if stream not in self._sent:
            return True
        if now >= exchange.deadline:
            self._cancel(exchange, "timeout")
            del self._sent[stream]
            message = f"no response from {exchange.instance} within {exchange.allowed:g} s"
            self._failed(exchange, Outcome.UNKNOWN, 504, "UT", "timeout", message)
            return True
        if exchange.doubt is not None:
            since, code, message = exchange.doubt
            if now - since > DOUBT_S:
                del self._sent[stream]
                self._failed(exchange, Outcome.NOT_PROCESSED, 503, "UF", code, message)
            return True
        return now - exchange.sent_at <= PROBE_AFTER_S

    def _waited_in_vain(self, exchange: Exchange) -> None:
        message = f"no instance of {exchange.target} came within reach within {exchange.allowed:g} s"
        self._give_up(exchange, 504, "UT", "timeout", message)

    def _silent(self, endpoint: Endpoint) -> None:
        """The instance answers no question: believe it frozen until it announces itself again."""
        endpoint.suspect = True
        self._upstreams.changed(endpoint.service)
        self.fail_all(endpoint, "instance_silent", f"instance {endpoint.instance} does not answer")

    def _probed(self, exchange: Exchange, state: ProbeState) -> None:
        if state is ProbeState.AT_WORK:
            exchange.doubt, exchange.vouched = None, True
            return
        self._sent.pop(exchange.stream, None)
        if state is ProbeState.NEVER_SEEN:
            message = f"the request to {exchange.instance} was lost on the bus"
            self._failed(exchange, Outcome.NOT_PROCESSED, 503, "UF", "request_lost", message)
        else:
            message = f"the response from {exchange.instance} was lost on the bus"
            self._failed(exchange, Outcome.UNKNOWN, 503, "UF", "response_lost", message)

    def _on_connection(self, standing: bool) -> None:
        """The bus is gone: no answer to what is in flight will ever come."""
        if standing:
            return
        for exchange in self._parking.leave_all():
            self._try(exchange)  # finds that there is no bus, and says so
        for exchange in list(self._sent.values()):
            self._sent.pop(exchange.stream, None)
            self._failed(
                exchange, Outcome.UNKNOWN, 503, "UF", "bus_unavailable", "the connection to the bus was lost"
            )
        for exchange in list(self._begun.values()):
            self._streams.break_off(exchange, "UF", "bus_unavailable", "the connection to the bus was lost")

    def statistics(self) -> dict[str, int]:
        return {
            "active": self.active,
            "in_flight": len(self._sent),
            "streams": len(self._begun),
            "waiting": len(self._parking),
            "late_replies": self.late_replies,
            "bad_frames": self.bad_frames,
        }

    def __repr__(self) -> str:
        return f"<Outbound active={self.active} in_flight={len(self._sent)} waiting={len(self._parking)}>"
