"""A balancer made of balancers: a draw by share, then a choice within."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from random import Random

from busmesh.decide.balance.base import Balancer, C
from busmesh.decide.balance.hashing import hash64


class Grouped(Balancer[C]):
    """Priorities or localities, each with its part of the traffic and a balancer of its own.

    The key decides also here if there is one, so that a key stays where it is while shares do. When all of a
    group were tried, the groups are gone through from the nearest on.
    """

    def __init__(self, groups: Sequence[tuple[float, Balancer[C]]], rng: Random) -> None:
        """Keep (part, balancer), the nearest first; the parts add up to 1."""
        super().__init__([c for _, balancer in groups for c in balancer.candidates], rng)
        self._groups = tuple(balancer for _, balancer in groups)
        live = [(part, balancer) for part, balancer in groups if part > 0 and balancer.candidates]
        self._live = tuple(balancer for _, balancer in live)
        self._bounds = list(accumulate(part for part, _ in live))[:-1]

    def pick(self, now: float, tried: Collection[C] = (), key: bytes | None = None) -> C | None:
        if not self._live:
            return None
        group = self._live[0]
        if self._bounds:
            draw = self._random() if key is None else hash64(b"group %b" % key) / 2**64
            group = self._live[bisect_right(self._bounds, draw)]
        chosen = group.pick(now, tried, key)
        if tried and chosen in tried:
            for other in self._groups:
                found = other.pick(now, tried, key)
                if found is not None and found not in tried:
                    return found
        return chosen

    def _choose(self, now: float, key: bytes | None) -> C:
        raise NotImplementedError("a group chooses")

    def __repr__(self) -> str:
        return f"<Grouped candidates={len(self.candidates)} groups={len(self._groups)}>"
