"""Which rule a request falls under, and where its requests may go.

The nouns, from the outside in: a *service policy* is all that applies to requests addressed to one
service, as one caller sees it; its *rules* are tried in order; the *split* of the first that matches
picks a *target*, the instances of one service that belong to one subset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from busmesh.decide.answer import DirectResponse, Redirect
from busmesh.decide.balance import DEFAULT_BALANCER, BalancerSpec
from busmesh.decide.fault import Fault, drawn
from busmesh.decide.headers import HeaderOps
from busmesh.decide.match import Condition
from busmesh.decide.request import RequestHead
from busmesh.decide.retry import DEFAULT_RETRIES, RetryPolicy
from busmesh.decide.rewrite import Rewrite
from busmesh.decide.split import Split
from busmesh.decide.traffic import DEFAULT_TRAFFIC, Traffic
from busmesh.names import ServiceName

#: What of a request says whose it is; None if it does not say.
Owner = Callable[[RequestHead], bytes | None]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One destination of a split.

    Two targets are equal when they mean the same instances, whatever rule and revision they stand in,
    so that balancer state kept per target outlives a revision. ``key`` is that identity as a string,
    whose hash Python remembers: on the request path use it rather than the target itself.

    Attributes:
        labels: what an instance must carry to belong to the target; empty for all instances.
        balancer: how one of the instances is chosen.
        request_headers: applied before those of the rule, as Envoy does; also the response ones.
        traffic: limits, ejection, breakers, retry budget.
    """

    service: ServiceName
    subset: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    balancer: BalancerSpec = DEFAULT_BALANCER
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None
    traffic: Traffic = DEFAULT_TRAFFIC
    key: str = field(init=False)

    def __post_init__(self) -> None:
        name = f"{self.service.name}.{self.service.namespace}"
        object.__setattr__(self, "key", name if self.subset is None else f"{name}/{self.subset}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return str(self.service) if self.subset is None else f"{self.service}/{self.subset}"


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of some requests goes to another target, and nobody waits for what comes back."""

    target: Target
    fraction: float = 1.0

    def wanted(self, rng: Random) -> bool:
        """Draw for one request; say whether it is copied."""
        return drawn(self.fraction, rng)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What happens to the requests that it matches.

    What a rule does not say is None, empty or one shared default, so that it costs one look at most.

    Attributes:
        name: a label for telemetry, of low cardinality: it comes from a document, never from a request.
        split: None if the rule answers by itself.
        matches: None stands for "always".
        timeout: seconds for the whole request, all tries included; None if the policy sets none, or ``0s``.
        retries: when a try is followed by another.
        fault: drawn before anything else is done.
        mirrors: where copies go.
        rewrite: of target and authority, before a request is sent or copied.
        answer: in place of sending the request anywhere.
        owner: whose the request is; the split then gives everybody always the same target.
        plain: nothing is to be done but to pick a target and send: nearly every rule.
    """

    name: str
    split: Split[Target] | None
    matches: Condition | None = None
    timeout: float | None = None
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None
    retries: RetryPolicy = DEFAULT_RETRIES
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    rewrite: Rewrite | None = None
    answer: Redirect | DirectResponse | None = None
    owner: Owner | None = None
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        special = self.fault or self.mirrors or self.rewrite or self.answer
        object.__setattr__(self, "plain", not special)

    def pick(self, head: RequestHead) -> Target:
        """Return the target of a request: that of its owner, else the next of the sequence."""
        split = self.split
        assert split is not None, "a rule that answers by itself sends nothing"
        if self.owner is None:
            return split.pick()
        value = self.owner(head)
        return split.pick() if value is None else split.pick_for(value)

    def targets(self) -> tuple[Target, ...]:
        """Return every target that requests or copies of them may go to, those of weight 0 included."""
        split = () if self.split is None else tuple(target for target, _ in self.split.choices)
        return split + tuple(mirror.target for mirror in self.mirrors)


@dataclass(frozen=True, slots=True, eq=False)
class ServicePolicy:
    """The rules for requests addressed to ``service``, in the order in which they are tried."""

    service: ServiceName
    rules: tuple[Rule, ...]


def choose_rule(policy: ServicePolicy, head: RequestHead) -> Rule | None:
    """Return the first rule that matches ``head``; None if none does, which the caller gets as 404 NR."""
    for rule in policy.rules:
        matches = rule.matches
        if matches is None or matches(head):
            return rule
    return None
