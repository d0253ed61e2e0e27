"""From the local application to an instance elsewhere: route, pick, seal, send; and back.

Nothing here waits. A request becomes an :class:`Exchange`, which is found again by its stream number when the
sealed response arrives, and by the ticker when it does not. Each try ends in exactly one call of
``_answered`` or ``_failed``.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from random import Random

from busmesh.bus.bus import Bus
from busmesh.bus.messages import is_no_responders
from busmesh.decide.retry import IDEMPOTENT, Outcome, may_retry
from busmesh.decide.route import choose_rule
from busmesh.errors import RemoteProtocolError
from busmesh.names import ServiceName, service_of_authority
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.answers import Answer
from busmesh.relay.exchange import Exchange, Observer
from busmesh.relay.listener import Request
from busmesh.relay.ticker import Ticker
from busmesh.relay.upstream import Endpoint, Upstreams
from busmesh.wire.frame import OVERHEAD, FrameError, Kind, Session, read_header
from busmesh.wire.http import decode_refusal, decode_response, encode_request
from busmesh.wire.probe import ProbeState, decode_probe_result, encode_probe

log = logging.getLogger(__name__)

#: An answer slower than this makes the agent ask what became of the request.
PROBE_AFTER_S = 0.1
PROBE_EVERY_S = 0.25
#: So many probes without an answer, and the instance counts as frozen: about 1.1 s after the request.
PROBES_UNANSWERED = 4
#: "Nobody listens" and "unknown session" come unsealed, so anybody on the bus can write them. A request that
#: may not be repeated is believed lost only if the instance, asked, says nothing sealed for so long.
DOUBT_S = 0.1
TICK_S = 0.01
#: How long a request waits for discovery or for a first session before it is told that there is nobody.
PATIENCE_S = 3.0
MAX_WAITING = 1024
MAX_SERVICES = 2048


class Outbound:
    """The caller's side of the mesh.

    Args:
        bus: the connection to publish on.
        reply_prefix: prefix of this instance's reply subjects.
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
        self._sent: dict[int, Exchange] = {}
        self._waiting: deque[Exchange] = deque()
        self._shortest = PROBE_AFTER_S
        self._ticker = Ticker(TICK_S, self._tick)
        self.active = 0
        self.late_replies = 0
        self.bad_frames = 0
        upstreams.on_change = self._release
        bus.on_connection(self._on_connection)

    def use(self, snapshot: Snapshot) -> None:
        """Route by ``snapshot`` from the next request on."""
        self._snapshot = snapshot
        self._upstreams.reset()
        self._shortest = PROBE_AFTER_S

    # -- a request ---------------------------------------------------------------------------------

    def handle(self, request: Request) -> None:
        """Take a whole request from the listener."""
        service = service_of_authority(request.authority, self._namespace)
        if service is None:
            self._turn_away(request, "no_route", f"{request.authority[:100]!r} names no service", 404, "NR")
            return
        rule = choose_rule(self._snapshot.service(service), request.head)
        if rule is None:
            message = f"no rule of the routes for {service} matches {request.head.path[:200]!r}"
            self._turn_away(request, "no_route", message, 404, "NR", service)
            return
        exchange = Exchange(request, service, rule, rule.split.pick(), time.monotonic())
        if rule.timeout is not None and rule.timeout < self._shortest:
            self._shortest = rule.timeout
        self.active += 1
        self._try(exchange)

    def _turn_away(
        self,
        request: Request,
        code: str,
        message: str,
        status: int,
        flags: str,
        service: ServiceName | None = None,
    ) -> None:
        request.answer(Answer(status, flags, code, message, str(service or "")))

    def _try(self, exchange: Exchange) -> None:
        """Make one try: choose an instance, seal the request for it, publish it."""
        target = exchange.target
        bus = self._bus
        if not bus.connected:
            self._give_up(exchange, 503, "UF", "bus_unavailable", "the agent has no connection to the bus")
            return
        if bus.congested:
            self._give_up(
                exchange, 503, "UO", "bus_congested", "the bus takes less than is sent; try again later"
            )
            return
        endpoint = self._upstreams.pick(target, exchange.tried)
        if endpoint is None:
            self._wait_or_give_up(exchange)
            return
        session = endpoint.session
        assert session is not None, "an endpoint without a session is not usable"
        now = time.monotonic()
        exchange.endpoint, exchange.session = endpoint, session
        self._observer.begin_try(exchange)
        head = exchange.request.head
        plaintext = encode_request(
            session.now_ms() + int((exchange.deadline - now) * 1000),
            len(exchange.tried),
            head.method,
            head.target,
            b"traceparent: %b\r\n%b" % (exchange.traceparent, self._headers(exchange)),
            exchange.request.body,
        )
        if len(plaintext) + OVERHEAD > bus.max_payload:
            self._give_up(
                exchange, 413, "DPE", "body_too_large", f"the bus takes {bus.max_payload} bytes per message"
            )
            return
        self._stream = stream = self._stream + 1 & 0x7FFF_FFFF_FFFF_FFFF
        exchange.stream, exchange.counter, exchange.sent_at = stream, session.sent, now
        exchange.doubt, exchange.vouched = None, False
        frame = session.seal(Kind.REQUEST, stream, plaintext)
        bus.write(b"%b%d %d\r\n%b\r\n" % (endpoint.head, stream, len(frame), frame))
        endpoint.active += 1
        self._sent[stream] = exchange
        self._ticker.wake()
        if session.spent:
            self._renew_session(endpoint)

    def _headers(self, exchange: Exchange) -> bytes:
        block = exchange.request.head.block
        for operations in (exchange.target.request_headers, exchange.rule.request_headers):
            if operations is not None:
                block = operations.apply_block(block)
        return block

    # -- waiting for discovery ---------------------------------------------------------------------

    def _wait_or_give_up(self, exchange: Exchange) -> None:
        """No instance is usable: wait if one may come within reach in a moment."""
        target = exchange.target
        if len(self._upstreams.services()) > MAX_SERVICES:
            self._give_up(
                exchange,
                503,
                "UO",
                "too_many_services",
                f"this agent follows {MAX_SERVICES} services already",
            )
            return
        upstream = self._upstreams.upstream(target.service)
        late = time.monotonic() - exchange.started > PATIENCE_S
        if upstream.pending and not late and len(self._waiting) < MAX_WAITING:
            self._waiting.append(exchange)
            self._ticker.wake()
            return
        where = str(target)
        states = ", ".join(f"{e.instance}: {e.state}" for e in list(upstream.endpoints.values())[:5])
        message = f"no usable instance of {where} ({states})" if states else f"nobody serves {where}"
        self._give_up(exchange, 503, "UH", "no_healthy_upstream", message)

    def _release(self, service: ServiceName) -> None:
        """Something changed about ``service``: let those that wait for it try again."""
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            if exchange.target.service == service:
                self._try(exchange)
            else:
                self._waiting.append(exchange)

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
        exchange = self._sent.get(stream)
        if exchange is None:
            self.late_replies += 1
            return
        endpoint, session = exchange.endpoint, exchange.session
        if endpoint is None or session is None or session.number != number:
            self.bad_frames += 1
            return
        if kind == Kind.UNKNOWN_SESSION:
            self._forget_session(endpoint, session)
            return
        try:
            plaintext = session.open(payload, counter)
            endpoint.unanswered = 0
            if kind == Kind.RESPONSE:
                response = decode_response(plaintext)
                del self._sent[stream]
                self._answered(exchange, endpoint, response.status)
                self._respond(exchange, *response)
            elif kind == Kind.REFUSAL:
                refusal = decode_refusal(plaintext)
                del self._sent[stream]
                outcome = Outcome.UNKNOWN if refusal.processed else Outcome.NOT_PROCESSED
                self._failed(exchange, outcome, refusal.status, refusal.flags, refusal.code, refusal.message)
            elif kind == Kind.PROBE_RESULT:
                self._probed(exchange, decode_probe_result(plaintext))
        except RemoteProtocolError as error:
            self.bad_frames += 1
            log.debug("a frame from %s was dropped: %s", endpoint, error)

    def _nobody_listens(self, tail: bytes) -> None:
        """The bus itself answered: the instance's agent is gone."""
        probe = tail[:1] == b"p"
        digits = tail[1:] if probe else tail
        exchange = self._sent.get(int(digits)) if digits.isdigit() else None
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
                self._ask(exchange)
            return
        outcome = Outcome.UNKNOWN if exchange.vouched else Outcome.NOT_PROCESSED
        del self._sent[exchange.stream]
        self._failed(exchange, outcome, 503, "UF", code, message)

    def fail_all(self, endpoint: Endpoint, code: str, message: str) -> None:
        """Fail what is in flight to ``endpoint``, as no answer will come; what is in doubt ends by itself."""
        lost = [(s, x) for s, x in self._sent.items() if x.endpoint is endpoint and x.doubt is None]
        for stream, exchange in lost:
            del self._sent[stream]
            self._failed(exchange, Outcome.UNKNOWN, 503, "UF", code, message)

    def _forget_session(self, endpoint: Endpoint, session: Session) -> None:
        """The instance knows nothing of this session, so of nothing that was sent in it: it restarted."""
        if endpoint.session is session:
            endpoint.session = None
            self._renew_session(endpoint)
            self._upstreams.changed(endpoint.service)
        for exchange in [x for x in self._sent.values() if x.session is session]:
            message = f"instance {endpoint.instance} has restarted"
            self._not_delivered(exchange, "unknown_session", message)

    def _respond(
        self,
        exchange: Exchange,
        status: int,
        reason: bytes,
        headers: bytes,
        body: bytes,
        declared: int | None,
    ) -> None:
        for operations in (exchange.target.response_headers, exchange.rule.response_headers):
            if operations is not None:
                headers = operations.apply_block(headers)
        exchange.request.respond(status, reason, headers, body, declared)
        self._observer.end_request(exchange, status, "", len(body))
        self.active -= 1

    def _answered(self, exchange: Exchange, endpoint: Endpoint, status: int) -> None:
        endpoint.active -= 1
        self._observer.end_try(exchange, status, "")

    def _failed(
        self, exchange: Exchange, outcome: Outcome, status: int, flags: str, code: str, message: str
    ) -> None:
        """A try failed: make another if that is safe, else tell the application."""
        endpoint = exchange.endpoint
        if endpoint is not None:
            endpoint.active -= 1
            exchange.tried.append(endpoint)
            self._observer.end_try(exchange, status, flags)
        in_time = time.monotonic() < exchange.deadline
        if (
            in_time
            and not exchange.request.abandoned
            and may_retry(outcome, exchange.request.head.method, len(exchange.tried))
        ):
            self._try(exchange)
        else:
            self._give_up(exchange, status, flags, code, message)

    def _give_up(self, exchange: Exchange, status: int, flags: str, code: str, message: str) -> None:
        answer = Answer(status, flags, code, message, str(exchange.service), exchange.instance)
        exchange.request.answer(answer)
        self._observer.end_request(exchange, status, flags, 0)
        self.active -= 1

    # -- time --------------------------------------------------------------------------------------

    def _tick(self, now: float) -> bool:
        """Find what is late. Requests lie in the order in which they were sent: young ones are skipped."""
        young = now - self._shortest
        late = []
        for stream, exchange in self._sent.items():
            if exchange.sent_at > young:
                break
            late.append((stream, exchange))
        for stream, exchange in late:
            if now >= exchange.deadline:
                if self._sent.pop(stream, None) is not None:
                    seconds = exchange.deadline - exchange.started
                    message = f"no response from {exchange.instance} within {seconds:g} s"
                    self._failed(exchange, Outcome.UNKNOWN, 504, "UT", "timeout", message)
            elif exchange.doubt is not None:
                since, code, message = exchange.doubt
                if now - since > DOUBT_S and self._sent.pop(stream, None) is not None:
                    self._failed(exchange, Outcome.NOT_PROCESSED, 503, "UF", code, message)
            elif now - exchange.sent_at > PROBE_AFTER_S and stream in self._sent:
                self._probe(exchange, now)
        if self._waiting:
            self._check_waiting(now)
        return bool(self._sent or self._waiting)

    def _check_waiting(self, now: float) -> None:
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            if now - exchange.started > PATIENCE_S or now >= exchange.deadline:
                self._wait_or_give_up(exchange)
            else:
                self._waiting.append(exchange)

    def _probe(self, exchange: Exchange, now: float) -> None:
        """Ask the instance what became of a slow request; at most one question at a time per instance."""
        endpoint = exchange.endpoint
        if endpoint is None or now - endpoint.last_probe < PROBE_EVERY_S:
            return
        endpoint.last_probe = now
        endpoint.unanswered += 1
        if endpoint.unanswered > PROBES_UNANSWERED:
            endpoint.unanswered = 0
            endpoint.suspect = True
            self._upstreams.changed(endpoint.service)
            self.fail_all(endpoint, "instance_silent", f"instance {endpoint.instance} does not answer")
            return
        self._ask(exchange)

    def _ask(self, exchange: Exchange) -> None:
        endpoint, session, stream = exchange.endpoint, exchange.session, exchange.stream
        if endpoint is not None and session is not None:
            frame = session.seal(Kind.PROBE, stream, encode_probe(exchange.counter))
            self._bus.write(b"%bp%d %d\r\n%b\r\n" % (endpoint.head, stream, len(frame), frame))

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
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            self._try(exchange)  # finds that there is no bus, and says so
        for exchange in list(self._sent.values()):
            self._sent.pop(exchange.stream, None)
            self._failed(
                exchange, Outcome.UNKNOWN, 503, "UF", "bus_unavailable", "the connection to the bus was lost"
            )

    def statistics(self) -> dict[str, int]:
        return {
            "active": self.active,
            "in_flight": len(self._sent),
            "waiting": len(self._waiting),
            "late_replies": self.late_replies,
            "bad_frames": self.bad_frames,
        }

    def __repr__(self) -> str:
        return f"<Outbound active={self.active} in_flight={len(self._sent)} waiting={len(self._waiting)}>"
