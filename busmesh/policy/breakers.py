"""`breaker` and `instanceBreaker`: when traffic is refused for a while.

Istio has neither; names and defaults are those of resilience4j, but for a single probe.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from busmesh.decide.breaker import BreakerPolicy
from busmesh.policy.amounts import Count, Positive, Span, Threshold
from busmesh.policy.fields import Model, seconds


class BreakerSettings(Model):
    """When traffic is refused for a while, and how it comes back: resilience4j's names and defaults."""

    consecutive_failures: Count = Field(
        5,
        alias="consecutiveFailures",
        description="5xx or no answer in a row that open it; 0 switches it off.",
    )
    failure_rate_threshold: Threshold = Field(
        50.0, alias="failureRateThreshold", description="Percent of the window at which it opens."
    )
    slow_call_rate_threshold: Threshold = Field(
        100.0, alias="slowCallRateThreshold", description="Percent of slow calls at which it opens."
    )
    slow_call_duration_threshold: Span = Field(
        "60s", alias="slowCallDurationThreshold", description="Above which a call is slow."
    )
    minimum_number_of_calls: Positive = Field(
        100, alias="minimumNumberOfCalls", description="In the window, before a rate means anything."
    )
    sliding_window_type: Literal["COUNT_BASED", "TIME_BASED"] = Field(
        "COUNT_BASED", alias="slidingWindowType", description="The last calls, or those of the last seconds."
    )
    sliding_window_size: int = Field(
        100, alias="slidingWindowSize", ge=1, le=10_000, description="How many calls or seconds."
    )
    wait_duration_in_open_state: Span = Field(
        "60s", alias="waitDurationInOpenState", description="From opening to the first probe."
    )
    exponential_backoff_multiplier: float = Field(
        1.0,
        alias="exponentialBackoffMultiplier",
        ge=1,
        le=10,
        description="By which that grows each time the probes fail.",
    )
    exponential_max_wait_duration_in_open_state: Span = Field(
        "300s", alias="exponentialMaxWaitDurationInOpenState", description="To which it grows at most."
    )
    permitted_number_of_calls_in_half_open_state: int = Field(
        1,
        alias="permittedNumberOfCallsInHalfOpenState",
        ge=1,
        le=10_000,
        description="Probes. More decide on firmer ground, and send more to what may still be broken.",
    )

    def breaker(self) -> BreakerPolicy:
        durations = (
            "slow_call_duration_threshold",
            "wait_duration_in_open_state",
            "exponential_max_wait_duration_in_open_state",
        )
        return BreakerPolicy(
            **{**self.model_dump(), **{name: seconds(getattr(self, name)) for name in durations}}
        )
