"""What holds for the requests to one destination, beside which instance gets them."""

from __future__ import annotations

from dataclasses import dataclass

from busmesh.decide.breaker import BreakerPolicy
from busmesh.decide.budget import RetryBudget
from busmesh.decide.concurrency import AdaptiveConcurrency
from busmesh.decide.ejection import OutlierDetection
from busmesh.decide.limits import NO_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class Traffic:
    """The settings of one service or subset; None is off, and all is off unless a document asks for it.

    That is Istio's choice, too: an ejection or a limit that nobody asked for is an outage that nobody
    understands. Comparable, so that state kept per destination outlives a revision that does not touch it.

    Attributes:
        breaker: of the destination as a whole; ``instance_breaker`` of each instance by itself.
    """

    limits: Limits = NO_LIMITS
    retry_budget: RetryBudget | None = None
    outlier_detection: OutlierDetection | None = None
    breaker: BreakerPolicy | None = None
    instance_breaker: BreakerPolicy | None = None
    adaptive_concurrency: AdaptiveConcurrency | None = None


DEFAULT_TRAFFIC = Traffic()
