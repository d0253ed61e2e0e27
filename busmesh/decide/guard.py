"""The guard of one destination: the state that its settings call for, and what outlives a change of them.

An operator who turns one knob while a service is in trouble must not thereby let every ejected instance
return and close every breaker. So what did not change keeps its state, and where a change does not touch the
meaning of the state, as with limits and ejection, the state goes on under the new settings.
"""

from __future__ import annotations

from random import Random

from busmesh.decide.allowance import Allowance
from busmesh.decide.breaker import Breaker
from busmesh.decide.budget import Budget
from busmesh.decide.concurrency import ConcurrencyLimit
from busmesh.decide.evidence import Evidence
from busmesh.decide.limits import UNLIMITED, Admission
from busmesh.decide.outlier import Detector
from busmesh.decide.records import Change
from busmesh.decide.traffic import Traffic

#: Reporters whose evidence is remembered per destination.
MAX_REPORTERS = 1000


class OverBudget(Exception):
    """A retry that is not granted: the request ends as it failed."""


class Guard:
    """Kept per destination (`Target.key`) as long as requests go there.

    Whoever holds a token, a place or a retry gives it back to the very object that granted it, which after a
    change of settings may not be the guard's any more.

    Attributes:
        traffic: the settings in force; the other attributes are None where these leave something off.
    """

    __slots__ = (
        "_breakers",
        "_instances",
        "_rng",
        "adaptive",
        "admission",
        "allowance",
        "breaker",
        "budget",
        "detector",
        "evidence",
        "traffic",
    )

    def __init__(self, traffic: Traffic, rng: Random, now: float) -> None:
        self._rng = rng
        #: In the order in which they came; a set has another order in each process.
        self._instances: dict[str, None] = {}
        self._breakers: dict[str, Breaker] = {}
        self.traffic = Traffic()
        self.admission = Admission()
        self.budget = Budget()
        self.allowance = Allowance(now)
        self.breaker: Breaker | None = None
        self.adaptive: ConcurrencyLimit | None = None
        self.detector: Detector | None = None
        self.evidence: Evidence | None = None
        self.use(traffic, now)

    def use(self, traffic: Traffic, now: float) -> list[Change]:
        """Go on by other settings; return the instances that return for it."""
        old, self.traffic = self.traffic, traffic
        self.admission.limits = traffic.limits
        if (traffic.retry_budget, traffic.limits.max_retries) != (old.retry_budget, old.limits.max_retries):
            self.budget = Budget(traffic.retry_budget, traffic.limits.max_retries)
        if traffic.breaker != old.breaker:
            self.breaker = Breaker(traffic.breaker) if traffic.breaker else None
        if traffic.instance_breaker != old.instance_breaker:
            self._breakers.clear()
        if traffic.adaptive_concurrency != old.adaptive_concurrency:
            limit = traffic.adaptive_concurrency
            self.adaptive = ConcurrencyLimit(limit) if limit else None
        return self._use_detection(now)

    def _use_detection(self, now: float) -> list[Change]:
        policy = self.traffic.outlier_detection
        shared = policy.shared if policy else None
        if shared is None:
            self.evidence = None
        elif self.evidence is None:
            self.evidence = Evidence(shared, MAX_REPORTERS)
        else:
            self.evidence.policy = shared
        if policy is None:
            self.detector = None
            return []
        if self.detector is not None:
            return self.detector.use(policy, now)
        self.detector = Detector(policy, self._rng, now)
        for instance in self._instances:
            self.detector.join(instance)
        return []

    def join(self, instance: str) -> None:
        """Follow an instance of the destination."""
        self._instances[instance] = None
        if self.detector is not None:
            self.detector.join(instance)

    def leave(self, instance: str, now: float) -> list[Change]:
        """Follow it no more; return the instances that return for it."""
        self._instances.pop(instance, None)
        self._breakers.pop(instance, None)
        return self.detector.leave(instance, now) if self.detector is not None else []

    def instance_breaker(self, instance: str) -> Breaker | None:
        """Return the breaker of an instance that is followed, None if there is to be none."""
        breaker = self._breakers.get(instance)
        policy = self.traffic.instance_breaker
        if breaker is None and policy is not None and instance in self._instances:
            breaker = self._breakers[instance] = Breaker(policy)
        return breaker

    def usable(self, instance: str, now: float) -> bool:
        """Say whether an instance may get traffic: neither ejected nor behind an open breaker.

        For who makes a balancer. It changes with each Change, each `Breaker.report` that says so, each probe
        admitted to an instance, and by itself at `changes_at`.
        """
        detector = self.detector
        if detector is not None and not detector.disregarded:
            record = detector.records.get(instance)
            if record is not None and record.ejected:
                return False
        breaker = self._breakers.get(instance)
        return breaker is None or not breaker.refuses(now)

    def changes_at(self, now: float) -> float | None:
        """Return when something is due: a sweep, or an instance's first probe; None if nothing is."""
        due = [breaker.until for breaker in self._breakers.values() if breaker.until > now]
        if self.detector is not None:
            due.append(self.detector.due_at)
        return min(due, default=None)

    def grant_retry(self, now: float) -> Budget | None:
        """Grant one retry, if the budget has it; whoever gets a budget gives it back at the retry's end.

        Raises:
            OverBudget: not granted.
        """
        budget, admission = self.budget, self.admission
        if budget.rule is None and budget.max_retries == UNLIMITED:
            if not self.allowance.take(admission.total, now):
                raise OverBudget
            return None
        if not budget.take(admission.active + admission.pending, now):
            raise OverBudget
        return budget

    def __repr__(self) -> str:
        parts = (self.admission, self.budget, self.breaker, self.adaptive, self.detector, self.evidence)
        return f"<Guard {' '.join(repr(part) for part in parts if part is not None)}>"
