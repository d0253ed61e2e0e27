"""The spec of a Destination, which is that of Istio's DestinationRule."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from busmesh.decide.route import DEFAULT_BALANCER, Balancer
from busmesh.decide.traffic import Traffic
from busmesh.policy.fields import Host, Many, Model, SubsetName, refused
from busmesh.policy.resilience import Resilience, traffic_of

#: Istio's names for a balancer, and what each means here: two of them are old or leave the choice to us.
BALANCERS: dict[str, Balancer] = {
    "LEAST_REQUEST": "LEAST_REQUEST",
    "LEAST_CONN": "LEAST_REQUEST",
    "UNSPECIFIED": DEFAULT_BALANCER,
    "ROUND_ROBIN": "ROUND_ROBIN",
    "RANDOM": "RANDOM",
}
SimpleName = Literal["LEAST_REQUEST", "LEAST_CONN", "UNSPECIFIED", "ROUND_ROBIN", "RANDOM"]


def _not_passthrough(value: object) -> object:
    if value == "PASSTHROUGH":
        raise refused(
            "BM1322", "the balancer PASSTHROUGH is not supported yet", f"use {get_args(SimpleName)[0]}"
        )
    return value


class LoadBalancer(Model):
    """Which instance gets the next request."""

    simple: Annotated[SimpleName, BeforeValidator(_not_passthrough)] | None = Field(
        None, description="LEAST_REQUEST, the default, takes the less loaded one of two chosen at random."
    )


class TrafficPolicy(Resilience):
    """How requests are spread over the instances, how many there may be, and what follows when they fail."""

    load_balancer: LoadBalancer | None = Field(None, alias="loadBalancer")


class Subset(Model):
    """The instances that carry all of ``labels``."""

    name: SubsetName
    labels: dict[str, str] = Field({}, description="Empty: every instance.")
    traffic_policy: TrafficPolicy | None = Field(
        None, alias="trafficPolicy", description="Instead of what the Destination says."
    )


class DestinationSpec(Model):
    """What happens to requests once they are routed to ``host``."""

    host: Host
    traffic_policy: TrafficPolicy | None = Field(None, alias="trafficPolicy")
    subsets: Many[Subset] = ()

    def balancer(self, subset: str | None) -> Balancer:
        """Return the balancer of a subset, or of the whole service."""
        own = [declared.traffic_policy for declared in self.subsets if declared.name == subset]
        for policy in (*own, self.traffic_policy):
            if policy is not None and policy.load_balancer is not None and policy.load_balancer.simple:
                return BALANCERS[policy.load_balancer.simple]
        return DEFAULT_BALANCER

    def traffic(self, subset: str | None) -> Traffic:
        """Return what else holds for a subset, or for the whole service; a subset replaces block by block."""
        own = [declared.traffic_policy for declared in self.subsets if declared.name == subset]
        return traffic_of(*own, self.traffic_policy)
