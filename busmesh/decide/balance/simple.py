"""The balancers that look at weights and at requests at work, by Istio's names.

``RANDOM``, ``LEAST_REQUEST`` and ``ROUND_ROBIN``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import inf
from random import Random

from busmesh.decide.balance.base import Balancer, C
from busmesh.decide.balance.warmup import Warmup


class Weighted(Balancer[C]):
    """RANDOM: each candidate in proportion to its weight."""

    def _compile(self) -> None:
        weights = self._weights
        *bounds, self._total = accumulate(weights)
        # The last is open: a product of floats may round up to the total itself.
        self._bounds = [*bounds, inf]
        self._count = len(weights)
        self._equal = min(weights) == max(weights)

    def _choose(self, now: float, key: bytes | None) -> C:
        return self.candidates[self._draw()]

    def _draw(self) -> int:
        """Return the position of a candidate."""
        if self._equal:
            return int(self._random() * self._count)
        return bisect_right(self._bounds, self._random() * self._total)

    def _draw_two(self) -> tuple[int, int]:
        """Return two positions; those of equals differ, each pair of them being equally likely."""
        if self._equal and self._count > 1:
            one, other = int(self._random() * self._count), int(self._random() * (self._count - 1))
            return one, other + 1 if other >= one else other
        return self._draw(), self._draw()


class LeastRequest(Weighted[C]):
    """LEAST_REQUEST, the default: of two candidates drawn by weight, the one with fewer requests at work.

    The power of two choices (Mitzenmacher 2001): nearly as even as asking all, and unlike "the least loaded
    of all" it does not send every caller to the same instance at once. The draw respects the weights and so
    does the comparison, ``active / weight``; on a tie the first drawn wins, so that an idle service still
    sees its weights. Recent failures count as requests at work (`Figures.failing`): looking whether there
    were any is all that this costs while there are none.
    """

    def _choose(self, now: float, key: bytes | None) -> C:
        candidates = self.candidates
        if self._count == 1:
            return candidates[0]
        one, other = self._draw_two()
        first, second = candidates[one], candidates[other]
        load: float = first.active
        other_load: float = second.active
        if first.figures.failures:
            load += first.figures.failing(now)
        if second.figures.failures:
            other_load += second.figures.failing(now)
        if self._equal:
            return second if other_load < load else first
        weights = self._weights
        return second if other_load * weights[one] < load * weights[other] else first


class RoundRobin(Balancer[C]):
    """ROUND_ROBIN: in turn, smoothly weighted (the algorithm of nginx), beginning anywhere.

    Equals take turns at no cost; different weights cost a look at each candidate.
    """

    def __init__(
        self, candidates: Sequence[C], rng: Random, now: float = 0.0, warmup: Warmup | None = None
    ) -> None:
        self._credit: list[float] = []
        super().__init__(candidates, rng, now, warmup)
        # A random start keeps many callers from marching in step.
        total = sum(self._weights)
        self._credit = [self._random() * total for _ in self.candidates]
        self._turn = int(self._random() * len(self.candidates))

    def _compile(self) -> None:
        self._total = sum(self._weights)
        self._equal = min(self._weights) == max(self._weights)

    def _choose(self, now: float, key: bytes | None) -> C:
        if self._equal:
            turn = self._turn
            self._turn = turn + 1 if turn + 1 < len(self.candidates) else 0
            return self.candidates[turn]
        credit = self._credit
        best = 0
        for index, weight in enumerate(self._weights):
            credit[index] += weight
            if credit[index] > credit[best]:
                best = index
        credit[best] -= self._total
        return self.candidates[best]
