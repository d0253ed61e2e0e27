"""From the local application to an instance elsewhere: which rule, destination and instance; and back.

Nothing here waits. A request becomes an :class:`Exchange`, which ends in exactly one of ``answered``,
``over``, ``respond`` and ``answer``. What a rule asks for beyond sending it somewhere is in
:mod:`busmesh.relay.outbound.actions`, what happens on the bus in :mod:`busmesh.relay.tries.tries`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from random import Random

from busmesh.bus.bus import Bus
from busmesh.decide.guard import OverBudget
from busmesh.decide.request import RequestHead
from busmesh.decide.retry import Outcome
from busmesh.decide.route import Rule, Target, choose_rule
from busmesh.names import ServiceName, service_of_authority
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.client.answers import Answer, shown
from busmesh.relay.client.request import Incoming
from busmesh.relay.contexts import Contexts
from busmesh.relay.destination.destination import Destination
from busmesh.relay.destination.upstream import Endpoint
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.outbound.actions import Actions
from busmesh.relay.outbound.parking import PATIENCE_S, Parking
from busmesh.relay.outbound.queueing import Queues
from busmesh.relay.outbound.waiting import Waiting
from busmesh.relay.ticker import Ticker
from busmesh.relay.tries.exchange import DEFAULT_TIMEOUT_S, Exchange, Observer
from busmesh.relay.tries.racing import Race
from busmesh.relay.tries.tries import Tries, TryFailed
from busmesh.relay.upload import Upload
from busmesh.wire.http import MAX_HEADER_BLOCK, WireResponse
from busmesh.wire.stream import data_size

TICK_S = 0.01
MAX_WAITING = 1024
#: The largest body that travels in one piece with its head: what one read brings.
MAX_WHOLE = 256 * 1024
#: Instances that a try asks for admission before it gives up.
MAX_ASKED = 3
#: (service, head, rule): looks on while requests are routed, and may not fail.
Beside = Callable[[ServiceName, RequestHead, Rule | None], None]


class Outbound:
    """The caller's side of the mesh.

    Args:
        bus: the connection to publish on.
        namespace: what a service name without a namespace means.
        upstreams: the instances known.
        snapshot: policies to begin with; replaced by :meth:`use`.
        observer: telemetry.
        renew_session: called when an endpoint's session is unknown to it or used up.
        gone: called when the bus said that nobody listens at an endpoint, with the number of the process of
            it that was asked.
        rng: for what is drawn by lot.

    Attributes:
        contexts: the requests at work beside this agent, if it serves.
        beside: hears of each request and the rule chosen for it, before a destination is; None for nobody.
        revoked: says what revocations have to do with it when a service, or None, is out of reach.
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
        gone: Callable[[Endpoint, int], None],
        rng: Random,
    ) -> None:
        self._bus = bus
        self._namespace = namespace
        self._upstreams = upstreams
        self._snapshot = snapshot
        self._observer = observer
        self._rng = rng
        self.contexts = Contexts()
        self.beside: Beside | None = None
        self.revoked: Callable[[ServiceName | None], str] = lambda service: ""
        self.tries = Tries(bus, upstreams, self, renew_session=renew_session, gone=gone, rng=rng)
        self.on_reply = self.tries.on_reply
        self._parking = Parking(MAX_WAITING)
        self._waiting = Waiting(MAX_WAITING)
        self._queues = Queues(self._waiting, self._admitted, self._waited_in_line)
        self._actions = Actions(self, self._waiting, rng)
        self._ticker = Ticker(TICK_S, self._tick)
        self.active = 0
        upstreams.on_change = self._release
        bus.on_connection(self._on_connection)

    def use(self, snapshot: Snapshot) -> None:
        """Route by ``snapshot`` from the next request on."""
        self._snapshot = snapshot
        for destination in self._upstreams.use(time.monotonic(), snapshot.renewed):
            self._queues.promote(destination)

    # -- a request ---------------------------------------------------------------------------------

    def handle(self, request: Incoming) -> None:
        """Take a request from the listener."""
        service = service_of_authority(request.authority, self._namespace)
        if service is None:
            message = f"{shown(request.authority)} names no service"
            request.answer(Answer(404, "NR", "no_route", message))
            return
        rule = choose_rule(self._snapshot.service(service), request.head)
        if self.beside is not None:
            self.beside(service, request.head, rule)
        if rule is None:
            message = f"no rule of the routes for {service} matches {shown(request.head.path)}"
            request.answer(Answer(404, "NR", "no_route", message, str(service)))
            return
        exchange = request.exchange = Exchange(request, service, rule, time.monotonic())
        self.active += 1
        if self.contexts and (context := self.contexts.of(request.traceparent)) is not None:
            exchange.within(context)
        if rule.plain:
            self.launch(exchange, rule.pick(request.head))
        else:
            self._actions.begin(exchange)

    def launch(self, exchange: Exchange, target: Target) -> None:
        """Send a request to a destination, now or when there is a place for it."""
        exchange.target = target
        destination = exchange.destination = self._upstreams.destination(target)
        if destination is None:
            message = f"this agent follows {self._upstreams.capacity} services already"
            self._give_up(exchange, 503, "UO", "too_many_services", message)
            return
        request = exchange.request
        if request.opening is not None or (request.body and not self._is_whole(request.body)):
            self._open(exchange)
        if destination.affinity is not None:
            exchange.said = destination.affinity.read(exchange.head, self._upstreams.origin)
            exchange.key = exchange.said or destination.affinity.fresh(self._rng)
        if destination.admission.admit():
            self._admitted(exchange, destination)
        elif not self._queues.enter(exchange, destination):
            limits = destination.admission.limits
            message = (
                f"{limits.max_requests} requests to {destination.target} are under way"
                f" and {limits.max_pending} wait"
            )
            self._give_up(exchange, 503, "UO", "overflow", message)

    def _admitted(self, exchange: Exchange, destination: Destination) -> None:
        exchange.admission = destination.admission
        adaptive = destination.adaptive
        if adaptive is not None and not adaptive.admit(destination.admission.active - 1):
            message = f"{destination.target} is as busy as its latency allows"
            self._give_up(exchange, 503, "UO", "overflow", message)
            return
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
        exchange.upload = request.upload = Upload(first, request, self.tries.gate, chunk, sent)
        if request.opening is None or request.complete:
            exchange.upload.end(request.trailers)
        elif exchange.rule.timeout is None and not request.upgrade:
            # The time for the response begins when the body has been sent.
            exchange.deadline = exchange.not_after(math.inf)

    def _body_sent(self, exchange: Exchange) -> None:
        now = time.monotonic()
        if exchange.stream in self.tries.begun:
            self.tries.streams.half_ended(exchange)
        elif exchange.rule.timeout is None:
            exchange.deadline = exchange.not_after(now + DEFAULT_TIMEOUT_S)
        exchange.ends = min(exchange.deadline, now + (exchange.rule.retries.per_try_timeout or math.inf))

    def _try(self, exchange: Exchange) -> None:
        """Make one try: choose an instance that admits it, and send."""
        bus, destination = self._bus, exchange.destination
        assert destination is not None, "a try leads somewhere"
        if not bus.connected:
            message = "the agent has no connection to the bus" + self._because(None)
            self._give_up(exchange, 503, "UF", "bus_unavailable", message)
            return
        if bus.congested:
            message = "the bus takes less than is sent; try again later"
            self._give_up(exchange, 503, "UO", "bus_congested", message)
            return
        now = time.monotonic()
        if now >= exchange.deadline:
            self._give_up(exchange, 504, "UT", "timeout", "no time is left for this request")
            return
        retries = exchange.rule.retries
        tried = exchange.tried if retries.ignore_previous else ()
        if destination.guarded:
            endpoint = self._pick_guarded(exchange, destination, now)
            if endpoint is None and exchange.grants is None:
                message = f"the breaker of {destination.target} is open"
                self._give_up(exchange, 503, "UO", "breaker_open", message)
                return
        else:
            endpoint = destination.pick(now, tried, exchange.key)
        if endpoint is None:
            self._wait_or_give_up(exchange)
            return
        exchange.ends = exchange.deadline
        upload = exchange.upload
        if retries.per_try_timeout is not None and (upload is None or upload.complete):
            exchange.ends = min(exchange.deadline, now + retries.per_try_timeout)
        self._observer.begin_try(exchange)
        try:
            self.tries.send(exchange, endpoint, now)
        except TryFailed:
            message = f"the headers are larger than the bus takes: {bus.max_payload} bytes per message"
            self._observer.end_try(exchange, 431, "DPE", now)
            self._give_up(exchange, 431, "DPE", "headers_too_large", message)

    def _pick_guarded(self, exchange: Exchange, destination: Destination, now: float) -> Endpoint | None:
        """Choose an instance where breakers have a say; leave what they granted in ``exchange.grants``."""
        grants = exchange.grants = destination.admit(now)
        if grants is None:
            return None
        tried = list(exchange.tried)
        for _ in range(MAX_ASKED):
            endpoint = destination.pick(now, tried, exchange.key)
            if endpoint is None or destination.admit_at(endpoint, grants, now):
                return endpoint
        return None

    # -- waiting -----------------------------------------------------------------------------------

    def _waited_in_line(self, exchange: Exchange) -> None:
        message = f"no place at {exchange.target} within {exchange.allowed:g} s"
        self._give_up(exchange, 504, "UT", "timeout", message)

    def _wait_or_give_up(self, exchange: Exchange) -> None:
        """No instance is usable: wait if one may come within reach in a moment."""
        destination, target = exchange.destination, exchange.target
        assert destination is not None, "a try leads somewhere"
        assert target is not None, "a try leads somewhere"
        for breaker, token in exchange.grants or ():
            breaker.abandoned(token)
        exchange.grants = None
        upstream = self._upstreams.upstream(target.service)
        patience = target.traffic.limits.connect_timeout or PATIENCE_S
        if upstream.pending and self._parking.park(exchange, time.monotonic(), patience):
            self._ticker.wake()
            return
        states = upstream.states(destination.states(), target.labels)
        if states:
            message = f"no usable instance of {target} ({states})" + self._because(None)
        elif upstream.endpoints:
            others = f"none that serves {target.service} has the labels"
            message = f"no instance of {target}, {others}" + self._because(target.service)
        else:
            message = f"nobody serves {target}" + self._because(target.service)
        self._give_up(exchange, 503, "UH", "no_healthy_upstream", message)

    def _because(self, service: ServiceName | None) -> str:
        """Return what revocations have to do with it, to be added to a message.

        Args:
            service: whose instances are missing; None: only a revocation of this very instance counts.
        """
        why = self.revoked(service)
        return f": {why}" if why else ""

    def _release(self, service: ServiceName) -> None:
        """Something changed about ``service``: let those that wait for it try again."""
        now = time.monotonic()
        for exchange in self._parking.leave(service):
            if now < exchange.deadline:
                self._try(exchange)
            else:
                self._waited_in_vain(exchange)

    def _tick(self, now: float) -> bool:
        """Find who has waited for an instance for too long."""
        for exchange in self._parking.leave_late(now):
            if now >= exchange.deadline:
                self._waited_in_vain(exchange)
            else:
                self._wait_or_give_up(exchange)
        return bool(self._parking)

    def _waited_in_vain(self, exchange: Exchange) -> None:
        message = f"no instance of {exchange.target} came within reach within {exchange.allowed:g} s"
        assert exchange.target is not None, "it waited for one"
        self._give_up(exchange, 504, "UT", "timeout", message + self._because(exchange.target.service))

    # -- how tries end -----------------------------------------------------------------------------

    def answered(self, exchange: Exchange, response: WireResponse) -> None:
        """Hear that the application answered, in one piece."""
        now = time.monotonic()
        status, reason, headers, body, declared, _, _ = response
        if self.wants_another(exchange, response):
            message = f"instance {exchange.instance} answered {status}"
            self.failed(exchange, Outcome.UNKNOWN, status, "", "retriable_response", message)
            return
        self._try_over(exchange, status, "", now)
        if exchange.race is not None:
            self.begins(exchange)
        exchange.release()
        exchange.request.respond(status, reason, exchange.response_block(headers), body, declared)
        self._observer.end_request(exchange, status, "", len(body))
        self._ended(exchange)

    def wants_another(self, exchange: Exchange, response: WireResponse) -> bool:
        """Say whether another try is to follow this response of the application, which then nobody sees."""
        status, spent = response.status, response.spent
        block = response.headers if response.grpc else b""  # a search in each would cost half a microsecond
        again = exchange.rule.retries.again_after(status, block, len(exchange.tried) + 1)
        if again and not spent and exchange.repeatable and self._may_repeat(exchange, time.monotonic()):
            return True
        if status >= 500 and (again or spent or exchange.tried):
            exchange.spent()
        return False

    def _may_repeat(self, exchange: Exchange, now: float) -> bool:
        """Ask the retry budget, and take from it."""
        destination, context = exchange.destination, exchange.context
        if now >= exchange.deadline or destination is None or (context is not None and context.attempt):
            return False
        self._give_back(exchange)
        try:
            exchange.budget = destination.guard.grant_retry(now)
        except OverBudget:
            return False
        return True

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
        """Hear that a try failed: make another if that is safe and granted, else tell the application.

        Args:
            alive: the instance itself brought the failure about; its retries add to its load and come out of
                the budget. What an instance that died had under way is repeated elsewhere in any case.
        """
        now = time.monotonic()
        self._try_failed(exchange, status, flags, now)
        if self._drops_out(exchange):
            return
        retries, tries = exchange.rule.retries, len(exchange.tried)
        granted = code == "retriable_response"  # asked for already
        if not granted:
            granted = (
                now < exchange.deadline
                and exchange.repeatable
                and retries.again(outcome, exchange.head.method, tries, flags)
                and (not alive or outcome is Outcome.NOT_PROCESSED or self._may_repeat(exchange, now))
            )
        if not granted:
            exchange.spent()
            self._give_up(exchange, status, flags, code, message)
            return
        pause = 0.0 if outcome is Outcome.NOT_PROCESSED or not alive else retries.backoff(tries, self._rng)
        if not pause:
            self._try(exchange)
        elif now + pause >= exchange.deadline or not self._waiting.wait(exchange, now + pause, self._try):
            self._give_up(exchange, status, flags, code, message)

    # -- tries beside each other -------------------------------------------------------------------

    def hedges(self, exchange: Exchange) -> bool:
        """Hear that a try has its own time behind it: if the rule hedges, run another one beside it."""
        retries = exchange.rule.retries
        if not retries.hedge or exchange.upload is not None:
            return False
        exchange.ends = exchange.deadline
        race = exchange.race = exchange.race or Race(exchange)
        tries = len(exchange.tried) + len(race.runners)
        method = exchange.head.method
        if retries.again(Outcome.UNKNOWN, method, tries, "UT") and self._may_repeat(
            exchange, time.monotonic()
        ):
            self._try(race.join())
        return True

    def begins(self, exchange: Exchange) -> None:
        """A try has the response: call off those that run beside it."""
        race = exchange.race
        for other in race.win(exchange) if race is not None else ():
            if self.tries.cancel(other, "answered_elsewhere"):
                self._try_over(other, 499, "DC", time.monotonic())
            elif not self._parking.remove(other):
                self._waiting.remove(other)
            self._give_back(other)

    def _drops_out(self, exchange: Exchange) -> bool:
        """Say whether a try failed while others of the same request run, so that nothing follows from it."""
        if exchange.race is None or not exchange.race.leave(exchange):
            return False
        self._give_back(exchange)
        return True

    def over(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        """Hear that a response in parts has ended, in whatever way."""
        self._try_over(exchange, status, flags, time.monotonic())
        exchange.release()
        self._observer.end_request(exchange, status, flags, size)
        self._ended(exchange)

    def _try_over(self, exchange: Exchange, status: int, flags: str, now: float) -> None:
        """A try has ended: let all hear that keep count of it."""
        endpoint, destination = exchange.endpoint, exchange.destination
        if endpoint is None or destination is None:
            return
        endpoint.active -= 1
        self._observer.end_try(exchange, status, flags, now)
        if flags or status >= 500 or not destination.plain:
            grants, exchange.grants = exchange.grants, None
            destination.report(endpoint, status, flags, now - exchange.sent_at, grants, now)

    def _try_failed(self, exchange: Exchange, status: int, flags: str, now: float) -> None:
        if exchange.endpoint is not None:
            self._try_over(exchange, status, flags, now)
            exchange.try_ended(exchange.endpoint)

    # -- how requests end --------------------------------------------------------------------------

    def _give_up(self, exchange: Exchange, status: int, flags: str, code: str, message: str) -> None:
        """Answer in the mesh's own name."""
        wait = exchange.retry_after
        answer = Answer(status, flags, code, message, str(exchange.service), exchange.instance, wait)
        self.answer(exchange, answer)

    def answer(self, exchange: Exchange, answer: Answer) -> None:
        """End a request with an answer of the mesh's own."""
        if self._drops_out(exchange):
            return
        exchange.release()
        exchange.request.answer(answer)
        self._observer.end_request(exchange, answer.status, answer.flags, 0)
        self._ended(exchange)

    def respond(self, exchange: Exchange, status: int, reason: bytes, headers: bytes, body: bytes) -> None:
        """End a request with a response that stands in its rule."""
        exchange.release()
        exchange.request.respond(status, reason, exchange.response_block(headers), body)
        self._observer.end_request(exchange, status, "", len(body))
        self._ended(exchange)

    def _ended(self, exchange: Exchange) -> None:
        """Give back what the request held."""
        self.active -= 1
        if exchange.budget is not None:
            self._give_back(exchange)
        admission, destination = exchange.admission, exchange.destination
        if admission is not None:
            exchange.admission = None
            admission.release()
            if admission.pending and destination is not None:
                self._queues.promote(destination)

    def _give_back(self, exchange: Exchange) -> None:
        if exchange.budget is not None:
            exchange.budget.give_back()
            exchange.budget = None

    def abandon(self, request: Incoming) -> None:
        """Hear that the client of a request is gone: nobody waits, here or at the instance."""
        exchange: Exchange | None = request.exchange
        if exchange is None:
            return
        self.begins(exchange)
        request.exchange = None
        if exchange.stream in self.tries.begun:
            self.tries.streams.break_off(exchange, "DC", "client_gone", "the client is gone")
        elif self.tries.cancel(exchange, "client_gone"):
            self._try_failed(exchange, 499, "DC", time.monotonic())
            self._give_up(exchange, 499, "DC", "client_gone", "the client is gone")
        elif self._queues.leave(exchange) or self._parking.remove(exchange) or self._waiting.remove(exchange):
            self._waiting.remove(exchange)
            self._give_up(exchange, 499, "DC", "client_gone", "the client is gone")

    def fail_all(self, endpoint: Endpoint, code: str, message: str) -> None:
        """Fail what is in flight to ``endpoint``, as no answer will come."""
        self.tries.fail_all(endpoint, code, message)

    def _on_connection(self, standing: bool) -> None:
        """The bus is gone: no answer to what is in flight will ever come."""
        if not standing:
            for exchange in self._parking.leave_all():
                self._try(exchange)  # finds that there is no bus, and says so
            self.tries.bus_lost()

    def statistics(self) -> dict[str, int]:
        waiting = len(self._parking) + len(self._waiting)
        return {"active": self.active, "waiting": waiting, **self.tries.statistics()}

    def __repr__(self) -> str:
        return f"<Outbound active={self.active} {self.tries!r} waiting={len(self._parking)}>"
