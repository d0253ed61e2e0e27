"""Load balancing: which instance gets the next try.

Names and meanings are Istio's (``loadBalancer.simple``). Each balancer is made anew when the set of
instances changes; picking is one synchronous call. Instances that were tried before for the same request
are passed over while there is another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Container, Sequence
from itertools import accumulate
from random import Random
from typing import Generic, Protocol, TypeVar


class Candidate(Protocol):
    """What a balancer needs to know of an instance.

    Attributes:
        weight: relative share, at least 0; an instance of weight 0 gets nothing.
        active: requests of this agent that it is working on.
    """

    weight: int
    active: int


C = TypeVar("C", bound=Candidate)


class Balancer(ABC, Generic[C]):
    """Base: keeps the candidates that have any weight."""

    def __init__(self, candidates: Sequence[C], rng: Random) -> None:
        self.candidates = tuple(c for c in candidates if c.weight > 0)
        self._random = rng.random

    def pick(self, tried: Container[C] = ()) -> C | None:
        """Return the instance for the next try, None if there is none at all.

        Args:
            tried: instances that failed this request before; chosen only if nothing else is left.
        """
        if not self.candidates:
            return None
        chosen = self._choose()
        if chosen in tried:
            others = [c for c in self.candidates if c not in tried]
            if others:
                return min(others, key=lambda c: (c.active + 1) / c.weight)
        return chosen

    @abstractmethod
    def _choose(self) -> C:
        """Return a candidate; there is at least one. Each balancer is this one decision."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} candidates={len(self.candidates)}>"


class Weighted(Balancer[C]):
    """RANDOM: each candidate in proportion to its weight."""

    def __init__(self, candidates: Sequence[C], rng: Random) -> None:
        super().__init__(candidates, rng)
        self._bounds = list(accumulate(c.weight for c in self.candidates))
        self._total = self._bounds[-1] if self._bounds else 0
        self._count = len(self.candidates)
        self._equal = len({c.weight for c in self.candidates}) <= 1

    def _choose(self) -> C:
        if self._equal:
            return self.candidates[int(self._random() * self._count)]
        return self.candidates[bisect_right(self._bounds, self._random() * self._total)]


class LeastRequest(Weighted[C]):
    """LEAST_REQUEST, the default: of two candidates drawn by weight, the one with fewer requests at work.

    The power of two choices (Mitzenmacher 2001): nearly as even as asking all, and unlike "the least loaded
    of all" it does not send every caller to the same instance at once. The draw respects the weights and so
    does the comparison, ``active / weight``; on a tie the first drawn wins, so that an idle service still
    sees its weights.
    """

    def _choose(self) -> C:
        candidates, count = self.candidates, self._count
        if count == 1:
            return candidates[0]
        if self._equal:
            one, other = int(self._random() * count), int(self._random() * (count - 1))
            if other >= one:  # two different ones, each pair equally likely
                other += 1
            first, second = candidates[one], candidates[other]
            return second if second.active < first.active else first
        first, second = Weighted._choose(self), Weighted._choose(self)
        return second if second.active * first.weight < first.active * second.weight else first


class RoundRobin(Balancer[C]):
    """ROUND_ROBIN: in turn, smoothly weighted (the algorithm of nginx), beginning anywhere."""

    def __init__(self, candidates: Sequence[C], rng: Random) -> None:
        super().__init__(candidates, rng)
        self._total = sum(c.weight for c in self.candidates)
        # A random start keeps many callers from marching in step.
        self._credit = [self._random() * self._total for _ in self.candidates]

    def _choose(self) -> C:
        credit = self._credit
        best = 0
        for index, candidate in enumerate(self.candidates):
            credit[index] += candidate.weight
            if credit[index] > credit[best]:
                best = index
        credit[best] -= self._total
        return self.candidates[best]


BALANCERS: dict[str, type[Balancer]] = {  # type: ignore[type-arg]  # the candidates' type is the maker's
    "LEAST_REQUEST": LeastRequest,
    "ROUND_ROBIN": RoundRobin,
    "RANDOM": Weighted,
}


def balancer(name: str, candidates: Sequence[C], rng: Random) -> Balancer[C]:
    """Return a balancer by its Istio name (``LEAST_REQUEST``, ``ROUND_ROBIN``, ``RANDOM``)."""
    return BALANCERS[name](candidates, rng)
