"""``trafficPolicy.loadBalancer``: Istio's fields, some of our own, and what they come to for the agents."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from busmesh.decide.balance import BalancerSpec, Simple, Warmup
from busmesh.policy.consistenthash import ConsistentHash, Sticky
from busmesh.policy.fields import Duration, Model, refused, seconds
from busmesh.policy.locality import LocalityLbSetting

SimpleName = Literal[
    "LEAST_REQUEST",
    "LEAST_CONN",
    "UNSPECIFIED",
    "ROUND_ROBIN",
    "RANDOM",
    "PEAK_EWMA",
    "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN",
]
#: What each name means: two of Istio's are old or leave the choice to us, the last two are our own.
SIMPLE: dict[SimpleName, Simple] = {
    "LEAST_REQUEST": "LEAST_REQUEST",
    "LEAST_CONN": "LEAST_REQUEST",
    "UNSPECIFIED": "LEAST_REQUEST",
    "ROUND_ROBIN": "ROUND_ROBIN",
    "RANDOM": "RANDOM",
    "PEAK_EWMA": "PEAK_EWMA",
    "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN": "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN",
}


def _not_passthrough(value: object) -> object:
    if value == "PASSTHROUGH":
        raise refused(
            "BM1322", "the balancer PASSTHROUGH is not supported yet", f"use {get_args(SimpleName)[0]}"
        )
    return value


class WarmupSetting(Model):
    """How a new instance gets its share."""

    duration: Duration = Field(description="Until it has its whole weight.")
    minimum_percent: float = Field(
        10.0, alias="minimumPercent", ge=0, le=100, description="Of its weight, at the beginning."
    )
    aggression: float = Field(
        1.0, ge=1, le=100, description="1: in a straight line; above, the first seconds bring more."
    )

    def as_spec(self) -> Warmup | None:
        duration = seconds(self.duration)
        return Warmup(duration, self.minimum_percent, self.aggression) if duration else None


class LoadBalancer(Model):
    """Which instance gets the next request."""

    simple: Annotated[SimpleName, BeforeValidator(_not_passthrough)] | None = Field(
        None,
        description="LEAST_REQUEST, the default, takes the less loaded one of two chosen at random; PEAK_EWMA"
        " the one that would answer first; CLIENT_SIDE_WEIGHTED_ROUND_ROBIN goes by the load they report.",
    )
    consistent_hash: ConsistentHash | None = Field(None, alias="consistentHash")
    sticky_session: Sticky | None = Field(None, alias="stickySession")
    locality_lb_setting: LocalityLbSetting | None = Field(None, alias="localityLbSetting")
    warmup: WarmupSetting | None = None
    warmup_duration_secs: Duration | None = Field(
        None, alias="warmupDurationSecs", description="The old form of warmup.duration."
    )

    @model_validator(mode="after")
    def _fits(self) -> LoadBalancer:
        if self.consistent_hash is not None and self.simple not in (None, "UNSPECIFIED"):
            raise refused("BM1260", "one of simple and consistentHash, not both", "remove one of them")
        if self.consistent_hash is not None and self.sticky_session is not None:
            message = "one of consistentHash and stickySession, not both"
            raise refused("BM1260", message, "a session is the stricter of the two")
        if self.warmup is not None and self.warmup_duration_secs is not None:
            raise refused("BM1266", "one of warmup and warmupDurationSecs, not both", "use warmup")
        if self.consistent_hash is not None and (self.warmup or self.warmup_duration_secs):
            message = "a consistent hash does not warm up: keys would move each second"
            raise refused("BM1266", message, "remove warmup")
        return self

    def as_spec(self, *, outlier_detection: bool, panic_percent: float) -> BalancerSpec:
        """Return what agents do; the arguments as for `balancer_spec`."""
        warmup = self.warmup
        if self.warmup_duration_secs is not None:
            warmup = WarmupSetting(duration=self.warmup_duration_secs)
        setting = self.locality_lb_setting
        if setting is None and outlier_detection:
            setting = LocalityLbSetting()
        return BalancerSpec(
            simple=SIMPLE[self.simple or "UNSPECIFIED"],
            hash=None if self.consistent_hash is None else self.consistent_hash.as_spec(),
            sticky=None if self.sticky_session is None else self.sticky_session.as_spec(),
            locality=None if setting is None or setting.enabled is False else setting.as_spec(),
            warmup=None if warmup is None else warmup.as_spec(),
            panic_percent=panic_percent,
        )


def balancer_spec(
    policy: LoadBalancer | None, *, outlier_detection: bool = False, panic_percent: float = 0
) -> BalancerSpec:
    """Return what agents do by a policy, or without one.

    Args:
        policy: that of the subset, else of the Destination; one replaces the other whole, as in Istio.
        outlier_detection: whether one is given. With it, requests stay near by default, as in Istio. There,
            failover also needs it; here instances say themselves that they are ill, so it does not.
        panic_percent: its ``minHealthPercent``.
    """
    return (policy or LoadBalancer()).as_spec(
        outlier_detection=outlier_detection, panic_percent=panic_percent
    )
