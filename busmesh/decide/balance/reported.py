"""CLIENT_SIDE_WEIGHTED_ROUND_ROBIN: evenly in turn, by what each instance says it can bear.

Envoy's balancer of that name, with reports out of the announcements instead of ORCA's headers. A caller sees
only its own requests; the instance sees everybody's, and its processor. What it serves per second, divided by
how busy that makes it, is what it could serve.

Such weights are all different, with which the round robin of nginx looks at each candidate for each request.
The golden-ratio sequence of `busmesh.decide.split` spreads turns as evenly and looks at few.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from busmesh.decide.balance.base import C
from busmesh.decide.balance.figures import BLACKOUT_S, STALE_S, Figures
from busmesh.decide.balance.simple import Weighted
from busmesh.decide.balance.warmup import STEP_S, Warmup, warmed
from busmesh.decide.split import GRID, STEP

#: How much a share of failed requests adds to the utilisation (Envoy's ``error_utilization_penalty``).
ERROR_PENALTY = 1.0
#: No report makes an instance count more than so many times the mean, or less than that part of it: an
#: instance that says it does 100 requests per second with nothing is not believed.
MOST = 10.0


class Reported(Weighted[C]):
    """CLIENT_SIDE_WEIGHTED_ROUND_ROBIN: each second the weights follow the latest reports."""

    def __init__(
        self, candidates: Sequence[C], rng: Random, now: float = 0.0, warmup: Warmup | None = None
    ) -> None:
        super().__init__(candidates, rng, now, warmup)
        self._random = Golden(rng.random())

    def _weigh(self, now: float) -> tuple[list[float], float]:
        announced = [c.weight for c in self.candidates]
        weights = reported_weights(announced, [capacity(c.figures, now) for c in self.candidates])
        warm, _ = warmed([(1, c.since) for c in self.candidates], now, self._warmup)
        return [weight * share for weight, share in zip(weights, warm, strict=True)], now + STEP_S


class Golden:
    """Numbers from 0 up to 1 that are spread evenly over any stretch of them, beginning anywhere."""

    __slots__ = ("_position",)

    def __init__(self, start: float) -> None:
        self._position = int(start * GRID) / GRID

    def __call__(self) -> float:
        position = self._position + STEP
        if position >= 1.0:
            position -= 1.0
        self._position = position
        return position


def capacity(figures: Figures, now: float) -> float | None:
    """Return the requests per second that an instance could serve, None if it does not say so lately."""
    if now - figures.reported > STALE_S or now - figures.reporting < BLACKOUT_S or figures.qps <= 0:
        return None
    utilisation = figures.utilisation + ERROR_PENALTY * figures.eps / figures.qps
    return figures.qps / utilisation if utilisation > 0 else None


def reported_weights(announced: Sequence[int], capacities: Sequence[float | None]) -> list[float]:
    """Return the weight of each instance: by its capacity, or what it announced if it reports none.

    Capacities are scaled so that those who report one keep together the weight that they announce together;
    so both kinds stand side by side.
    """
    known = [(weight, rate) for weight, rate in zip(announced, capacities, strict=True) if rate is not None]
    if not known:
        return [float(weight) for weight in announced]
    mean_rate = sum(rate for _, rate in known) / len(known)
    mean_weight = sum(weight for weight, _ in known) / len(known)
    return [
        float(weight) if rate is None else mean_weight * min(MOST, max(1 / MOST, rate / mean_rate))
        for weight, rate in zip(announced, capacities, strict=True)
    ]
