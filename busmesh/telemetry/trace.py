"""Which requests are traced: each carries a W3C trace context, and the few that are sampled are recorded.

Nearly all are not sampled. For those :meth:`Tracer.begin` returns the header to pass on, and no more is
done. There is a bound on recorded spans in a second, also for callers who set the sampled flag themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from random import Random

from busmesh.errors import UsageError
from busmesh.telemetry.otlp import Json
from busmesh.telemetry.sampling import OFF, Sampling, disabled, from_environment
from busmesh.telemetry.spans import Kind, Recorder, Span, Trace
from busmesh.telemetry.tracecontext import TraceParent, parse, unsampled

__all__ = ["Kind", "Sampling", "Span", "Trace", "Tracer"]

_LOW_64 = 2**64 - 1
_LOW_128 = 2**128 - 1


class Tracer:
    """Decides which requests are traced, and hands out their spans once a second.

    Args:
        resource: who traces: ``service.name``, ``service.namespace``, ``service.instance.id`` and
            ``service.version``. ``OTEL_RESOURCE_ATTRIBUTES`` adds to it and replaces none.
        rng: makes ids and decides.
        ratio: share of the requests without a trace that begin one, unless ``OTEL_TRACES_SAMPLER`` says
            otherwise.
        max_per_second: spans from one drain to the next. Each costs the request path some 20 us.
        capacity: spans that have ended and wait to be drained; more are dropped. 256 fit one message.
        paths: whether spans have ``url.path``. Off by default: spans travel in the clear.

    Attributes:
        sampling: what is decided by.
        refused: sampled requests that the bound refused, since the start.
    """

    def __init__(
        self,
        resource: Mapping[str, str],
        rng: Random,
        *,
        ratio: float = 0.01,
        max_per_second: int = 200,
        capacity: int = 256,
        paths: bool = False,
    ) -> None:
        if not 0 <= ratio <= 1:
            raise UsageError(f"trace ratio {ratio} is not a share", code="BM6005", hint="from 0 to 1")
        self._bits = rng.getrandbits
        self._recorder = Recorder(
            resource, rng, max_per_second=max_per_second, capacity=capacity, paths=paths
        )
        self.refused = 0
        self._disabled = disabled(os.environ)
        self.use(from_environment(os.environ, ratio))

    def use(self, sampling: Sampling) -> None:
        """Decide by ``sampling`` from now on; without effect where ``OTEL_SDK_DISABLED`` is set."""
        self.sampling = OFF if self._disabled else sampling
        self._follow = self.sampling.follow
        self._bound = self.sampling.bound

    def begin(self, traceparent: bytes | None) -> bytes | Trace:
        """Decide on one request.

        Args:
            traceparent: the value of the header that came with it.

        Returns:
            The header to pass on, for a request that is not sampled: the very same object if it was valid,
            else a new one, and then a ``tracestate`` must not be passed on. A :class:`Trace` for one that is.
        """
        if traceparent is not None:
            if self._follow and unsampled(traceparent):
                return traceparent
            parent = parse(traceparent)
            if parent is not None:
                return self._join(traceparent, parent)
        # That an id is all zeros, and so invalid, has a chance of 2^-64: not worth a look.
        bits = self._bits(192)
        if bits & _LOW_64 < self._bound and self._admit():
            return Trace(self._recorder, bits & _LOW_128, None)
        digits = bits.to_bytes(24, "big").hex()
        return f"00-{digits[16:]}-{digits[:16]}-00".encode()

    def _join(self, traceparent: bytes, parent: TraceParent) -> bytes | Trace:
        wanted = parent.sampled if self._follow else parent.trace_id & _LOW_64 < self._bound
        if wanted and self._admit():
            return Trace(self._recorder, parent.trace_id, parent)
        return traceparent

    def _admit(self) -> bool:
        if self._recorder.room > 0:
            return True
        self.refused += 1
        return False

    def drain(self) -> Json | None:
        """Return the spans that ended since the last call, and allow as many again.

        Returns:
            An OTLP/JSON ExportTraceServiceRequest; None if no span ended.
        """
        return self._recorder.drain()

    def statistics(self) -> dict[str, int]:
        return {**self._recorder.statistics(), "refused": self.refused}

    def __repr__(self) -> str:
        return f"<Tracer {self.sampling} {self.statistics()}>"
