"""One request of the application, through all its tries, and who hears of each."""

from __future__ import annotations

from typing import Protocol

from busmesh.decide.route import Rule, Target
from busmesh.names import ServiceName
from busmesh.relay.flow import Receiver
from busmesh.relay.request import Request
from busmesh.relay.upload import Upload
from busmesh.relay.upstream import Endpoint
from busmesh.telemetry.spans import Span, Trace
from busmesh.wire.frame import Session
from busmesh.wire.http import SWITCHING

#: Envoy's default for a route without a timeout.
DEFAULT_TIMEOUT_S = 15.0


class Exchange:
    """One request of the application, through all its tries."""

    __slots__ = (
        "asked",
        "asked_at",
        "counter",
        "deadline",
        "doubt",
        "download",
        "endpoint",
        "moved",
        "parked_at",
        "request",
        "rule",
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

    def __init__(
        self, request: Request, service: ServiceName, rule: Rule, target: Target, started: float
    ) -> None:
        self.request = request
        self.service = service
        self.rule = rule
        self.target = target
        self.started = started
        #: Of the response's beginning; if the rule sets a timeout, of its end.
        self.deadline = started + (rule.timeout or DEFAULT_TIMEOUT_S)
        self.endpoint: Endpoint | None = None
        #: The one that this try was sealed in; the endpoint may have a newer one when the answer comes.
        self.session: Session | None = None
        self.tried: list[Endpoint] = []
        #: Since when it waits for an instance to come within reach.
        self.parked_at: float | None = None
        self.stream = 0
        self.counter = 0
        #: How often, and when last, the instance was asked what became of it.
        self.asked = 0
        self.asked_at = 0.0
        #: (since when, code, message): somebody says, unsealed, that this try never reached an application.
        self.doubt: tuple[float, str, str] | None = None
        #: The instance itself said that it works on this try.
        self.vouched = False
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

    def try_ended(self, endpoint: Endpoint) -> None:
        """Note that the try at ``endpoint`` failed, and forget what is known of it."""
        self.tried.append(endpoint)
        self.parked_at, self.asked, self.asked_at = None, 0, 0.0
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
        block = self.request.head.block
        for operations in (self.target.request_headers, self.rule.request_headers):
            if operations is not None:
                block = operations.apply_block(block)
        return block

    def response_block(self, block: bytes) -> bytes:
        """Return the headers for the application, after what destination and rule do to them."""
        for operations in (self.target.response_headers, self.rule.response_headers):
            if operations is not None:
                block = operations.apply_block(block)
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

    @property
    def instance(self) -> str:
        return self.endpoint.instance if self.endpoint is not None else ""


class Observer(Protocol):
    """Who hears of each finished try and request: telemetry."""

    def begin_try(self, exchange: Exchange) -> None:
        """Set ``exchange.traceparent`` for this try."""

    def end_try(self, exchange: Exchange, status: int, flags: str) -> None:
        """Hear that a try ended; ``flags`` is empty for an application's own response."""

    def end_request(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        """Hear that the application was answered."""
