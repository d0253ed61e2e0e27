"""PEAK_EWMA: the candidate that would probably answer first, by what its answers took lately.

Finagle's and Linkerd's balancer. Counting requests at work finds a slow instance only after some have piled
up there; the time of its answers finds it at once, also at one request at a time.
"""

from __future__ import annotations

from busmesh.decide.balance.base import C
from busmesh.decide.balance.figures import Figures
from busmesh.decide.balance.simple import Weighted


class PeakEwma(Weighted[C]):
    """PEAK_EWMA: of two candidates drawn by weight, the one of less ``cost``; on a tie the first drawn."""

    def _compile(self) -> None:
        super()._compile()
        self._mean = self._total / self._count
        self._crowding = [self._mean / weight for weight in self._weights]

    def _choose(self, now: float, key: bytes | None) -> C:
        candidates, crowding = self.candidates, self._crowding
        one, other = self._draw_two()
        first, second = candidates[one], candidates[other]
        mine = cost(first.figures, first.active, crowding[one], now)
        return second if cost(second.figures, second.active, crowding[other], now) < mine else first

    def _load(self, candidate: C, weight: float, now: float) -> float:
        return cost(candidate.figures, candidate.active, self._mean / weight, now)


def cost(figures: Figures, active: int, crowding: float, now: float) -> float:
    """Return what one more request would cost, in seconds: a latency for itself and for each before it.

    Args:
        figures: of the instance.
        active: requests at work there.
        crowding: how much each of them weighs, the mean weight divided by its own. The request itself weighs
            1 everywhere, because the draw has regarded the weights already: else an idle service saw them
            squared.
        now: monotonic seconds.
    """
    return figures.latency_at(now) * (active * crowding + 1)
