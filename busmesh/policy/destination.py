"""The spec of a Destination, which is that of Istio's DestinationRule."""

from __future__ import annotations

from pydantic import Field

from busmesh.decide.balance import BalancerSpec
from busmesh.decide.traffic import Traffic
from busmesh.policy.fields import Host, Many, Model, SubsetName
from busmesh.policy.loadbalancer import LoadBalancer, balancer_spec
from busmesh.policy.resilience import Resilience, traffic_of


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

    def balancer(self, subset: str | None) -> BalancerSpec:
        """Return the balancer of a subset, or of the whole service."""
        own = [declared.traffic_policy for declared in self.subsets if declared.name == subset]
        given = [policy for policy in (*own, self.traffic_policy) if policy is not None]
        outliers = next((p.outlier_detection for p in given if p.outlier_detection is not None), None)
        return balancer_spec(
            next((p.load_balancer for p in given if p.load_balancer is not None), None),
            outlier_detection=outliers is not None,
            panic_percent=outliers.min_health_percent if outliers is not None else 0,
        )

    def traffic(self, subset: str | None) -> Traffic:
        """Return what else holds for a subset, or for the whole service; a subset replaces block by block."""
        own = [declared.traffic_policy for declared in self.subsets if declared.name == subset]
        return traffic_of(*own, self.traffic_policy)
