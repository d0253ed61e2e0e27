"""What a request at work here means for the calls that the application makes for it.

An application that passes the trace context on says thereby for which request it calls. Such a call gets no
more time than is left for that request, is not retried if the request is itself a retry, and if retries of it
were used up here, the answer tells the caller's agent so that it makes none of its own: one failing
application behind four hops with two retries each would otherwise get each request 81 times.
"""

from __future__ import annotations

from typing import Protocol

from busmesh.telemetry.tracecontext import TRACE_ID

#: Of requests at work; more are simply not known of.
CAPACITY = 4096


class Context(Protocol):
    """One request at work at the application beside this agent.

    Attributes:
        deadline: when its caller stops waiting (monotonic seconds).
        attempt: which try of it this is; above 0 it is a retry.
        spent: calls made for it failed and are not worth another try of the whole.
    """

    deadline: float
    spent: bool

    @property
    def attempt(self) -> int: ...


class Contexts:
    """The requests at work here, by trace id."""

    def __init__(self) -> None:
        self._by_trace: dict[bytes, Context] = {}

    def begin(self, trace: bytes, context: Context) -> bool:
        """Note a request that goes to the application in this trace; False if it is not known of then."""
        by_trace = self._by_trace
        if trace in by_trace or len(by_trace) >= CAPACITY:
            return False  # of two with one trace id nobody can say which one a call belongs to: the first
        by_trace[trace] = context
        return True

    def end(self, trace: bytes) -> None:
        """Hear that the request noted for this trace was answered."""
        self._by_trace.pop(trace, None)

    def of(self, traceparent: bytes | None) -> Context | None:
        """Return the request for which the application makes a call with this trace context."""
        return None if traceparent is None else self._by_trace.get(traceparent[TRACE_ID])

    def __len__(self) -> int:
        return len(self._by_trace)

    def __repr__(self) -> str:
        return f"<Contexts at work={len(self._by_trace)}>"
