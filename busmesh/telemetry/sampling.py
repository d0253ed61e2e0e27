"""Which traces are recorded, as OpenTelemetry's environment variables say.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

Decided here and not in the SDK, because a request that is not sampled shall cost less than a microsecond.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

_log = logging.getLogger(__name__)
_ALWAYS = {"always_on": 1.0, "always_off": 0.0}


@dataclass(frozen=True, slots=True)
class Sampling:
    """A decision on traces.

    Attributes:
        ratio: share of the traces that are recorded, 0 to 1.
        follow: whether a caller that says so is followed, in both directions; the ratio is then for requests
            that bring no trace. Without it the ratio is for all.
    """

    ratio: float
    follow: bool = True

    @property
    def bound(self) -> int:
        """Traces whose id's lower 64 bits are below this are in the ratio, as the SDK's TraceIdRatioBased."""
        return round(self.ratio * 2**64)


#: Nothing is recorded, whoever asks.
OFF = Sampling(0.0, follow=False)


def disabled(environ: Mapping[str, str]) -> bool:
    """Return whether ``OTEL_SDK_DISABLED`` is set."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def from_environment(environ: Mapping[str, str], ratio: float) -> Sampling:
    """Return what the environment asks for; ``ratio`` with the caller followed if it asks for nothing.

    ``OTEL_SDK_DISABLED``, ``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG`` are read. A value that is
    not known is logged and passed over, as the specification asks: the application beside the agent shares
    the environment, and its SDK may know more samplers.
    """
    if disabled(environ):
        return OFF
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if not name:
        return Sampling(ratio)
    root = name.removeprefix("parentbased_")
    follow = root != name
    if root in _ALWAYS:
        return Sampling(_ALWAYS[root], follow)
    if root == "traceidratio":
        return Sampling(_argument(environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()), follow)
    _log.warning("OTEL_TRACES_SAMPLER %.80r is not known here; traces are sampled at %s", name, ratio)
    return Sampling(ratio)


def _argument(text: str) -> float:
    try:
        ratio = float(text or "1")
    except ValueError:
        ratio = -1.0
    if 0 <= ratio <= 1:
        return ratio
    _log.warning("OTEL_TRACES_SAMPLER_ARG %.80r is not a share from 0 to 1; taken as 1", text)
    return 1.0
