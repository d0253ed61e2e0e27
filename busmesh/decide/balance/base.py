"""What every balancer has in common: candidates, their weights at the moment, and passing over what failed.

Weights change by themselves while an instance warms up or reports its load, and are then worked out anew at
the first pick after ``next_change``, about once a second: a pick compares one number and nothing else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Generic, Protocol, TypeVar

from busmesh.decide.balance.figures import Figures
from busmesh.decide.balance.warmup import Warmup, warmed


class Candidate(Protocol):
    """What a balancer needs to know of an instance; all are attributes or properties.

    Attributes:
        instance: its name, unique within a service.
        weight: relative share, 0 to 10,000, usually 100; an instance of weight 0 gets nothing.
        active: requests of this agent that it is working on.
        figures: what this agent measured of it, and what it reported.
        usable: announced healthy, not suspected, not ejected, and within reach.
        reachable: requests can be sent to it at all, whatever is thought of its health.
        locality: ``region/zone/subzone``, empty if it does not say.
        labels: what it carries.
        since: monotonic seconds when it became known, ``-inf`` if it was there when its service was first
            asked for: only what comes later warms up.
    """

    @property
    def instance(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def active(self) -> int: ...
    @property
    def figures(self) -> Figures: ...
    @property
    def usable(self) -> bool: ...
    @property
    def reachable(self) -> bool: ...
    @property
    def locality(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def since(self) -> float: ...


C = TypeVar("C", bound=Candidate)


class Balancer(ABC, Generic[C]):
    """Base: keeps the candidates that have any weight.

    Attributes:
        candidates: those that it chooses among.
        next_change: monotonic seconds when the weights are to be worked out anew; never, mostly.
    """

    def __init__(
        self, candidates: Sequence[C], rng: Random, now: float = 0.0, warmup: Warmup | None = None
    ) -> None:
        self.candidates = tuple(c for c in candidates if c.weight > 0)
        self._random = rng.random
        self._warmup = warmup
        self._weights: list[float] = []
        self.next_change = math.inf
        if self.candidates:
            self._reweigh(now)

    def pick(self, now: float, tried: Collection[C] = (), key: bytes | None = None) -> C | None:
        """Return the instance for the next try, None if there is none at all.

        Args:
            now: monotonic seconds.
            tried: instances that failed this request before; chosen only if nothing else is left.
            key: what the request says of where it belongs; most balancers do not look.
        """
        if now >= self.next_change:
            self._reweigh(now)
        if not self.candidates:
            return None
        chosen = self._choose(now, key)
        if tried and chosen in tried:
            return self._instead(now, tried, key) or chosen
        return chosen

    @abstractmethod
    def _choose(self, now: float, key: bytes | None) -> C:
        """Return a candidate; there is at least one. Each balancer is this one decision."""

    def _instead(self, now: float, tried: Collection[C], key: bytes | None) -> C | None:
        """Return the least loaded one that was not tried, None if all were."""
        others = [
            (c, weight) for c, weight in zip(self.candidates, self._weights, strict=True) if c not in tried
        ]
        if not others:
            return None
        return min(others, key=lambda pair: self._load(pair[0], pair[1], now))[0]

    def _load(self, candidate: C, weight: float, now: float) -> float:
        """Return how much a candidate would have to do with one more request, less being better."""
        return (candidate.active + candidate.figures.failing(now) + 1) / weight

    def _reweigh(self, now: float) -> None:
        self._weights, self.next_change = self._weigh(now)
        self._compile()

    def _weigh(self, now: float) -> tuple[list[float], float]:
        """Return the weight of each candidate, above 0, and when they are different ones."""
        return warmed([(c.weight, c.since) for c in self.candidates], now, self._warmup)

    def _compile(self) -> None:
        """Work out what follows from new weights."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} candidates={len(self.candidates)}>"
