"""What a Destination says about limits, ejection, breakers and retries, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel

from busmesh.decide.breaker import BreakerPolicy
from busmesh.decide.budget import RetryBudget
from busmesh.decide.concurrency import AdaptiveConcurrency
from busmesh.decide.ejection import OutlierDetection
from busmesh.decide.evidence import EvidencePolicy
from busmesh.decide.limits import UNLIMITED, Limits
from busmesh.decide.traffic import DEFAULT_TRAFFIC, Traffic
from busmesh.names import ServiceName
from busmesh.policy.breakers import BreakerSettings
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.documents import Document, parse_documents
from busmesh.policy.outliers import Outliers, SharedEvidence
from busmesh.policy.resilience import Concurrency, Retries
from busmesh.policy.revision import PolicySet
from busmesh.yamlfile import InvalidDocuments

ORDERS = ServiceName("orders")


def text(blocks: str, subset: str = "") -> str:
    return (
        "apiVersion: busmesh/v1\nkind: Destination\nmetadata: {name: orders}\nspec:\n  host: orders\n"
        f"  trafficPolicy: {{{blocks}}}\n"
        f"  subsets: [{{name: v1, labels: {{version: v1}}, trafficPolicy: {{{subset}}}}}]\n"
    )


def compiled(blocks: str, subset: str = "") -> tuple[Traffic, Traffic]:
    """What holds for the whole service and for its subset."""
    documents = parse_documents(text(blocks, subset).encode(), "f")
    policy_set = PolicySet(1, {document.key: document for document in documents})
    snapshot = compile_set(policy_set, Caller(ServiceName("web")), rng=Random(1))
    return snapshot.traffic(ORDERS), snapshot.traffic(ORDERS, "v1")


def said(blocks: str) -> list[str]:
    try:
        parse_documents(text(blocks).encode(), "f")
    except InvalidDocuments as error:
        return [str(finding) for finding in error.findings]
    return []


@pytest.mark.parametrize("blocks", ["", "loadBalancer: {simple: RANDOM}", "connectionPool: {}", "limits: {}"])
def test_nothing_is_on_unless_asked_for(blocks: str) -> None:
    whole, subset = compiled(blocks)
    assert whole is subset is DEFAULT_TRAFFIC
    assert Traffic(Limits(UNLIMITED, UNLIMITED, UNLIMITED)) == DEFAULT_TRAFFIC


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("connectionPool: {tcp: {maxConnections: 100}}", Limits(max_requests=100)),
        ("connectionPool: {http: {http2MaxRequests: 1000}}", Limits(max_requests=1000)),
        (
            "connectionPool: {tcp: {maxConnections: 100}, http: {http2MaxRequests: 10}}",
            Limits(max_requests=10),
        ),
        ("connectionPool: {tcp: {maxConnections: 7}, http: {http2MaxRequests: 10}}", Limits(max_requests=7)),
        ("connectionPool: {tcp: {maxConnections: 0}, http: {maxRetries: 0}}", Limits()),
        ("connectionPool: {http: {http1MaxPendingRequests: 5}}", Limits(max_pending=5)),
        ("connectionPool: {http: {maxRetries: 3, maxRequestsPerConnection: 10}}", Limits(max_retries=3)),
        ("connectionPool: {tcp: {connectTimeout: 30ms}}", Limits(connect_timeout=0.03)),
        ("limits: {maxRequests: 1, maxPending: 0, maxRetries: 2}", Limits(1, 0, 2)),
    ],
)
def test_limits(pool: str, expected: Limits) -> None:
    assert compiled(pool)[0] == Traffic(limits=expected)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("outlierDetection: {}", Traffic(outlier_detection=OutlierDetection())),
        ("retryBudget: {}", Traffic(retry_budget=RetryBudget())),
        ("breaker: {}", Traffic(breaker=BreakerPolicy())),
        ("instanceBreaker: {}", Traffic(instance_breaker=BreakerPolicy())),
        ("adaptiveConcurrency: {}", Traffic(adaptive_concurrency=AdaptiveConcurrency())),
        (
            "outlierDetection: {sharedEvidence: {}}",
            Traffic(outlier_detection=OutlierDetection(shared=EvidencePolicy())),
        ),
        (
            "retryBudget: {percent: 12.5, minRetryConcurrency: 0, budgetInterval: 10s}",
            Traffic(retry_budget=RetryBudget(12.5, 0, 10.0)),
        ),
        (
            "outlierDetection: {baseEjectionTime: 15m, consecutiveGatewayErrors: 7, interval: 5m}",
            Traffic(
                outlier_detection=OutlierDetection(
                    base_ejection_time=900.0,
                    max_ejection_time=900.0,
                    consecutive_gateway_errors=7,
                    interval=300.0,
                )
            ),
        ),
        (
            "outlierDetection: {baseEjectionTime: 180.000s, maxEjectionTime: 1h, maxEjectionTimeJitter: 5s}",
            Traffic(
                outlier_detection=OutlierDetection(
                    base_ejection_time=180.0, max_ejection_time=3600.0, max_ejection_time_jitter=5.0
                )
            ),
        ),
        (
            "breaker: {slidingWindowType: TIME_BASED, slidingWindowSize: 30, failureRateThreshold: 20}",
            Traffic(
                breaker=BreakerPolicy(
                    sliding_window_type="TIME_BASED", sliding_window_size=30, failure_rate_threshold=20.0
                )
            ),
        ),
        (
            "adaptiveConcurrency: {concurrencyUpdateInterval: 1s, minConcurrency: 5}",
            Traffic(
                adaptive_concurrency=AdaptiveConcurrency(concurrency_update_interval=1.0, min_concurrency=5)
            ),
        ),
    ],
)
def test_a_block_turns_on_what_it_is_about_with_the_defaults(block: str, expected: Traffic) -> None:
    assert compiled(block) == (expected, expected)


@pytest.mark.parametrize(
    ("model", "policy"),
    [
        (Outliers, OutlierDetection),
        (SharedEvidence, EvidencePolicy),
        (BreakerSettings, BreakerPolicy),
        (Concurrency, AdaptiveConcurrency),
        (Retries, RetryBudget),
    ],
)
def test_every_setting_can_be_written(model: type[BaseModel], policy: Any) -> None:
    renamed = {"shared_evidence": "shared"}
    written = {renamed.get(name, name) for name in model.model_fields}
    assert written == {field.name for field in fields(policy)}


@pytest.mark.parametrize(
    ("whole", "own", "expected"),
    [
        ("limits: {maxRequests: 9}", "limits: {maxPending: 1}", Traffic(limits=Limits(max_pending=1))),
        (
            "limits: {maxRequests: 9}",
            "connectionPool: {tcp: {maxConnections: 3}}",
            Traffic(limits=Limits(max_requests=3)),
        ),
        (
            "limits: {maxRequests: 9}, breaker: {consecutiveFailures: 2}",
            "breaker: {}",
            Traffic(limits=Limits(max_requests=9), breaker=BreakerPolicy()),
        ),
        (
            "retryBudget: {percent: 1}",
            "loadBalancer: {simple: RANDOM}",
            Traffic(retry_budget=RetryBudget(1.0)),
        ),
        ("limits: {maxRequests: 9}", "limits: {}", DEFAULT_TRAFFIC),
    ],
)
def test_a_subset_replaces_block_by_block(whole: str, own: str, expected: Traffic) -> None:
    assert compiled(whole, own)[1] == expected


@pytest.mark.parametrize(
    ("blocks", "code", "rest"),
    [
        ("connectionPool: {tcp: {maxConections: 1}}", "BM1201", "maxConnections"),
        ("connectionPool: {tcp: {maxConnections: -1}}", "BM1204", "greater than or equal to 0"),
        ("connectionPool: {tcp: {maxConnections: '1'}}", "BM1203", ""),
        ("connectionPool: {tcp: {maxConnections: 2147483648}}", "BM1204", ""),
        ("connectionPool: {tcp: {connectTimeout: 0s}}", "BM1207", "from 1ms to 24h"),
        ("limits: {maxRequests: 0}", "BM1204", ""),
        ("limits: {}, connectionPool: {}", "BM1230", "keep one of them"),
        ("outlierDetection: {consecutive5xx: 1}", "BM1201", "consecutive5xxErrors"),
        ("outlierDetection: {maxEjectionPercent: 101}", "BM1204", "100"),
        ("outlierDetection: {interval: 0s}", "BM1207", ""),
        ("outlierDetection: {interval: 10}", "BM1203", "quotes"),
        ("outlierDetection: {baseEjectionTime: 10s, maxEjectionTime: 9s}", "BM1230", "maxEjectionTime"),
        ("outlierDetection: {enforcingSuccessRate: -1}", "BM1204", ""),
        ("outlierDetection: {sharedEvidence: {minimumReporters: 1}}", "BM1204", "2"),
        ("outlierDetection: {sharedEvidence: {quorumPercent: 0}}", "BM1204", ""),
        ("retryBudget: {percent: 101}", "BM1204", ""),
        ("retryBudget: {percent: 20%}", "BM1203", ""),
        ("breaker: {failureRateThreshold: 0}", "BM1204", "greater than 0"),
        ("breaker: {slidingWindowType: TIMED}", "BM1204", "TIME_BASED"),
        ("breaker: {permittedNumberOfCallsInHalfOpenState: 0}", "BM1204", "1"),
        ("breaker: {exponentialBackoffMultiplier: 0.5}", "BM1204", ""),
        ("breaker: {waitDurationInOpenState: 0s}", "BM1207", ""),
        ("adaptiveConcurrency: {minConcurrency: 9, maxConcurrencyLimit: 8}", "BM1230", "exchange them"),
        ("adaptiveConcurrency: {smoothing: 0}", "BM1204", ""),
        ("adaptiveConcurrency: {rttTolerance: 0.9}", "BM1204", ""),
    ],
)
def test_what_may_not_be_said(blocks: str, code: str, rest: str) -> None:
    (line,) = said(blocks)
    assert f" {code} " in line
    assert rest in line


def test_a_destination_of_a_route_carries_what_holds_for_it(route: Callable[..., Document]) -> None:
    rules = "- route: [{destination: {host: orders, subset: v1}}]"
    documents = [route(rules=rules), *parse_documents(text("limits: {maxRequests: 9}").encode(), "f")]
    policy_set = PolicySet(1, {document.key: document for document in documents})
    snapshot = compile_set(policy_set, Caller(ServiceName("web")), rng=Random(1))
    (rule,) = snapshot.service(ORDERS).rules
    assert rule.split.pick().traffic.limits == Limits(9)
    assert snapshot.target(ORDERS).traffic.limits == Limits(9)
    assert snapshot.target(ServiceName("others")).traffic is DEFAULT_TRAFFIC
