"""The ``traceparent`` header: W3C Trace Context, level 1.

https://www.w3.org/TR/2021/REC-trace-context-1-20211123/

A mesh that looks at a trace only now and then passes an unsampled header on as it came. What is malformed
counts as absent, and then the ``tracestate`` that came with it must go too (section 3.3.1).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_FIELDS = rb"(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
#: Version 00 is exactly these fields; a later version may add some after a dash, and 'ff' is no version.
_TRACEPARENT = re.compile(
    rb"(?:00-" + _FIELDS + rb"|(?!00|ff)[0-9a-f]{2}-" + _FIELDS + rb"(?:-.*)?)", re.DOTALL
)
#: What most requests bring: version 00, lowest bit of the flags not set. One match is all they cost.
unsampled = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]").fullmatch
_SAMPLED = 0x01
#: Where the trace id stands in a header's value, of any version.
TRACE_ID = slice(3, 35)
#: How a header block begins that an agent has written: the trace context is its first line.
TRACE_LINE = b"traceparent: "
#: Where the trace id stands in such a block.
TRACE_ID_IN_BLOCK = slice(len(TRACE_LINE) + TRACE_ID.start, len(TRACE_LINE) + TRACE_ID.stop)


class TraceParent(NamedTuple):
    """A valid header: the trace, the span that called, and whether the caller may have recorded it."""

    trace_id: int
    span_id: int
    sampled: bool


def parse(header: bytes) -> TraceParent | None:
    """Read a header's value, None if it is malformed.

    Of a version after 00 the known fields are read (section 3.2.4, "Versioning of traceparent"). Two headers,
    joined with a comma, are malformed, as the specification has it.
    """
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    trace_id, span_id, flags = match.group(1, 2, 3) if match.group(1) else match.group(4, 5, 6)
    return TraceParent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))


def write(trace_id: int, span_id: int, *, sampled: bool) -> bytes:
    """Return a header of version 00. Flags that level 1 does not know are 0."""
    return b"00-%032x-%016x-%02x" % (trace_id, span_id, sampled)


def trace_id(header: bytes) -> str:
    """Return the trace id of a valid header, as 32 hex digits: for logs and access events."""
    return header[TRACE_ID].decode()
