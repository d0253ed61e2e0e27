"""A policy set compiled for one caller: what a request asks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from busmesh.decide.authz.authorizer import Authorizer
from busmesh.decide.balance import DEFAULT_BALANCER, BalancerSpec
from busmesh.decide.limit import Limit
from busmesh.decide.route import Rule, ServicePolicy, Target
from busmesh.decide.split import Split
from busmesh.decide.traffic import DEFAULT_TRAFFIC, Traffic
from busmesh.names import ServiceName

#: The telemetry label of requests to a service that no Route speaks for.
DEFAULT_RULE = "default"
#: Services without a Route whose default policy is kept. A caller names services at will, so it has a bound.
MAX_DEFAULTS = 1024


class Snapshot:
    """Everything that a request needs to know of the policies; made once per revision.

    Nothing in it changes but the place in each split, and a bounded cache of default policies.

    Attributes:
        number: of the revision.
        digest: of the policy set.
        limits: on what this instance is asked, in the order of the document.
        authorizer: whether this instance serves a request; None if no document is about that.
    """

    def __init__(
        self,
        number: int,
        digest: str,
        policies: Mapping[ServiceName, ServicePolicy],
        subsets: Mapping[tuple[ServiceName, str], Mapping[str, str]],
        balancers: Mapping[tuple[ServiceName, str | None], BalancerSpec],
        traffic: Mapping[tuple[ServiceName, str | None], Traffic] | None = None,
        limits: tuple[Limit, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> None:
        """``subsets``, ``balancers``, ``traffic`` are what Destinations declare; subset None is all of it."""
        self.number = number
        self.digest = digest
        self.limits = limits
        self.authorizer = authorizer
        self._policies = policies
        self._subsets = subsets
        self._balancers = balancers
        self._traffic = {} if traffic is None else traffic
        self._defaults: dict[ServiceName, ServicePolicy] = {}

    def service(self, name: ServiceName) -> ServicePolicy:
        """Return what applies to requests addressed to ``name``: without a Route, all its instances."""
        policy = self._policies.get(name) or self._defaults.get(name)
        if policy is None:
            policy = ServicePolicy(name, (Rule(DEFAULT_RULE, Split([(self.target(name), 1)], 0.0)),))
            if len(self._defaults) >= MAX_DEFAULTS:
                del self._defaults[next(iter(self._defaults))]
            self._defaults[name] = policy
        return policy

    def referenced(self, name: ServiceName) -> frozenset[ServiceName]:
        """Return every service that requests addressed to ``name``, or copies of them, may be sent to.

        Those of weight 0 are included: a canary that waits at 0 should be known when it gets its first 1 %.
        """
        rules = self.service(name).rules
        return frozenset(target.service for rule in rules for target in rule.targets())

    def renewed(self, target: Target) -> Target | None:
        """Return what a target of an earlier revision is by this one, None if no rule leads there now."""
        if target.subset is not None and target.key not in self._keys:
            return None
        return self.target(target.service, target.subset)

    @cached_property
    def _keys(self) -> frozenset[str]:
        rules = (rule for policy in self._policies.values() for rule in policy.rules)
        return frozenset(target.key for rule in rules for target in rule.targets())

    def target(self, service: ServiceName, subset: str | None = None) -> Target:
        """Return a destination without header operations, with all that Destinations declare of it."""
        return Target(
            service,
            subset,
            self.subset_labels(service, subset),
            self.balancer(service, subset),
            traffic=self.traffic(service, subset),
        )

    def subset_labels(self, service: ServiceName, subset: str | None) -> Mapping[str, str]:
        """Return what an instance must carry to be of the subset; undeclared, the version of that name."""
        if subset is None:
            return {}
        declared = self._subsets.get((service, subset))
        return {"version": subset} if declared is None else declared

    def balancer(self, service: ServiceName, subset: str | None = None) -> BalancerSpec:
        """Return how an instance of the subset, or of the whole service, is chosen."""
        whole = self._balancers.get((service, None), DEFAULT_BALANCER)
        return self._balancers.get((service, subset), whole)

    def traffic(self, service: ServiceName, subset: str | None = None) -> Traffic:
        """Return the limits, breakers and so on of the subset, or of the whole service."""
        whole = self._traffic.get((service, None), DEFAULT_TRAFFIC)
        return self._traffic.get((service, subset), whole)

    def __repr__(self) -> str:
        return (
            f"<Snapshot number={self.number} digest={self.digest[:12]} services={len(self._policies)}"
            f" subsets={len(self._subsets)} limits={len(self.limits)} defaults={len(self._defaults)}>"
        )
