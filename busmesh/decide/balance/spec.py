"""From what a document says to a balancer over the instances that there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from busmesh.decide.affinity import Affinity
from busmesh.decide.balance.base import Balancer, C
from busmesh.decide.balance.ewma import PeakEwma
from busmesh.decide.balance.grouped import Grouped
from busmesh.decide.balance.hashing import HashSpec
from busmesh.decide.balance.locality import LocalitySpec, by_itself, shares
from busmesh.decide.balance.maglev import Maglev
from busmesh.decide.balance.reported import Reported
from busmesh.decide.balance.ring import Ring
from busmesh.decide.balance.simple import LeastRequest, RoundRobin, Weighted
from busmesh.decide.balance.sticky import Sticky
from busmesh.decide.balance.warmup import Warmup
from busmesh.decide.origin import Origin
from busmesh.decide.sticky import StickySession

Simple = Literal["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM", "PEAK_EWMA", "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN"]

SIMPLE: dict[Simple, type[Balancer[Any]]] = {
    "LEAST_REQUEST": LeastRequest,
    "ROUND_ROBIN": RoundRobin,
    "RANDOM": Weighted,
    "PEAK_EWMA": PeakEwma,
    "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN": Reported,
}


@dataclass(frozen=True, slots=True)
class BalancerSpec:
    """How one of the instances of a target is chosen; comparable plain data.

    Attributes:
        simple: Istio's ``loadBalancer.simple``; without meaning where ``hash`` is given.
        hash: keeps requests of one key together.
        sticky: a session stays with its instance; not together with ``hash``.
        locality: which part of the traffic goes where; None for no preference.
        warmup: how a new instance gets its share; not for ``hash``.
        panic_percent: below this share of usable instances all are used; 0 for never.
    """

    simple: Simple = "LEAST_REQUEST"
    hash: HashSpec | None = None
    sticky: StickySession | None = None
    locality: LocalitySpec | None = None
    warmup: Warmup | None = None
    panic_percent: float = 0

    @property
    def affinity(self) -> Affinity | None:
        """What a request says of where it belongs; None for most specs."""
        return self.sticky if self.hash is None else self.hash.key


DEFAULT_BALANCER = BalancerSpec()


def make(
    spec: BalancerSpec,
    members: Sequence[C],
    rng: Random,
    now: float,
    origin: Origin,
    usable: Callable[[C], bool] = by_itself,
) -> Balancer[C]:
    """Return a balancer over ``members`` as they are at the moment; make another when one changes.

    Args:
        spec: what the document says.
        members: every instance of the target that is announced and not draining, the unusable ones included:
            they get nothing, but count for the health of their locality and for panic.
        rng: source of randomness.
        now: monotonic seconds.
        origin: the instance whose requests are balanced.
        usable: asked of each member; a destination may know more against one than the member does.
    """
    members = [member for member in members if member.weight > 0]
    found = shares(members, origin, spec.locality, spec.panic_percent, usable)
    groups = [(share.part, _within(spec, share.candidates, rng, now)) for share in found]
    balancer: Balancer[C]
    match groups:
        case []:
            balancer = _within(spec, (), rng, now)
        case [(_, only)]:
            balancer = only
        case _:
            balancer = Grouped(groups, rng)
    return balancer if spec.sticky is None else Sticky(balancer, rng)


def _within(spec: BalancerSpec, candidates: Sequence[C], rng: Random, now: float) -> Balancer[C]:
    if spec.hash is None:
        return SIMPLE[spec.simple](candidates, rng, now, spec.warmup)
    return (Ring if spec.hash.algorithm == "ringHash" else Maglev)(candidates, rng, spec.hash.size)
