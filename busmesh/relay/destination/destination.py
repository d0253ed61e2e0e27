"""A destination as the request path sees it: its instances, who is chosen, and what is held against whom.

One for each target that requests go to. It outlives changes of instances and of policies: the balancer is
made anew at the next pick, limits, breakers and ejections go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from random import Random

from busmesh.decide.affinity import Affinity
from busmesh.decide.balance import Balancer, make
from busmesh.decide.breaker import Breaker, is_failure
from busmesh.decide.guard import Guard
from busmesh.decide.origin import Origin
from busmesh.decide.records import Action, Cause, Change
from busmesh.decide.route import Target
from busmesh.relay.destination.upstream import Endpoint, Upstream

log = logging.getLogger(__name__)

#: A breaker that let a try pass, and the token to report with.
Grants = list[tuple[Breaker, int]]
#: Flags of what says nothing of an instance: the client is gone, or may not ask this of any.
_SAYS_NOTHING = frozenset(("DC", "RBAC", "JWT"))
#: (destination, instance, what happened to it and why).
Told = Callable[["Destination", Change], None]
#: A destination that instances have joined.
Joined = Callable[["Destination"], None]


class Destination:
    """One target of this agent's requests.

    Args:
        target: what it is.
        upstream: the instances of its service.
        rng: source of randomness.
        origin: the instance whose requests these are.
        now: monotonic seconds.
        told: hears of each ejection and return.
        joined: hears that there are new instances, before any of them is chosen.

    Attributes:
        guard: limits, breakers, ejection, budget.
        plain: of a try that went well nobody has to hear.
    """

    def __init__(
        self,
        target: Target,
        upstream: Upstream,
        rng: Random,
        origin: Origin,
        now: float,
        told: Told,
        joined: Joined,
    ) -> None:
        self.target = target
        self._upstream = upstream
        self._rng = rng
        self._origin = origin
        self._told = told
        self._joined = joined
        self._balancer: Balancer[Endpoint] | None = None
        self._members: set[str] = set()
        self.guard = Guard(target.traffic, rng, now)
        self.admission = self.guard.admission
        self._measures = self.plain = False
        self._look()

    def _look(self) -> None:
        traffic, spec = self.target.traffic, self.target.balancer
        self._measures = spec.simple == "PEAK_EWMA" and spec.hash is None
        self.affinity: Affinity | None = spec.affinity
        self.adaptive = self.guard.adaptive
        self.guarded = bool(traffic.breaker or traffic.instance_breaker)
        self.plain = not (
            self._measures or self.guarded or traffic.outlier_detection or traffic.adaptive_concurrency
        )

    @property
    def idle(self) -> bool:
        return not (self.admission.active or self.admission.pending)

    @property
    def watched(self) -> bool:
        """Whether something changes by itself here as time passes."""
        return bool(self.target.traffic.outlier_detection or self.target.traffic.instance_breaker)

    # -- changes -----------------------------------------------------------------------------------

    def use(self, target: Target, now: float) -> None:
        """Go on by another revision's settings."""
        self.target = target
        for change in self.guard.use(target.traffic, now):
            self._told(self, change)
        self._look()
        self._balancer = None

    def changed(self) -> None:
        """Hear that an instance came, went or changed; what follows is worked out when a request asks."""
        self._balancer = None

    def tick(self, now: float) -> None:
        """Do what is due: a sweep, the return of the ejected, the first probe of an open breaker."""
        detector = self.guard.detector
        changes = detector.sweep(now) if detector is not None and now >= detector.due_at else []
        for change in changes:
            self._moved(change)
        if self.guard.traffic.instance_breaker is not None:
            self._balancer = None

    def condemn(
        self,
        instance: str,
        now: float,
        cause: Cause = Cause.SHARED_EVIDENCE,
        seconds: float | None = None,
    ) -> None:
        """Eject an instance that others report, as `Detector.condemn` does."""
        detector = self.guard.detector
        if detector is not None and (change := detector.condemn(instance, now, cause, seconds)):
            self._moved(change)

    def _moved(self, change: Change) -> None:
        if change.action in (Action.EJECTED, Action.RETURNED):
            self._balancer = None
        self._told(self, change)

    # -- a try -------------------------------------------------------------------------------------

    def pick(self, now: float, tried: Collection[Endpoint], key: bytes | None) -> Endpoint | None:
        """Choose the instance for the next try, None if none is usable."""
        balancer = self._balancer
        if balancer is None:
            balancer = self._make(now)
        return balancer.pick(now, tried, key)

    def admit(self, now: float) -> Grants | None:
        """Ask the destination's own breaker for a try; None if it is open."""
        breaker = self.guard.breaker
        if breaker is None:
            return []
        token = breaker.admit(now)
        return None if token is None else [(breaker, token)]

    def admit_at(self, endpoint: Endpoint, grants: Grants, now: float) -> bool:
        """Ask the instance's breaker for a try; if it is open another instance is to be picked."""
        breaker = self.guard.instance_breaker(endpoint.instance)
        if breaker is None:
            return True
        token = breaker.admit(now)
        if token is None or breaker.refuses(now):
            self._balancer = None  # it takes no more, or has just taken its last probe
        if token is not None:
            grants.append((breaker, token))
        return token is not None

    def _make(self, now: float) -> Balancer[Endpoint]:
        wanted, guard = self.target.labels, self.guard
        members = [
            e
            for e in self._upstream.endpoints.values()
            if not e.leaving and all(e.labels.get(key) == value for key, value in wanted.items())
        ]
        names = {e.instance for e in members}
        if names != self._members:
            for instance in self._members - names:
                for change in guard.leave(instance, now):
                    self._told(self, change)
            new = names - self._members
            for instance in new:
                guard.join(instance)
            self._members = names
            if new:
                self._joined(self)
        made = self._balancer = make(
            self.target.balancer,
            members,
            self._rng,
            now,
            self._origin,
            lambda e: e.usable and guard.usable(e.instance, now),
        )
        return made

    # -- what became of it ---------------------------------------------------------------------------

    def report(
        self, endpoint: Endpoint, status: int, flags: str, took: float, grants: Grants | None, now: float
    ) -> None:
        """Hear how a try ended.

        Args:
            endpoint: the instance that was tried.
            status: what it ended with.
            flags: empty for an application's own response.
            took: seconds.
            grants: what breakers granted for it.
            now: monotonic seconds.
        """
        if flags in _SAYS_NOTHING:
            for breaker, token in grants or ():
                breaker.abandoned(token)
            return
        failed = bool(flags) or is_failure(status)
        if failed:
            endpoint.figures.failed(now, took)
        elif self._measures:
            endpoint.figures.answered(took, now)
        for breaker, token in grants or ():
            if breaker.report(token, failed, took, now):
                self._balancer = None
        self._judge(endpoint, status, flags, now)
        if self.guard.adaptive is not None and (not flags or flags == "UT"):
            self.guard.adaptive.sample(took, self.admission.active, now)

    def _judge(self, endpoint: Endpoint, status: int, flags: str, now: float) -> None:
        """Tell outlier detection; a refusal for want of room says nothing of the instance's health."""
        detector = self.guard.detector
        record = detector.records.get(endpoint.instance) if detector is not None else None
        if detector is None or record is None or flags == "UO":
            return
        if flags:
            change = detector.local_failure(record, 504 if flags == "UT" else 503, now)
        else:
            change = detector.result(record, status, now)
        if change is not None:
            self._moved(change)

    def states(self) -> dict[str, str]:
        """Return what is held against which instance, for people."""
        detector = self.guard.detector
        held = {}
        for instance in sorted(self._members):
            record = detector.records.get(instance) if detector is not None else None
            breaker = self.guard.instance_breaker(instance)
            if record is not None and record.ejected:
                held[instance] = "ejected"
            elif breaker is not None and breaker.state.name != "CLOSED":
                held[instance] = f"breaker {breaker.state.value}"
        return held

    def view(self) -> dict[str, object]:
        """Return limits, breakers, budget and ejections as they are, for people and tools."""
        guard, admission = self.guard, self.admission
        return {
            "destination": self.target.key,
            "active": admission.active,
            "pending": admission.pending,
            "overflows": admission.overflows,
            "retries_refused": guard.budget.overflows + guard.allowance.overflows,
            "breaker": guard.breaker.state.value if guard.breaker is not None else None,
            "held": self.states(),
        }

    def __repr__(self) -> str:
        return f"<Destination {self.target.key} {self.guard!r}>"
