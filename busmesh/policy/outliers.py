"""`outlierDetection`: which instances are ejected for what they answer, and by whose word.

Fields of Istio's OutlierDetection have its names and defaults; those of Envoy's that Istio leaves out have
Envoy's; `sharedEvidence` neither has.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from busmesh.decide.ejection import OutlierDetection
from busmesh.decide.evidence import EvidencePolicy
from busmesh.policy.amounts import Count, Percent, Positive, Span, Threshold
from busmesh.policy.fields import Duration, Model, refused, seconds


class SharedEvidence(Model):
    """Ejection of what a quorum of all callers sees failing, whatever this agent sees itself."""

    minimum_reporters: int = Field(
        2,
        alias="minimumReporters",
        ge=2,
        le=1000,
        description="Callers that must see it; one never suffices.",
    )
    quorum_percent: Threshold = Field(
        50.0, alias="quorumPercent", description="Of the votes of the callers that have an opinion."
    )
    maximum_votes_per_service: int = Field(
        5,
        alias="maximumVotesPerService",
        ge=1,
        le=1000,
        description="That the instances of one calling service have together, however many they are.",
    )
    minimum_volume: Positive = Field(
        5,
        alias="minimumVolume",
        description="Requests to an instance, below which a caller does not call it failing.",
    )
    failure_percentage_threshold: int = Field(
        50,
        alias="failurePercentageThreshold",
        ge=1,
        le=100,
        description="Of those requests, at which a caller sees the instance failing.",
    )
    expiry: Span = Field("15s", description="For how long a report counts.")

    def evidence(self) -> EvidencePolicy:
        return EvidencePolicy(**{**self.model_dump(), "expiry": seconds(self.expiry)})


class Outliers(Model):
    """Which instances are ejected for what they answer, and for how long."""

    consecutive_5xx_errors: Count = Field(
        5, alias="consecutive5xxErrors", description="5xx in a row that eject an instance; 0 switches it off."
    )
    consecutive_gateway_errors: Count = Field(
        0, alias="consecutiveGatewayErrors", description="The same of 502, 503 and 504; off by default."
    )
    split_external_local_origin_errors: bool = Field(
        False,
        alias="splitExternalLocalOriginErrors",
        description="Count failures on the way apart from what the application answers.",
    )
    consecutive_local_origin_failures: Count = Field(
        5, alias="consecutiveLocalOriginFailures", description="Failures on the way in a row, if split."
    )
    interval: Span = Field("10s", description="Between two sweeps; instances return only at one.")
    base_ejection_time: Span = Field(
        "30s", alias="baseEjectionTime", description="Of a first ejection; times their number afterwards."
    )
    max_ejection_time: Span | None = Field(
        None, alias="maxEjectionTime", description="Default: 300s, or baseEjectionTime if that is more."
    )
    max_ejection_time_jitter: Duration = Field(
        "0s", alias="maxEjectionTimeJitter", description="Up to which a random time is added."
    )
    max_ejection_percent: Percent = Field(
        10,
        alias="maxEjectionPercent",
        description="Of the instances, that may be ejected at once. One of several always may, and the only"
        " one only at 100. 0 ejects none and counts what would be.",
    )
    min_health_percent: Percent = Field(
        0,
        alias="minHealthPercent",
        description="If fewer are left, ejections are disregarded and all instances get traffic. 0: never.",
    )
    success_rate_minimum_hosts: Count = Field(5, alias="successRateMinimumHosts")
    success_rate_request_volume: Count = Field(100, alias="successRateRequestVolume")
    success_rate_stdev_factor: Count = Field(
        1900, alias="successRateStdevFactor", description="Thousandths of a standard deviation."
    )
    failure_percentage_threshold: Percent = Field(85, alias="failurePercentageThreshold")
    failure_percentage_minimum_hosts: Count = Field(5, alias="failurePercentageMinimumHosts")
    failure_percentage_request_volume: Count = Field(50, alias="failurePercentageRequestVolume")
    enforcing_consecutive_5xx: Percent = Field(
        100,
        alias="enforcingConsecutive5xx",
        description="Share of the ejections asked for that are carried out; the others are only counted.",
    )
    enforcing_consecutive_gateway_failure: Percent = Field(100, alias="enforcingConsecutiveGatewayFailure")
    enforcing_consecutive_local_origin_failure: Percent = Field(
        100, alias="enforcingConsecutiveLocalOriginFailure"
    )
    enforcing_success_rate: Percent = Field(
        0, alias="enforcingSuccessRate", description="Off by default, as in Istio."
    )
    enforcing_local_origin_success_rate: Percent = Field(0, alias="enforcingLocalOriginSuccessRate")
    enforcing_failure_percentage: Percent = Field(0, alias="enforcingFailurePercentage")
    enforcing_failure_percentage_local_origin: Percent = Field(
        0, alias="enforcingFailurePercentageLocalOrigin"
    )
    shared_evidence: SharedEvidence | None = Field(
        None, alias="sharedEvidence", description="Absent: each caller decides by what it sees itself."
    )

    @model_validator(mode="after")
    def _no_shorter_than_its_base(self) -> Outliers:
        if self.max_ejection_time and seconds(self.max_ejection_time) < seconds(self.base_ejection_time):
            raise refused(
                "BM1230", "maxEjectionTime is less than baseEjectionTime", "raise it, or leave it out"
            )
        return self

    def detection(self) -> OutlierDetection:
        base = seconds(self.base_ejection_time)
        longest = seconds(self.max_ejection_time) if self.max_ejection_time else max(300.0, base)
        return OutlierDetection(
            **{
                **self.model_dump(exclude={"shared_evidence"}),
                "interval": seconds(self.interval),
                "base_ejection_time": base,
                "max_ejection_time": longest,
                "max_ejection_time_jitter": seconds(self.max_ejection_time_jitter),
                "shared": self.shared_evidence.evidence() if self.shared_evidence else None,
            }
        )
