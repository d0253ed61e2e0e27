"""Finished spans as OTLP/JSON: what ``POST /v1/traces`` of any collector takes.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: ids in hex, 64-bit integers as strings,
enums as numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

#: trace.proto, SpanFlags: whether it is known that the parent is remote, and whether it is.
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
#: trace.proto, SpanKind begins with UNSPECIFIED; the API's does not.
_KIND_OFFSET = 1

Json = dict[str, object]


def request(resource: Resource, scope: Json, spans: Iterable[ReadableSpan]) -> Json:
    """Return an ExportTraceServiceRequest with the spans of one resource and one scope."""
    told: Json = {"attributes": attributes(resource.attributes)}
    return {
        "resourceSpans": [
            {"resource": told, "scopeSpans": [{"scope": scope, "spans": [span(each) for each in spans]}]}
        ]
    }


def span(ended: ReadableSpan) -> Json:
    """Return one span that has ended."""
    context: SpanContext = ended.context
    parent = ended.parent
    told: Json = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "flags": int(context.trace_flags) | _HAS_IS_REMOTE,
        "name": ended.name,
        "kind": ended.kind.value + _KIND_OFFSET,
        "startTimeUnixNano": str(ended.start_time),
        "endTimeUnixNano": str(ended.end_time),
        "attributes": attributes(ended.attributes or {}),
        "status": {"code": ended.status.status_code.value},
    }
    if parent is not None:
        told["parentSpanId"] = f"{parent.span_id:016x}"
        if parent.is_remote:
            told["flags"] = int(context.trace_flags) | _HAS_IS_REMOTE | _IS_REMOTE
    if ended.dropped_attributes:
        told["droppedAttributesCount"] = ended.dropped_attributes
    return told


def attributes(values: Mapping[str, object]) -> list[Json]:
    """Return attributes as a list of KeyValue."""
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: object) -> Json:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case Sequence():
            return {"arrayValue": {"values": [_value(item) for item in value]}}
        case _:
            return {"stringValue": str(value)}
