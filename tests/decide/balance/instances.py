"""Instances as balancers see them, and what tests do with many picks."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import inf
from random import Random

from busmesh.decide.balance import Balancer, BalancerSpec, Figures, Simple, make
from busmesh.decide.origin import Origin

LEAST, MOST = 0.0, 1 - 2**-53


@dataclass(eq=False)
class Instance:
    instance: str
    weight: int = 100
    active: int = 0
    figures: Figures = field(default_factory=lambda: Figures(0.0))
    usable: bool = True
    reachable: bool = True
    locality: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    since: float = -inf

    def __repr__(self) -> str:
        return self.instance


class Fixed(Random):
    """A generator that always says the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


def instances_of(*weights: int) -> list[Instance]:
    return [Instance(f"i{n}", weight) for n, weight in enumerate(weights)]


def simple(
    name: Simple, candidates: Collection[Instance], rng: Random, now: float = 0.0
) -> Balancer[Instance]:
    return make(BalancerSpec(name), list(candidates), rng, now, Origin())


def shares_of(chosen: Balancer[Instance], picks: int, now: float = 0.0) -> Counter[str]:
    counted: Counter[str] = Counter()
    for _ in range(picks):
        picked = chosen.pick(now)
        assert picked is not None
        counted[picked.instance] += 1
    return counted


def is_fair(counted: Mapping[str, int], expected: Mapping[str, float], *, deviations: float = 4.5) -> bool:
    """Say whether counts are within so many standard deviations of a fair draw, each one."""
    picks, whole = sum(counted.values()), sum(expected.values())
    for name, weight in expected.items():
        part = weight / whole
        if abs(counted.get(name, 0) - picks * part) > deviations * (picks * part * (1 - part)) ** 0.5 + 1e-9:
            return False
    return counted.keys() <= expected.keys()


@dataclass
class Service:
    """A small simulation: instances that serve one request at a time, in virtual time."""

    rng: Random
    duration: Mapping[str, float]
    fails: frozenset[str] = frozenset()
    latencies: list[float] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    failures: int = 0

    def run(self, chosen: Balancer[Instance], *, rate: float, requests: int) -> None:
        """Send requests at random moments; what fails does so in a thousandth of a unit."""
        now, free = 0.0, dict.fromkeys(self.duration, 0.0)
        under_way: list[tuple[float, int, float, Instance]] = []
        for number in range(requests):
            now += self.rng.expovariate(rate)
            while under_way and under_way[0][0] <= now:
                end, _, began, picked = heapq.heappop(under_way)
                picked.active -= 1
                if picked.instance in self.fails:
                    picked.figures.failed(end)
                else:
                    picked.figures.answered(end - began, end)
            target = chosen.pick(now)
            assert target is not None
            target.active += 1
            name = target.instance
            self.served[name] += 1
            if name in self.fails:
                self.failures += 1
                end = now + 0.001
            else:
                end = free[name] = max(now, free[name]) + self.duration[name]
                self.latencies.append(end - now)
            heapq.heappush(under_way, (end, number, now, target))

    def percentile(self, share: float) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * share)]
