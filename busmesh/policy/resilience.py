"""What a Destination says about limits, ejection, breakers and retries: the rest of its `trafficPolicy`.

A subset's block replaces that of its Destination as a whole, as in Istio: nothing is merged within a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from busmesh.decide.budget import RetryBudget
from busmesh.decide.concurrency import AdaptiveConcurrency
from busmesh.decide.limits import NO_LIMITS, UNLIMITED, Limits
from busmesh.decide.traffic import DEFAULT_TRAFFIC, Traffic
from busmesh.policy.amounts import Count, Positive, Span
from busmesh.policy.breakers import BreakerSettings
from busmesh.policy.fields import Duration, Model, refused, seconds
from busmesh.policy.outliers import Outliers

T = TypeVar("T")
#: Istio writes its limits as int32: to it 0 is "not set".
Limit = Annotated[int, Field(ge=0, le=2**31 - 1)]


class TcpSettings(Model):
    """Istio's TCPSettings, as far as it means anything where no connections are."""

    max_connections: Limit = Field(
        0,
        alias="maxConnections",
        description="Requests under way at once from one agent, as a connection of HTTP/1.1 carries one."
        " 0: no limit.",
    )
    connect_timeout: Span | None = Field(
        None,
        alias="connectTimeout",
        description="How long a request waits for an instance to come within reach. Default: 3s.",
    )


class HttpSettings(Model):
    """Istio's HTTPSettings, likewise."""

    http1_max_pending_requests: Limit = Field(
        0,
        alias="http1MaxPendingRequests",
        description="Requests that wait for a place beside those under way; more get a 503 with the flag UO."
        " 0: no limit.",
    )
    http2_max_requests: Limit = Field(
        0,
        alias="http2MaxRequests",
        description="Requests under way at once; with maxConnections the smaller one holds. 0: no limit.",
    )
    max_requests_per_connection: Limit = Field(
        0,
        alias="maxRequestsPerConnection",
        description="Accepted and without effect: there are no connections between agents that could be"
        " closed after so many requests.",
    )
    max_retries: Limit = Field(
        0,
        alias="maxRetries",
        description="Retries under way at once, unless there is a retryBudget. 0: no limit.",
    )


class ConnectionPool(Model):
    """How much one agent may have under way at the service."""

    tcp: TcpSettings | None = None
    http: HttpSettings | None = None

    def limits(self) -> Limits:
        """Return the limits that hold between agents."""
        tcp, http = self.tcp or TcpSettings(), self.http or HttpSettings()
        return Limits(
            max_requests=min(tcp.max_connections or UNLIMITED, http.http2_max_requests or UNLIMITED),
            max_pending=http.http1_max_pending_requests or UNLIMITED,
            max_retries=http.max_retries or UNLIMITED,
            connect_timeout=seconds(tcp.connect_timeout) if tcp.connect_timeout else None,
        )


class LimitSettings(Model):
    """The same in busmesh's own words, without the detour over connections; absent is no limit."""

    max_requests: Positive = Field(
        UNLIMITED, alias="maxRequests", description="Requests under way at once from one agent."
    )
    max_pending: Count = Field(
        UNLIMITED, alias="maxPending", description="Requests that wait for a place beside those; 0: none."
    )
    max_retries: Count = Field(
        UNLIMITED, alias="maxRetries", description="Retries under way at once, unless there is a retryBudget."
    )

    def limits(self) -> Limits:
        return Limits(self.max_requests, self.max_pending, self.max_retries)


class Retries(Model):
    """How many retries may be under way at once, as a share of the requests."""

    percent: float = Field(20.0, ge=0, le=100, description="Of the requests under way or waiting.")
    min_retry_concurrency: Count = Field(3, alias="minRetryConcurrency", description="So many always.")
    budget_interval: Duration = Field(
        "0s",
        alias="budgetInterval",
        description="Above 0s, the requests that began within it count instead of those under way.",
    )

    def budget(self) -> RetryBudget:
        return RetryBudget(self.percent, self.min_retry_concurrency, seconds(self.budget_interval))


class Concurrency(Model):
    """A limit on requests under way that follows latency: Netflix' Gradient2."""

    initial_limit: Positive = Field(20, alias="initialLimit")
    min_concurrency: Positive = Field(3, alias="minConcurrency", description="It never goes below.")
    max_concurrency_limit: Positive = Field(
        1000, alias="maxConcurrencyLimit", description="It never goes above."
    )
    concurrency_update_interval: Span = Field(
        "100ms", alias="concurrencyUpdateInterval", description="How often it is set."
    )
    rtt_tolerance: float = Field(
        1.5, alias="rttTolerance", ge=1, le=100, description="So many times the usual latency is as usual."
    )
    queue_size: Positive = Field(
        4, alias="queueSize", description="Requests that may wait at the instances; more is busier and later."
    )
    smoothing: float = Field(0.2, gt=0, le=1, description="Share of the new limit against the old one.")
    long_window: Positive = Field(
        600, alias="longWindow", description="Intervals over which the usual latency is averaged."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Concurrency:
        if self.min_concurrency > self.max_concurrency_limit:
            raise refused("BM1230", "minConcurrency is more than maxConcurrencyLimit", "exchange them")
        return self

    def adaptive(self) -> AdaptiveConcurrency:
        interval = seconds(self.concurrency_update_interval)
        return AdaptiveConcurrency(**{**self.model_dump(), "concurrency_update_interval": interval})


class Resilience(Model):
    """The blocks of a `trafficPolicy` that say what happens when things go wrong; each is off if absent."""

    connection_pool: ConnectionPool | None = Field(None, alias="connectionPool")
    limits: LimitSettings | None = Field(None, description="Instead of connectionPool.")
    outlier_detection: Outliers | None = Field(None, alias="outlierDetection")
    retry_budget: Retries | None = Field(None, alias="retryBudget")
    breaker: BreakerSettings | None = Field(
        None, description="One for the whole service or subset: when it is open, requests get a 503 at once."
    )
    instance_breaker: BreakerSettings | None = Field(
        None,
        alias="instanceBreaker",
        description="One for each instance: when it is open, the others get the traffic.",
    )
    adaptive_concurrency: Concurrency | None = Field(None, alias="adaptiveConcurrency")

    def own_limits(self) -> Limits | None:
        """Return the limits, whichever of the two blocks sets them."""
        pool = self.connection_pool or self.limits
        return pool.limits() if pool is not None else None

    @model_validator(mode="after")
    def _limits_once(self) -> Resilience:
        if self.connection_pool and self.limits:
            raise refused("BM1230", "connectionPool and limits both set limits", "keep one of them")
        return self


def traffic_of(*policies: Resilience | None) -> Traffic:
    """Return what holds by several policies; of each block the first counts, so a subset's comes first."""

    def first(block: Callable[[Resilience], T | None]) -> T | None:
        """Return the block of the first policy that has it."""
        blocks = (block(policy) for policy in policies if policy is not None)
        return next((found for found in blocks if found is not None), None)

    limits = first(Resilience.own_limits)
    outliers = first(lambda policy: policy.outlier_detection)
    retries = first(lambda policy: policy.retry_budget)
    breaker = first(lambda policy: policy.breaker)
    of_instances = first(lambda policy: policy.instance_breaker)
    adaptive = first(lambda policy: policy.adaptive_concurrency)
    traffic = Traffic(
        limits=limits or NO_LIMITS,
        retry_budget=retries.budget() if retries else None,
        outlier_detection=outliers.detection() if outliers else None,
        breaker=breaker.breaker() if breaker else None,
        instance_breaker=of_instances.breaker() if of_instances else None,
        adaptive_concurrency=adaptive.adaptive() if adaptive else None,
    )
    return DEFAULT_TRAFFIC if traffic == DEFAULT_TRAFFIC else traffic
