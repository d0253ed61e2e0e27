"""The few requests that are recorded: OpenTelemetry spans, kept until they are drained.

The SDK is used without its processors and exporters: no thread, no global provider, no work at exit. A span
costs the request path some 20 us, so who makes a :class:`Trace` asks :attr:`Recorder.room` first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from busmesh import __version__
from busmesh.telemetry import otlp
from busmesh.telemetry.access import MAX_METHOD, MAX_PATH, readable
from busmesh.telemetry.text import bounded
from busmesh.telemetry.tracecontext import TraceParent, write

_SCOPE: otlp.Json = {"name": "busmesh", "version": __version__}
#: RFC 9110 section 9 and RFC 5789; any other is told as _OTHER (semantic conventions for HTTP spans).
_METHODS = {
    method.encode(): method
    for method in ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
}
_KINDS = {"client": SpanKind.CLIENT, "server": SpanKind.SERVER}

Kind = Literal["client", "server"]


class Recorder:
    """Makes spans, and keeps those that ended until they are drained.

    Args:
        resource: attributes of who traces; ``OTEL_RESOURCE_ATTRIBUTES`` adds to them and replaces none.
        rng: makes span ids.
        max_per_second: spans from one drain to the next.
        capacity: spans that have ended and wait to be drained; more are dropped.
        paths: whether spans have ``url.path``.

    Attributes:
        room: spans that may still be made before the next drain. A trace under way may go over it.
        started: spans made, since the start.
    """

    def __init__(
        self,
        resource: Mapping[str, str],
        rng: Random,
        *,
        max_per_second: int,
        capacity: int,
        paths: bool,
    ) -> None:
        self.paths = paths
        self.room = self._max_per_second = max_per_second
        self.started = 0
        self._ended = _Ended(capacity)
        self._ids = _Ids(rng)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # only what has been decided on comes here
            resource=Resource.create(dict(resource)),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(self._ended)
        self._tracer = self._provider.get_tracer("busmesh", __version__)

    def start(
        self, trace: Trace, name: str, kind: Kind, attributes: Mapping[str, str | int], now_ns: int
    ) -> OtelSpan:
        """Make a span of ``trace``; the request path calls :meth:`Trace.start`."""
        self.room -= 1
        self.started += 1
        self._ids.trace_id = trace.number
        return self._tracer.start_span(
            name, context=trace.context, kind=_KINDS[kind], attributes=attributes, start_time=now_ns
        )

    def drain(self) -> otlp.Json | None:
        """Return what ended since the last call as an OTLP/JSON request, None if nothing; renew the room."""
        self.room = self._max_per_second
        spans = self._ended.drain()
        return otlp.request(self._provider.resource, _SCOPE, spans) if spans else None

    def statistics(self) -> dict[str, int]:
        return {
            "started": self.started,
            "waiting": len(self._ended.spans),
            "capacity": self._ended.capacity,
            "dropped": self._ended.dropped,
        }

    def __repr__(self) -> str:
        return f"<Recorder {self.statistics()}>"


class Trace:
    """One sampled request.

    Attributes:
        number: the trace id.
        joined: whether it belongs to the caller's trace; if not, a ``tracestate`` must not be passed on.
        context: the caller's span, for the SDK; empty if the trace begins here.
    """

    __slots__ = ("_recorder", "context", "joined", "number")

    def __init__(self, recorder: Recorder, number: int, parent: TraceParent | None) -> None:
        self._recorder = recorder
        self.number = number
        self.joined = parent is not None
        self.context = Context()
        if parent is not None:
            flags = TraceFlags(TraceFlags.SAMPLED)
            remote = SpanContext(number, parent.span_id, is_remote=True, trace_flags=flags)
            self.context = set_span_in_context(NonRecordingSpan(remote), self.context)

    @property
    def trace_id(self) -> str:
        return f"{self.number:032x}"

    def start(
        self,
        kind: Kind,
        now_ns: int,
        *,
        method: bytes,
        route: str,
        service: str,
        target: bytes = b"",
        resend: int = 0,
        extra: Mapping[str, str | int] | None = None,
    ) -> Span:
        """Start the span of one try on the way out (``client``) or of a request that came in (``server``).

        Args:
            kind: which of the two.
            now_ns: Unix time in nanoseconds.
            method: as sent.
            route: the route's name, of low cardinality; never the path.
            service: the service that answers.
            target: path and query as sent. The path is told only if the tracer was made so, the query never.
            resend: tries before this one.
            extra: more attributes, such as ``busmesh.destination.instance``.
        """
        known = _METHODS.get(method)
        route = bounded(route)
        attributes: dict[str, str | int] = {
            "http.request.method": known or "_OTHER",
            "server.address": bounded(service),
            **(extra or {}),
        }
        if known is None:
            attributes["http.request.method_original"] = readable(method[:MAX_METHOD])
        if route:
            attributes["http.route" if kind == "server" else "busmesh.route"] = route
        if resend:
            attributes["http.request.resend_count"] = resend
        if kind == "server":
            attributes["url.scheme"] = "http"
        if target and self._recorder.paths:
            attributes["url.path"] = readable(target.partition(b"?")[0])[:MAX_PATH]
        name = f"{known or 'HTTP'} {route}" if route else known or "HTTP"
        return Span(self._recorder.start(self, name, kind, attributes, now_ns), kind)

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id} joined={self.joined}>"


class Span:
    """One try that is being recorded.

    Attributes:
        traceparent: the header to pass on with this try.
    """

    __slots__ = ("_failed", "_span", "traceparent")

    def __init__(self, span: OtelSpan, kind: Kind) -> None:
        self._span = span
        # Semantic conventions: a 4xx is the caller's error, and the server's span is spared.
        self._failed = 400 if kind == "client" else 500
        context = span.get_span_context()
        self.traceparent = write(context.trace_id, context.span_id, sampled=True)

    def end(self, now_ns: int, status: int, flags: str = "") -> None:
        """End it.

        Args:
            now_ns: Unix time in nanoseconds.
            status: of the response; 0 if none came.
            flags: the mesh's reason (``UT``, ``UF``, ...), which is then the type of the error.
        """
        span = self._span
        if status:
            span.set_attribute("http.response.status_code", status)
        if flags:
            span.set_attribute("busmesh.response_flags", bounded(flags))
        if status >= self._failed or not status:
            span.set_attribute("error.type", bounded(flags) or str(status or "_OTHER"))
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=now_ns)

    def __repr__(self) -> str:
        return f"<Span {self.traceparent.decode()}>"


class _Ended(SpanProcessor):
    """Keeps ended spans in memory, up to a bound; the SDK's own processors have threads."""

    def __init__(self, capacity: int) -> None:
        self.spans: deque[ReadableSpan] = deque()
        self.capacity = capacity
        self.dropped = 0

    def on_end(self, span: ReadableSpan) -> None:
        if len(self.spans) < self.capacity:
            self.spans.append(span)
        else:
            self.dropped += 1

    def drain(self) -> list[ReadableSpan]:
        spans = list(self.spans)
        self.spans.clear()
        return spans


class _Ids(IdGenerator):
    """Gives the SDK the trace id that was decided on, so that all tries of a request share it."""

    def __init__(self, rng: Random) -> None:
        self._bits = rng.getrandbits
        self.trace_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self._bits(64) or 1
