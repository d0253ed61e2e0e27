"""One request of the application, through all its tries, and who hears of each."""

from __future__ import annotations

from typing import Protocol

from busmesh.decide.budget import Budget
from busmesh.decide.limits import Admission
from busmesh.decide.route import Rule, Target
from busmesh.names import ServiceName
from busmesh.relay.client.request import Incoming
from busmesh.relay.contexts import Context
from busmesh.relay.destination.destination import Destination, Grants
from busmesh.relay.destination.upstream import Endpoint
from busmesh.relay.flow import Receiver
from busmesh.relay.tries.racing import Race
from busmesh.relay.upload import Upload
from busmesh.telemetry.spans import Span, Trace
from busmesh.wire.frame import Session
from busmesh.wire.http import SWITCHING

#: Envoy's default for a route without a timeout.
DEFAULT_TIMEOUT_S = 15.0


class Exchange:
    """One request of the application, through all its tries."""

    __slots__ = (
        "admission",
        "asked",
        "asked_at",
        "budget",
        "context",
        "counter",
        "deadline",
        "destination",
        "doubt",
        "download",
        "endpoint",
        "ends",
        "grants",
        "head",
        "key",
        "moved",
        "patience_ends",
        "race",
        "request",
        "retry_after",
        "rule",
        "said",
        "sent_at",
        "service",
        "session",
        "span",
        "started",
        "status",
        "stream",
        "target",
        "trace",
        "traceparent",
        "tried",
        "upload",
        "vouched",
    )

    def __init__(self, request: Incoming, service: ServiceName, rule: Rule, started: float) -> None:
        self.request = request
        self.service = service
        self.rule = rule
        #: What is sent: the request's own head, unless the rule rewrites it.
        self.head = request.head
        #: None until the rule has picked one, and for good if it answers by itself.
        self.target: Target | None = None
        self.started = started
        #: Of the response's beginning; if the rule sets a timeout, of its end.
        self.deadline = started + (rule.timeout or DEFAULT_TIMEOUT_S)
        #: Of this try: the same, or sooner if the rule bounds each try.
        self.ends = self.deadline
        self.destination: Destination | None = None
        #: Where it has a place, and what granted the retry under way: given back at the end of each.
        self.admission: Admission | None = None
        self.budget: Budget | None = None
        #: Of breakers, for the try under way.
        self.grants: Grants | None = None
        #: What it said of where it belongs, and what the balancer is given.
        self.said: bytes | None = None
        self.key: bytes | None = None
        self.endpoint: Endpoint | None = None
        #: The one that this try was sealed in; the endpoint may have a newer one when the answer comes.
        self.session: Session | None = None
        self.tried: list[Endpoint] = []
        #: Until when it waits for an instance to come within reach.
        self.patience_ends: float | None = None
        self.stream = 0
        self.counter = 0
        #: How often, and when last, the instance was asked what became of it.
        self.asked = 0
        self.asked_at = 0.0
        #: (since when, code, message): somebody says, unsealed, that this try never reached an application.
        self.doubt: tuple[float, str, str] | None = None
        #: The instance itself said that it works on this try.
        self.vouched = False
        #: The request at work beside this agent for which this one is made, if it says so.
        self.context: Context | None = None
        #: Other tries of the same request that run beside it.
        self.race: Race[Exchange] | None = None
        #: What an instance said of when to ask again.
        self.retry_after = 0
        self.sent_at = 0.0
        self.traceparent = b""
        #: The body that is sent while it comes, and the response that comes in parts.
        self.upload: Upload | None = None
        self.download: Receiver | None = None
        self.status = 0
        #: When either of them last got on, after the response has begun.
        self.moved = 0.0
        self.trace: Trace | bytes | None = None
        self.span: Span | None = None

    def is_with(self, worker: int | None) -> bool:
        """Say whether the try under way went to this process of its instance; None is any."""
        return worker is None or (self.session is not None and self.session.worker == worker)

    def try_ended(self, endpoint: Endpoint) -> None:
        """Note that the try at ``endpoint`` failed, and forget what is known of it."""
        self.tried.append(endpoint)
        self.patience_ends, self.asked, self.asked_at = None, 0, 0.0
        self.doubt, self.vouched = None, False
        if self.upload is not None:
            self.upload.stop()

    def release(self) -> None:
        """Let go of what holds this exchange, so that bodies do not wait for the collector."""
        self.request.exchange = self.request.download = None
        if self.upload is not None:
            self.upload.close()

    def request_block(self) -> bytes:
        """Return the headers for the instance, after what destination and rule do to them."""
        block = self.head.block
        if self.target is not None and self.target.request_headers is not None:
            block = self.target.request_headers.apply_block(block)
        if self.rule.request_headers is not None:
            block = self.rule.request_headers.apply_block(block)
        return block

    def response_block(self, block: bytes) -> bytes:
        """Return the headers for the application, after what destination and rule do to them."""
        if self.target is not None and self.target.response_headers is not None:
            block = self.target.response_headers.apply_block(block)
        if self.rule.response_headers is not None:
            block = self.rule.response_headers.apply_block(block)
        if self.target is not None and (affinity := self.target.balancer.affinity) is not None:
            block += affinity.mark(self.said, self.key, self.instance) or b""
        return block

    @property
    def switched(self) -> bool:
        """Whether the response is a switch to another protocol, where either side ends by itself."""
        return self.status == SWITCHING[0]

    @property
    def repeatable(self) -> bool:
        """Whether the request is here to be sent again."""
        return self.upload is None or self.upload.repeatable

    @property
    def allowed(self) -> float:
        """Seconds that were granted."""
        return self.rule.timeout or DEFAULT_TIMEOUT_S

    def copy(self) -> Exchange:
        """Return an exchange for another try of the same request, beside this one."""
        made = Exchange(self.request, self.service, self.rule, self.started)
        made.head, made.target, made.destination = self.head, self.target, self.destination
        made.said, made.key, made.context, made.race = self.said, self.key, self.context, self.race
        made.deadline, made.tried, made.trace = self.deadline, list(self.tried), self.trace
        return made

    def hand_over(self, other: Exchange) -> None:
        """Let another try of the same request have the client and the place."""
        self.race = None
        self.request.exchange = other
        if self.admission is not None:
            other.admission, self.admission = self.admission, None

    def within(self, context: Context) -> None:
        """Belong to a request at work here: no more time than is left for that one."""
        self.context = context
        self.deadline = self.ends = min(self.deadline, context.deadline)

    def not_after(self, deadline: float) -> float:
        """Return ``deadline``, or what the request that this one is made for leaves of it."""
        return deadline if self.context is None else min(deadline, self.context.deadline)

    def spent(self) -> None:
        """Note that this failed and was tried again, or may not be: whoever waits behind need not try."""
        if self.context is not None:
            self.context.spent = True

    @property
    def called(self) -> ServiceName:
        """Whom it goes to: a rule may send it to another service than the one that was named."""
        return self.service if self.target is None else self.target.service

    @property
    def instance(self) -> str:
        return self.endpoint.instance if self.endpoint is not None else ""


class Observer(Protocol):
    """Who hears of each finished try and request: telemetry."""

    def begin_try(self, exchange: Exchange) -> None:
        """Set ``exchange.traceparent`` for this try."""

    def end_try(self, exchange: Exchange, status: int, flags: str, now: float) -> None:
        """Hear that a try ended; ``flags`` is empty for an application's own response."""

    def end_request(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        """Hear that the application was answered."""
