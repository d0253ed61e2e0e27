"""Shared evidence: what all callers of a service together see of its instances.

Alone, each caller needs its own five failures to find out what the others know already. So callers tell each
other what they see, and an instance that a quorum of them sees failing is ejected by all. What they tell is
believed only that far: a reporter has one vote on an instance whatever it claims, the reporters of one
service together have few, fewer than two reporters never suffice, and no verdict ejects more than the share
of a service that its policy allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from busmesh.decide.report import Seen
from busmesh.names import ServiceName


@dataclass(frozen=True, slots=True)
class EvidencePolicy:
    """How many must agree.

    Attributes:
        minimum_reporters: that see an instance failing, at least 2: one may be unlucky, mistaken or lying.
        quorum_percent: of the votes of those who have an opinion of it; lower ejects sooner and lets a
            smaller group of liars do it.
        maximum_votes_per_service: that the reporters of one calling service have together, however many
            they are; whoever can start many instances of one service gains nothing beyond.
        minimum_volume: requests of a reporter to an instance in its window, without which it does not call
            the instance failing.
        failure_percentage_threshold: of those requests, at which it sees the instance failing.
        expiry: seconds that a report counts; a newer one of the same reporter replaces it.
    """

    minimum_reporters: int = 2
    quorum_percent: float = 50.0
    maximum_votes_per_service: int = 5
    minimum_volume: int = 5
    failure_percentage_threshold: int = 50
    expiry: float = 15.0

    def __post_init__(self) -> None:
        if self.minimum_reporters < 2:
            raise ValueError("one reporter never suffices")


class Reporter(NamedTuple):
    """Who reports, as proven by the signature of the message and by nothing in it."""

    service: ServiceName
    instance: str


def opinion(seen: Seen, policy: EvidencePolicy) -> bool | None:
    """Say whether a reporter sees an instance failing; None if it saw too little to tell.

    Few failures say nothing yet, but few successes say that it serves: without their vote, two liars would be
    a majority wherever there is little traffic.
    """
    if seen.ejected:
        return True
    if not seen.calls:
        return None
    if seen.failures * 100 < policy.failure_percentage_threshold * seen.calls:
        return False
    return True if seen.calls >= policy.minimum_volume else None


def votes(opinions: Iterable[tuple[ServiceName, bool]], maximum_per_service: int) -> tuple[float, float]:
    """Return (votes that see the instance failing, all votes).

    A service whose reporters are more than the maximum casts that many votes, divided as its reporters are.
    """
    reporters: Counter[ServiceName] = Counter()
    failing: Counter[ServiceName] = Counter()
    for service, fails in opinions:
        reporters[service] += 1
        failing[service] += fails
    against = total = 0.0
    for service, count in reporters.items():
        weight = min(count, maximum_per_service)
        total += weight
        against += weight * failing[service] / count
    return against, total


def quorum(total: float, policy: EvidencePolicy) -> float:
    """Return how many votes must see an instance failing, of so many in all."""
    return max(float(policy.minimum_reporters), total * policy.quorum_percent / 100)


class Evidence:
    """The reports on the instances of one service.

    Args:
        policy: how many must agree.
        capacity: reporters that are remembered. Above it the longest unheard one of the service with the
            most reporters is forgotten, so that a flood of one service's only displaces itself.

    Attributes:
        condemned: the instances of the last verdict.
    """

    __slots__ = ("_capacity", "_reports", "condemned", "policy")

    def __init__(self, policy: EvidencePolicy, capacity: int) -> None:
        self.policy = policy
        self.condemned: frozenset[str] = frozenset()
        self._capacity = capacity
        #: In the order in which they were heard, the longest unheard first.
        self._reports: dict[Reporter, tuple[float, Mapping[str, Seen]]] = {}

    def heard(self, reporter: Reporter, seen: Mapping[str, Seen], now: float) -> None:
        """Take in a report, which replaces the reporter's last one."""
        self._reports.pop(reporter, None)
        self._reports[reporter] = (now, seen)
        if len(self._reports) > self._capacity:
            self._expire(now)
        if len(self._reports) > self._capacity:
            crowd = Counter(known.service for known in self._reports)
            largest = max(crowd, key=lambda service: (crowd[service], service))
            del self._reports[next(known for known in self._reports if known.service == largest)]

    def forget(self, reporter: Reporter) -> None:
        """Hear that a reporter has left the mesh."""
        self._reports.pop(reporter, None)

    def judge(self, allowed: int, instances: Collection[str], now: float) -> frozenset[str]:
        """Return the instances that are to be ejected; asked once a second or so, and never per request.

        Of more than ``allowed`` those stay ejected that are, then those go that most votes see failing, so
        that agents which heard the same decide the same.

        Args:
            allowed: how many may be ejected: `ejectable` of the service's instances.
            instances: of the service, as they are known here; what is said of others is passed over.
            now: monotonic seconds.
        """
        self._expire(now)
        policy = self.policy
        opinions: dict[str, list[tuple[ServiceName, bool]]] = {}
        for reporter, (_, seen) in self._reports.items():
            for instance, view in seen.items():
                fails = opinion(view, policy)
                if fails is not None:
                    opinions.setdefault(instance, []).append((reporter.service, fails))
        guilty = []
        for instance in instances:
            against, total = votes(opinions.get(instance, ()), policy.maximum_votes_per_service)
            if against + 1e-9 >= quorum(total, policy):
                guilty.append((instance not in self.condemned, -against / total, instance))
        self.condemned = frozenset(instance for *_, instance in sorted(guilty)[:allowed])
        return self.condemned

    def _expire(self, now: float) -> None:
        oldest = now - self.policy.expiry
        late = [reporter for reporter, (at, _) in self._reports.items() if at < oldest]
        for reporter in late:
            del self._reports[reporter]

    def __repr__(self) -> str:
        return f"<Evidence reporters={len(self._reports)} condemned={sorted(self.condemned)}>"
