"""Who of a destination's instances would be asked, as far as policies and announcements decide it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeVar

from busmesh.decide.balance import Figures, make
from busmesh.decide.balance.base import Candidate
from busmesh.decide.balance.locality import by_itself, shares
from busmesh.decide.balance.panic import in_panic
from busmesh.decide.origin import Origin
from busmesh.decide.request import RequestHead
from busmesh.decide.route import Target

DRAINING, HEALTHY = "draining", "healthy"


@dataclass(frozen=True, eq=False)
class Instance:
    """One instance that serves, as it announces itself; a candidate of a balancer.

    Attributes:
        state: "healthy", "draining", or another word for "not ready".
    """

    instance: str
    state: str = HEALTHY
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int = 100
    locality: str = ""
    #: Nothing is measured from outside, and who was there before does not warm up.
    active: int = 0
    figures: Figures = field(default_factory=lambda: Figures(0.0), repr=False)
    since: float = -math.inf

    @property
    def usable(self) -> bool:
        return self.state == HEALTHY

    @property
    def reachable(self) -> bool:
        return True


class Known(Candidate, Protocol):
    """A candidate that says how it is: "healthy", "draining", "suspect"."""

    @property
    def state(self) -> str: ...


K = TypeVar("K", bound=Known)


def instances_of(
    target: Target,
    known: Sequence[K],
    origin: Origin,
    usable: Callable[[K], bool] = by_itself,
    held: Mapping[str, str] | None = None,
) -> Iterator[dict[str, object]]:
    """Yield each instance of the target's service: its share, or why it gets none.

    The share is that of the destination's requests over time, if all take equally long.

    Args:
        target: the destination.
        known: every instance of its service.
        origin: who calls.
        usable: asked of each; a caller may know more against one than it says itself.
        held: what a caller holds against instances, in words.
    """
    wanted, held = target.labels, held or {}
    members = [
        one
        for one in known
        if one.state != DRAINING and one.weight > 0 and all(one.labels.get(k) == v for k, v in wanted.items())
    ]
    spec = target.balancer
    parts: dict[str, tuple[float, float]] = {}
    for share in shares(members, origin, spec.locality, spec.panic_percent, usable):
        total = sum(one.weight for one in share.candidates)
        for one in share.candidates:
            parts[one.instance] = (share.part, share.part * one.weight / total)
    panic = bool(members) and in_panic(sum(map(usable, members)), len(members), spec.panic_percent)
    for one in known:
        locality_share, part = parts.get(one.instance, (0.0, 0.0))
        yield {
            "instance": one.instance,
            "weight": one.weight,
            "state": one.state,
            "labels": dict(one.labels),
            "locality": one.locality,
            "locality_share": round(100 * locality_share, 2),
            "share": round(100 * part, 2),
            "candidate": one.instance in parts,
            "held": held.get(one.instance, ""),
            "why": held.get(one.instance, "")
            or _why(one, wanted, part, member=one.instance in parts, panic=panic),
        }


def _why(one: Known, wanted: Mapping[str, str], part: float, *, member: bool, panic: bool) -> str:
    """Say in words why an instance is no candidate, or why it is one all the same."""
    lacks = [f"{name}={value}" for name, value in wanted.items() if one.labels.get(name) != value]
    if lacks:
        return f"not of the subset: lacks {', '.join(lacks)}"
    if one.state == DRAINING:
        return "draining"
    if not one.weight:
        return "its weight is 0"
    if not member:
        return f"{one.state}" if not one.usable else "its locality gets nothing"
    if not one.usable:
        return "panic: too few are usable, so all are asked" if panic else ""
    return "" if part else "only if nearer instances failed"


def kept_together(target: Target, known: Sequence[Known], head: RequestHead, origin: Origin) -> str:
    """Return the instance that a consistent hash gives this request; "" if it decides nothing here."""
    key_of = target.balancer.affinity
    if target.balancer.hash is None or key_of is None:
        return ""
    key = key_of.read(head, origin)
    members = [
        one
        for one in known
        if one.state != DRAINING and all(one.labels.get(k) == v for k, v in target.labels.items())
    ]
    if key is None or len(shares(members, origin, target.balancer.locality)) != 1:
        return ""
    chosen = make(target.balancer, members, Random(0), 0.0, origin).pick(0.0, (), key)
    return "" if chosen is None else chosen.instance
