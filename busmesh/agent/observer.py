"""What the request path tells telemetry: one call at the begin and one at the end of each try and request.

Nearly all requests cost here a counter and a trace header passed on; events and spans are for the few that
are sampled.
"""

from __future__ import annotations

import time

from busmesh.agent.witness import Witness
from busmesh.decide.authz.engine import Decision
from busmesh.decide.headers import HeaderOps
from busmesh.names import SpiffeId
from busmesh.relay.inbound.access import refusal_of
from busmesh.relay.inbound.peer import Peer
from busmesh.relay.inbound.work import Work
from busmesh.relay.tries.exchange import Exchange
from busmesh.telemetry.access import AccessLog
from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.series import RequestMetrics
from busmesh.telemetry.trace import Trace, Tracer
from busmesh.telemetry.tracecontext import TRACE_ID, TRACE_ID_IN_BLOCK, TRACE_LINE
from busmesh.wire.http import WireRequest

#: Name and help of what authorization counts, by document and place of the rule in it.
DENIED = ("busmesh_authorization_denied_total", "Requests that a policy did not let through.")
DRY_RUN = (
    "busmesh_authorization_dry_run_total",
    "Requests whose answer would change if the policies in dry run were in force, and to what.",
)
AUDITED = ("busmesh_authorization_audited_total", "Requests that an AUDIT is about.")
_NO_TRACESTATE = HeaderOps(remove=("tracestate",))


class Observer:
    """Telemetry of both directions of one process.

    Args:
        registry: counts requests.
        access: takes those that are told one by one.
        tracer: samples traces.
        me: the instance.
        version: of its service, as labels say.
        witness: writes down what operators ask about.
    """

    def __init__(
        self,
        registry: Registry,
        access: AccessLog,
        tracer: Tracer,
        me: SpiffeId,
        version: str,
        witness: Witness,
    ) -> None:
        self._registry = registry
        self._access = access
        self._tracer = tracer
        self._me = me
        self._witness = witness
        self._witnessed = witness.records
        self._service = str(me.service)
        self._version = version
        self._unserved: dict[tuple[str, str], RequestMetrics] = {}

    # -- calls made by this instance -----------------------------------------------------------------

    def begin_try(self, exchange: Exchange) -> None:
        if self._witnessed:
            self._witness.begin_try(exchange)
        trace = exchange.trace
        if trace is None:
            trace = exchange.trace = self._tracer.begin(exchange.request.traceparent)
        joined = trace is exchange.request.traceparent if isinstance(trace, bytes) else trace.joined
        if not joined and exchange.request.tracestate:
            # A new trace: the state belongs to one that ended here (W3C Trace Context, section 3.3.1).
            exchange.head.block = _NO_TRACESTATE.apply_block(exchange.head.block)
        if isinstance(trace, bytes):
            exchange.traceparent = trace
            return
        head = exchange.request.head
        span = trace.start(
            "client",
            time.time_ns(),
            method=head.method,
            route=exchange.rule.name,
            service=str(exchange.called),
            target=head.target,
            resend=len(exchange.tried),
        )
        exchange.span = span
        exchange.traceparent = span.traceparent

    def end_try(self, exchange: Exchange, status: int, flags: str, now: float) -> None:
        if self._witnessed:
            self._witness.end_try(exchange, status, flags, now)
        span = exchange.span
        if span is not None:
            exchange.span = None
            span.end(time.time_ns(), status, flags)
        endpoint = exchange.endpoint
        if endpoint is None:
            return
        metrics = endpoint.metrics.get(exchange.rule.name)
        if metrics is None:
            metrics = endpoint.metrics[exchange.rule.name] = self._registry.requests(
                "source",
                self._service,
                self._me.principal,
                str(endpoint.service),
                endpoint.version,
                exchange.rule.name,
            )
        metrics.record(status, flags, now - exchange.sent_at)

    def end_request(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        if self._witnessed:
            self._witness.end_request(exchange, status, flags)
        endpoint = exchange.endpoint
        if endpoint is None:
            # Answered without any try. The name came from the application, so it is no label unless known.
            key = (str(exchange.service), exchange.rule.name)
            metrics = self._unserved.get(key)
            if metrics is None:
                known = key if len(self._unserved) < 256 else ("unknown", "default")
                metrics = self._unserved[known] = self._registry.requests(
                    "source", self._service, self._me.principal, known[0], "", known[1]
                )
            metrics.record(status, flags, time.monotonic() - exchange.started)
        if self._access.wanted(status):
            self._tell_outbound(exchange, status, flags, size)

    def _tell_outbound(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        seconds = time.monotonic() - exchange.started
        endpoint, head = exchange.endpoint, exchange.request.head
        self._access.event(
            now=time.time() - seconds,
            reporter="source",
            source_service=self._service,
            source_principal=str(self._me),
            destination_service=str(exchange.called),
            destination_instance=exchange.instance,
            destination_version=endpoint.version if endpoint is not None else "",
            route=exchange.rule.name,
            method=head.method,
            target=head.target,
            status=status,
            flags=flags,
            seconds=seconds,
            bytes_in=exchange.request.size,
            bytes_out=size,
            attempts=len(exchange.tried) + (0 if flags else 1),
            trace_id=exchange.traceparent[TRACE_ID].decode("ascii", "replace"),
        )

    # -- calls received by this instance -------------------------------------------------------------

    def begin_inbound(self, work: Work) -> bytes:
        block = work.request.headers
        traceparent = None
        if block.startswith(TRACE_LINE):  # where the caller's agent puts it
            end = block.find(b"\r\n")
            traceparent = block[len(TRACE_LINE) : end]
            trace = self._tracer.begin(traceparent)
            if trace is traceparent:
                return block + work.peer.certificate_line
            rest = block[end + 2 :]
        else:
            rest = block
            trace = self._tracer.begin(None)
        if isinstance(trace, Trace):
            span = trace.start(
                "server",
                time.time_ns(),
                method=work.request.method,
                route="inbound",
                service=self._service,
                target=work.request.target,
            )
            work.span = span
            trace = span.traceparent
        return b"%b%b\r\n%b%b" % (TRACE_LINE, trace, rest, work.peer.certificate_line)

    def end_inbound(self, work: Work, size: int) -> None:
        if work.span is not None:
            work.span.end(time.time_ns(), work.status, work.flags)
        seconds = time.monotonic() - work.started
        self._received(work.peer).record(work.status, work.flags, seconds)
        if self._access.wanted(work.status):
            self._tell_inbound(
                work.peer, work.request, work.status, work.flags, seconds, work.size, size, detail=""
            )

    def judged(self, peer: Peer, request: WireRequest, decision: Decision) -> None:
        shadow = decision.shadow
        if shadow is not None and shadow.allowed != decision.allowed:
            self._count(DRY_RUN, shadow, result="allowed" if shadow.allowed else "denied")
        for policy in decision.audits:
            self._registry.counter(*AUDITED, {"policy": policy}).add()
        if decision.allowed:
            return
        self._count(DENIED, decision, reason=decision.code)
        flags = refusal_of(decision).flags
        self._received(peer).record(decision.status, flags, 0.0)
        if self._access.wanted(decision.status, denied=True):
            size = len(request.body)
            self._tell_inbound(peer, request, decision.status, flags, 0.0, size, 0, detail=decision.reason)

    def _count(self, family: tuple[str, str], decision: Decision, **more: str) -> None:
        rule = str(decision.rule) if decision.rule >= 0 else "none"
        self._registry.counter(*family, {"policy": decision.policy or "none", "rule": rule, **more}).add()

    def _received(self, peer: Peer) -> RequestMetrics:
        """Return what counts the requests of a caller."""
        metrics = peer.metrics
        if metrics is None:
            caller = peer.session.peer
            metrics = peer.metrics = self._registry.requests(
                "destination", str(caller.service), caller.principal, self._service, self._version, "inbound"
            )
        return metrics

    def _tell_inbound(
        self,
        peer: Peer,
        request: WireRequest,
        status: int,
        flags: str,
        seconds: float,
        bytes_in: int,
        bytes_out: int,
        *,
        detail: str,
    ) -> None:
        caller = peer.session.peer
        self._access.event(
            now=time.time() - seconds,
            reporter="destination",
            source_service=str(caller.service),
            source_principal=str(caller),
            destination_service=self._service,
            destination_instance=self._me.instance,
            destination_version=self._version,
            route="inbound",
            method=request.method,
            target=request.target,
            status=status,
            flags=flags,
            seconds=seconds,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            attempts=request.attempt + 1,
            trace_id=request.headers[TRACE_ID_IN_BLOCK].decode("ascii", "replace"),
            detail=detail,
        )
