"""Which rule a request falls under, and where its requests may go.

The nouns, from the outside in: a *service policy* is all that applies to requests addressed to one
service, as one caller sees it; its *rules* are tried in order; the *split* of the first that matches
picks a *target*, the instances of one service that belong to one subset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from busmesh.decide.headers import HeaderOps
from busmesh.decide.match import Condition
from busmesh.decide.request import RequestHead
from busmesh.decide.split import Split
from busmesh.names import ServiceName

Balancer = Literal["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]
DEFAULT_BALANCER: Balancer = "LEAST_REQUEST"


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
    """

    service: ServiceName
    subset: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    balancer: Balancer = DEFAULT_BALANCER
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None
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


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What happens to the requests that it matches.

    Attributes:
        name: a label for telemetry, of low cardinality: it comes from a document, never from a request.
        matches: None stands for "always".
        timeout: seconds for the whole request, all tries included; None if the policy sets none, or ``0s``.
    """

    name: str
    split: Split[Target]
    matches: Condition | None = None
    timeout: float | None = None
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None


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
