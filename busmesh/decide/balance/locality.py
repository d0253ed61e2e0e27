"""Locality: how much goes to which part of the world, before an instance there is chosen.

Istio's ``localityLbSetting`` and Envoy's arithmetic. A locality is ``region/zone/subzone``. Either traffic is
distributed by fixed percentages (``distribute``), or it stays as near as there is health for: instances fall
into priorities, and a priority whose health is not enough passes on the rest to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from busmesh.decide.balance.base import C, Candidate
from busmesh.decide.balance.panic import candidates_in_panic, in_panic
from busmesh.decide.origin import Origin

#: A priority of which 1 in 1.4, 71 %, is healthy can bear all (Envoy's overprovisioning factor).
OVERPROVISIONING = 1.4
#: Names of labels that mean a part of the locality, as in Istio.
TOPOLOGY = {
    "topology.kubernetes.io/region": 0,
    "topology.kubernetes.io/zone": 1,
    "topology.istio.io/subzone": 2,
}


@dataclass(frozen=True, slots=True)
class LocalitySpec:
    """What a document says of localities.

    Attributes:
        distribute: (from, ((to, percent), ...)); the first that matches the caller is taken.
        failover: (region, region that takes over from it).
        failover_priority: labels, or ``label=value``, in falling importance; the more of them, from the first
            on, an instance has in common with the caller, the nearer it is.
    """

    distribute: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()
    failover: tuple[tuple[str, str], ...] = ()
    failover_priority: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share(Generic[C]):
    """A part of the traffic, and who gets it; a share of 0 is for tries that failed elsewhere."""

    part: float
    candidates: Sequence[C]


def by_itself(member: Candidate) -> bool:
    """Whether nothing is known against an instance but what it knows itself."""
    return member.usable


def shares(
    members: Sequence[C],
    origin: Origin,
    spec: LocalitySpec | None,
    panic_percent: float = 0,
    usable: Callable[[C], bool] = by_itself,
) -> list[Share[C]]:
    """Return who gets which part, the nearest first; empty if nobody is left.

    Args:
        members: every instance of the target that is announced and not about to leave, usable or not: how
            many of a locality are ill decides what goes elsewhere.
        origin: the caller. Without a locality of its own it prefers none.
        spec: None for no preference.
        panic_percent: below this share of usable instances the others count as usable, too.
        usable: asked of each member.
    """
    if spec is not None:
        for source, targets in spec.distribute:
            if origin.locality and matches(origin.locality, source):
                return _distributed(members, targets, panic_percent, usable)
    if spec is None or spec.distribute or not (origin.locality or spec.failover_priority):
        return _by_priority([members], panic_percent, usable)
    groups: dict[tuple[int, int], list[C]] = {}
    for member in members:
        groups.setdefault(priority(member, origin, spec), []).append(member)
    return _by_priority([groups[key] for key in sorted(groups)], panic_percent, usable)


def priority(candidate: Candidate, origin: Origin, spec: LocalitySpec) -> tuple[int, int]:
    """Return how far away an instance is; less is nearer. By labels first, then by locality, as in Istio."""
    by_label = label_distance(candidate, origin, spec.failover_priority)
    if not origin.locality or (spec.failover_priority and not spec.failover):
        return by_label, 0
    distance = locality_distance(origin.locality, candidate.locality)
    region = split_locality(origin.locality)[0]
    heir = next((to for source, to in spec.failover if source == region), None)
    if distance == 3 and heir is not None and split_locality(candidate.locality)[0] != heir:
        distance = 4
    return by_label, distance


def locality_distance(mine: str, theirs: str) -> int:
    """Return 0 for the same subzone, 1 for the same zone, 2 for the same region, else 3."""
    pairs = zip(split_locality(mine), split_locality(theirs), strict=True)
    return 3 - next((level for level, (one, other) in enumerate(pairs) if one != other), 3)


def label_distance(candidate: Candidate, origin: Origin, labels: Sequence[str]) -> int:
    """Return how many labels are left from the first one on that differs; 0 if all agree."""
    for index, wanted in enumerate(labels):
        name, given, value = wanted.partition("=")
        if _label(candidate, name) != (value if given else _label(origin, name)):
            return len(labels) - index
    return 0


def _label(side: Candidate | Origin, name: str) -> str:
    labels: Mapping[str, str] = side.labels
    if name in TOPOLOGY and name not in labels:
        return split_locality(side.locality)[TOPOLOGY[name]]
    return labels.get(name, "")


def split_locality(locality: str) -> tuple[str, str, str]:
    """Return region, zone and subzone; what is not said is empty."""
    region, _, rest = locality.partition("/")
    zone, _, subzone = rest.partition("/")
    return region, zone, subzone


def matches(locality: str, pattern: str) -> bool:
    """Say whether a locality lies within ``us-east``, ``us-east/*``, ``us-east/a/1`` or ``*``."""
    pairs = zip(split_locality(locality), split_locality(pattern), strict=True)
    return all(
        wanted == "*" or part == wanted or (level > 0 and not wanted)
        for level, (part, wanted) in enumerate(pairs)
    )


def spill(health: Sequence[float]) -> list[float]:
    """Return which part of the traffic each priority gets, the first one first.

    Each takes as much as its health allows of what is left. If they cannot bear all together, all are scaled
    up alike. The sum is 1, or 0 if nothing is healthy.

    Args:
        health: of each priority, 0 to 1, overprovisioning included.
    """
    available = min(1.0, sum(health))
    left, parts = 1.0 if available else 0.0, []
    for one in health:
        part = min(left, one / available) if available else 0.0
        parts.append(part)
        left -= part
    return parts


def health_of(usable: int, announced: int) -> float:
    """Return the health of a priority or locality: 1 as long as 71 % of its instances are usable."""
    return min(1.0, OVERPROVISIONING * usable / announced) if announced else 0.0


def _breadth(target: tuple[str, int]) -> tuple[bool, int]:
    """Sort the special localities before those that include them."""
    return target[0] == "*", -target[0].count("/")


def _reachable(members: Sequence[C]) -> list[C]:
    return [member for member in members if member.reachable]


def _by_priority(
    groups: Sequence[Sequence[C]], panic_percent: float, usable: Callable[[C], bool]
) -> list[Share[C]]:
    well = [list(filter(usable, group)) for group in groups]
    counts = [(len(some), len(group)) for some, group in zip(well, groups, strict=True)]
    health = [health_of(*count) for count in counts]
    parts = spill(health)
    chosen: Sequence[Sequence[C]] = well
    if sum(health) < 1.0:  # as long as all of it finds a place there is no panic, as in Envoy
        chosen = [
            _reachable(candidates_in_panic(group, some, panic_percent))
            for group, some in zip(groups, well, strict=True)
        ]
        if all(in_panic(*count, panic_percent) for count in counts):
            total = sum(map(len, chosen))
            parts = [len(group) / total if total else 0.0 for group in chosen]
    return [Share(part, group) for part, group in zip(parts, chosen, strict=True) if group]


def _distributed(
    members: Sequence[C],
    targets: Sequence[tuple[str, int]],
    panic_percent: float,
    usable: Callable[[C], bool],
) -> list[Share[C]]:
    """Return the parts by percentage; a locality that is ill gets less of its own (Envoy's locality weights).

    What belongs to no locality named gets nothing, as in Istio.
    """
    panic = in_panic(sum(map(usable, members)), len(members), panic_percent)
    found = []
    left = list(members)
    for pattern, percent in sorted(targets, key=_breadth):
        group = [member for member in left if matches(member.locality, pattern)]
        left = [member for member in left if not matches(member.locality, pattern)]
        well = _reachable(group) if panic else list(filter(usable, group))
        if well:
            found.append(Share(percent * (1.0 if panic else health_of(len(well), len(group))), well))
    total = sum(share.part for share in found)
    found.sort(key=lambda share: -share.part)
    return [Share(share.part / total, share.candidates) for share in found]
