"""Slow start: an instance that has just come gets its share little by little.

Caches are cold and code is not compiled yet; an equal share from the first second is what makes a roll-out
visible in the tail. The formula is Envoy's, the names are Istio's (``loadBalancer.warmup``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: How often weights are worked out anew while anything warms up, in seconds.
STEP_S = 1.0


@dataclass(frozen=True, slots=True)
class Warmup:
    """How long an instance warms up, and how its share grows.

    Attributes:
        duration: seconds until it has its whole weight.
        minimum_percent: of its weight, from the first moment; less is gentler, and learns less.
        aggression: 1.0 grows in a straight line; above, the first seconds bring more.
    """

    duration: float
    minimum_percent: float = 10.0
    aggression: float = 1.0


def warm_share(age: float, warmup: Warmup) -> float:
    """Return the part of its weight, above 0 and up to 1, that an instance of ``age`` seconds has."""
    if age >= warmup.duration:
        return 1.0
    grown = max(age, 1.0) / warmup.duration
    return min(1.0, max(warmup.minimum_percent / 100, math.pow(grown, 1 / warmup.aggression)))


def warmed(
    instances: Iterable[tuple[int, float]], now: float, warmup: Warmup | None
) -> tuple[list[float], float]:
    """Return the weights of (weight, since) at this moment, and when they are different ones."""
    if warmup is None:
        return [weight for weight, _ in instances], math.inf
    shares = [(weight, warm_share(now - since, warmup)) for weight, since in instances]
    changing = any(share < 1.0 for _, share in shares)
    return [weight * share for weight, share in shares], now + STEP_S if changing else math.inf
