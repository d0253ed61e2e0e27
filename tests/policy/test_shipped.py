"""Every document under ``policies/`` loads, fits, and does what its comment says."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest

from busmesh.decide.affinity import Cookie
from busmesh.decide.answer import DirectResponse, Redirect
from busmesh.decide.balance import BalancerSpec, LocalitySpec, Warmup
from busmesh.decide.breaker import BreakerPolicy
from busmesh.decide.evidence import EvidencePolicy
from busmesh.decide.headers import HeaderOps
from busmesh.decide.limits import Admission, Limits
from busmesh.decide.origin import Origin
from busmesh.decide.outlier import Detector
from busmesh.decide.ratelimit import RateLimiter
from busmesh.decide.request import Headers, RequestHead
from busmesh.decide.retry import Outcome
from busmesh.decide.route import Rule, choose_rule
from busmesh.decide.sharing import Sharing
from busmesh.decide.sticky import StickySession
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.access import access_rows
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.documents import KINDS
from busmesh.policy.load import load_documents
from busmesh.policy.revision import EMPTY, PolicySet, Revision, fold, propose
from busmesh.policy.schema import schema_text
from busmesh.policy.snapshot import Snapshot
from busmesh.policy.validate import validate_bundle
from busmesh.yamlfile import read_yaml

FOLDER = Path(__file__).parents[2] / "policies"
FILES = sorted(FOLDER.glob("*.yaml"))
ORDERS, PAYMENTS, PRODUCTS = (ServiceName(name) for name in ("orders", "payments", "product-service"))
HTTPBIN = ServiceName("httpbin")
#: The demo's services, and the one of the VirtualService that must work as it is.
LIVE = {
    ServiceName("web"): [{"version": "v1"}],
    ORDERS: [{"version": "v1"}, {"version": "v2"}],
    PAYMENTS: [{"version": "v1"}],
    PRODUCTS: [{"version": "v1"}, {"version": "v2"}],
}
SEED = """\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: product-service
spec:
  hosts:
  - product-service
  http:
  - route:
    - destination:
        host: product-service
        subset: v1
      weight: 80
    - destination:
        host: product-service
        subset: v2
      weight: 20
"""


def publish(current: PolicySet, name: str) -> PolicySet:
    """Publish a file the way an operator does: load, validate, propose, over the wire, fold."""
    documents = load_documents([FOLDER / name])
    assert [str(finding) for finding in validate_bundle(documents, current, LIVE)] == []
    revision = propose(current, documents, [], author="ana", reason=name, now=1.0)
    return fold(current, Revision.from_plain(json.loads(json.dumps(revision.to_plain()))))


def snapshot_of(*names: str, caller: str = "web", labels: dict[str, str] | None = None) -> Snapshot:
    current = EMPTY
    for name in names:
        current = publish(current, name)
    return compile_set(current, Caller(ServiceName(caller), labels or {}), rng=Random(1))


def rule_for(
    snapshot: Snapshot,
    service: ServiceName,
    target: bytes = b"/",
    headers: Headers | None = None,
    method: bytes = b"GET",
) -> Rule:
    rule = choose_rule(snapshot.service(service), RequestHead(method, target, headers or []))
    assert rule is not None
    return rule


def picks(rule: Rule, count: int = 2000) -> dict[str, int]:
    seen = [str(rule.pick(RequestHead(b"GET", b"/", []))) for _ in range(count)]
    return {name: seen.count(name) for name in sorted(set(seen))}


def after(*operations: HeaderOps | None, headers: Headers) -> Headers:
    for operation in operations:
        headers = operation.apply(headers) if operation else headers
    return headers


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_can_be_published_on_an_empty_mesh_and_again(file: Path) -> None:
    once = publish(EMPTY, file.name)
    again = publish(once, file.name)
    assert once.digest == again.digest
    assert len(once.documents) >= 1


def test_the_files_can_be_published_one_after_another_in_any_order() -> None:
    for one, two in itertools.permutations([file.name for file in FILES], 2):
        publish(publish(EMPTY, one), two)


def modelines(file: Path) -> Iterator[Path]:
    for found in re.finditer(r"^# yaml-language-server: \$schema=(\S+)$", file.read_text(), re.MULTILINE):
        yield file.parent / found[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_document_names_the_schema_that_it_fits(file: Path) -> None:
    documents = read_yaml(file.read_bytes(), file.name)
    schemas = list(modelines(file))
    assert file.read_text().startswith("# yaml-language-server: ")
    assert len(schemas) == len(documents)
    for document, path in zip(documents, schemas, strict=True):
        plain: Any = document.data
        assert path.stem == plain["kind"]
        jsonschema.validate(plain, json.loads(path.read_text()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_says_what_it_shows(file: Path) -> None:
    comment = [line for line in file.read_text().splitlines() if line.startswith("# ")][1:]
    assert len(" ".join(comment)) > 40


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_are_those_of_the_models(kind: str) -> None:
    # To write one anew: busmesh policy schema KIND > policies/schema/KIND.json
    assert json.loads((FOLDER / "schema" / f"{kind}.json").read_text()) == json.loads(schema_text(kind))


def test_a_schema_refuses_what_the_models_refuse() -> None:
    made = json.loads(schema_text("VirtualService"))
    plain: Any = read_yaml(SEED.encode(), "seed")[0].data
    jsonschema.validate(plain, made)
    plain["spec"]["http"][0]["retries"] = {"attempts": 3}
    jsonschema.validate(plain, made)
    plain["spec"]["http"][0]["retries"] = {"attempts": 3, "hedgeOnPerTryTimeout": True}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, made)


def test_product_split_is_the_virtual_service_as_it_is_and_splits_80_to_20() -> None:
    text = (FOLDER / "product-split.yaml").read_text()
    assert text.endswith(SEED)
    assert all(line.startswith("#") for line in text.removesuffix(SEED).splitlines())
    snapshot = snapshot_of("product-split.yaml")
    rule = rule_for(snapshot, PRODUCTS)
    assert rule.name == "product-service[0]"
    assert picks(rule) == pytest.approx({"product-service/v1": 1600, "product-service/v2": 400}, abs=10)
    assert [target.labels for target in rule.targets()] == [{"version": "v1"}, {"version": "v2"}]


def test_orders_split() -> None:
    rule = rule_for(snapshot_of("orders-split.yaml"), ORDERS)
    assert picks(rule) == pytest.approx({"orders/v1": 1600, "orders/v2": 400}, abs=10)
    fresh = rule_for(snapshot_of("orders-split.yaml"), ORDERS)
    assert picks(fresh, 500) == pytest.approx({"orders/v1": 400, "orders/v2": 100}, abs=2.6)


def test_orders_canary_replaces_the_split() -> None:
    snapshot = snapshot_of("orders-split.yaml", "orders-canary.yaml")
    canary = rule_for(snapshot, ORDERS, headers=[(b"X-Canary", b"always")])
    assert (canary.name, picks(canary)) == ("canary", {"orders/v2": 2000})
    for headers in ([], [(b"x-canary", b"never")]):
        split = rule_for(snapshot, ORDERS, headers=headers)
        assert split.name == "split"
        assert picks(split) == pytest.approx({"orders/v1": 1600, "orders/v2": 400}, abs=10)


def test_header_rewriting() -> None:
    rule = rule_for(snapshot_of("header-rewriting.yaml"), ORDERS)
    came = [(b"X-Debug", b"1"), (b"X-Tenant", b"evil"), (b"Via", b"1.1 a")]
    for target in rule.targets():
        sent = after(target.request_headers, rule.request_headers, headers=came)
        assert sent == [(b"Via", b"1.1 a"), (b"x-tenant", b"shop"), (b"via", b"1.1 busmesh")]
        back = after(target.response_headers, rule.response_headers, headers=[(b"Server", b"x")])
        assert back == [(b"x-orders-version", str(target.subset).encode())]


def test_timeouts() -> None:
    snapshot = snapshot_of("timeouts.yaml")
    assert rule_for(snapshot, PAYMENTS, b"/charge/7", method=b"POST").timeout == 2.0
    assert rule_for(snapshot, PAYMENTS, b"/charge/7").timeout == 0.5
    assert rule_for(snapshot, PAYMENTS, b"/", method=b"POST").timeout == 0.5


def requests_of(rule: Rule, count: int = 4000) -> tuple[float, float]:
    """Return the shares of requests that a rule delays and aborts."""
    assert rule.fault is not None
    rng = Random(5)
    delayed = sum(rule.fault.delay(rng) > 0 for _ in range(count))
    return delayed / count, sum(rule.fault.abort(rng) > 0 for _ in range(count)) / count


def test_orders_header_routing() -> None:
    snapshot = snapshot_of("orders-header-routing.yaml")
    assert picks(rule_for(snapshot, ORDERS, headers=[(b"End-User", b"ana")])) == {"orders/v2": 2000}
    assert picks(rule_for(snapshot, ORDERS, b"/BETA/x")) == {"orders/v2": 2000}
    assert picks(rule_for(snapshot, ORDERS, headers=[(b"end-user", b"bob")])) == {"orders/v1": 2000}


def test_payments_delay() -> None:
    rule = rule_for(snapshot_of("payments-delay.yaml"), PAYMENTS)
    assert requests_of(rule) == pytest.approx((0.1, 0.0), abs=0.02)
    assert rule.fault is not None
    assert max(rule.fault.delay(Random(seed)) for seed in range(100)) == 2.0


def test_payments_abort() -> None:
    snapshot = snapshot_of("payments-abort.yaml")
    ana = rule_for(snapshot, PAYMENTS, headers=[(b"end-user", b"ana")])
    assert requests_of(ana) == (0.0, 1.0)
    assert ana.fault is not None
    assert ana.fault.abort(Random(1)) == 500
    others = rule_for(snapshot, PAYMENTS)
    assert requests_of(others, 50_000) == pytest.approx((0.0, 0.001), abs=0.0006)
    assert picks(others) == {"payments": 2000}


def test_payments_retries() -> None:
    rule = rule_for(snapshot_of("payments-retries.yaml"), PAYMENTS)
    retries = rule.retries
    assert (rule.timeout, retries.per_try_timeout, retries.attempts) == (2.0, 0.6, 3)
    assert [retries.again_after(status, b"", 3) for status in (500, 502, 503, 504)] == [
        False,
        True,
        True,
        True,
    ]
    assert retries.again(Outcome.UNKNOWN, b"POST", 3, "UT")
    assert not retries.again_after(503, b"", 4)
    default = rule_for(snapshot_of("timeouts.yaml"), PAYMENTS).retries
    assert not default.again(Outcome.UNKNOWN, b"POST", 1, "UT")


def test_payments_hedging() -> None:
    snapshot = snapshot_of("payments-hedging.yaml")
    reads = rule_for(snapshot, PAYMENTS).retries
    assert (reads.hedge, reads.per_try_timeout, reads.attempts) == (True, 0.15, 1)
    writes = rule_for(snapshot, PAYMENTS, method=b"POST").retries
    assert (writes.hedge, writes.per_try_timeout, writes.attempts) == (False, None, 1)


def test_payments_maintenance() -> None:
    snapshot = snapshot_of("payments-maintenance.yaml")
    moved, closed = rule_for(snapshot, PAYMENTS, b"/v1/refunds?id=7").answer, rule_for(snapshot, PAYMENTS)
    assert isinstance(moved, Redirect)
    assert moved.status == 308
    assert moved.location(b"payments", b"/v1/refunds?id=7") == b"http://orders/refunds?id=7"
    assert isinstance(closed.answer, DirectResponse)
    assert (closed.answer.status, json.loads(closed.answer.body)) == (503, {"error": "closed until eight"})
    headers = after(closed.response_headers, headers=[(b"content-type", b"text/plain")])
    assert headers == [(b"content-type", b"application/json"), (b"retry-after", b"3600")]


def test_orders_mirroring() -> None:
    rule = rule_for(snapshot_of("orders-mirroring.yaml"), ORDERS)
    assert picks(rule) == {"orders/v1": 2000}
    assert [(str(mirror.target), mirror.fraction) for mirror in rule.mirrors] == [("orders/v2", 0.5)]


def test_orders_sticky_canary() -> None:
    rule = rule_for(snapshot_of("orders-sticky-canary.yaml"), ORDERS)
    users = [RequestHead(b"GET", b"/", [(b"cookie", b"a=b; user=u%d" % number)]) for number in range(2000)]
    given = [str(rule.pick(user)) for user in users]
    assert given.count("orders/v2") == pytest.approx(200, abs=40)
    assert [str(rule.pick(user)) for user in users] == given
    assert picks(rule) == pytest.approx({"orders/v1": 1800, "orders/v2": 200}, abs=10)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/shop/catalogue/7?a", b"/v2/items/7?a"),
        (b"/wholesale/catalogue", b"/v2/items"),
        (b"/shop/catalogue/%2e%2e/admin", None),
        (b"/customers/ana/orders", b"/orders/of/ana"),
        (b"/customers/ana", b"/customers/ana"),
        (b"/orders", b"/orders"),
    ],
)
def test_orders_rewriting(target: bytes, expected: bytes | None) -> None:
    rewrite = rule_for(snapshot_of("orders-rewriting.yaml"), ORDERS, target).rewrite
    assert rewrite is not None
    assert rewrite.target(target) == expected
    assert rewrite.authority == (b"orders.internal" if target == b"/orders" else None)


def test_native_route() -> None:
    web = snapshot_of("native-route.yaml")
    v2 = snapshot_of("native-route.yaml", caller="orders", labels={"version": "v2"})
    v1 = snapshot_of("native-route.yaml", caller="orders", labels={"version": "v1"})

    def name(snapshot: Snapshot, *args: Any) -> tuple[str, float | None]:
        rule = rule_for(snapshot, PAYMENTS, *args)
        return rule.name, rule.timeout

    assert name(web, b"/reports/1?format=csv") == ("reports", 30.0)
    assert name(web, b"/reports/1", [(b"Accept", b"text/csv;q=1")]) == ("reports", 30.0)
    assert name(web, b"/reports/1?format=pdf") == ("rest", 1.0)
    assert name(web, b"/reports/1?format=csv", [], b"POST") == ("rest", 1.0)
    assert name(v2, b"/") == ("checkout", 3.0)
    assert name(v2, b"/", [(b"X-Replay", b"")]) == ("rest", 1.0)
    assert name(v1, b"/") == name(web, b"/") == ("rest", 1.0)
    assert name(web, b"/Refunds/12") == ("refunds", 5.0)
    assert name(web, b"/refunds/12/x") == ("rest", 1.0)


def test_destinations() -> None:
    snapshot = snapshot_of("destinations.yaml")
    assert snapshot.subset_labels(ORDERS, "next") == {"version": "v2"}
    assert [snapshot.balancer(ORDERS, subset).simple for subset in (None, "v1", "v2", "next")] == [
        *["LEAST_REQUEST"] * 3,
        "ROUND_ROBIN",
    ]
    assert snapshot.balancer(PAYMENTS).simple == "RANDOM"


def test_balancing() -> None:
    snapshot = snapshot_of("balancing.yaml")
    affinity = snapshot.balancer(ORDERS).affinity
    assert affinity is not None
    by_user = RequestHead(b"GET", b"/", [(b"X-User-Id", b"ann")])
    assert affinity.read(by_user, Origin()) == b"ann"
    assert snapshot.balancer(PAYMENTS) == BalancerSpec(
        "PEAK_EWMA", locality=LocalitySpec(failover=(("eu-west", "eu-central"),)), warmup=Warmup(60.0)
    )
    web = snapshot.balancer(ServiceName("web"))
    assert web.sticky == StickySession(Cookie("session-instance", "/", 3600.0))


def test_orders_destinationrule_replaces_the_destination() -> None:
    snapshot = snapshot_of("destinations.yaml", "orders-destinationrule.yaml")
    assert [snapshot.balancer(ORDERS, subset).simple for subset in (None, "v1", "v2")] == [
        "LEAST_REQUEST",
        "LEAST_REQUEST",
        "ROUND_ROBIN",
    ]
    assert snapshot.subset_labels(ORDERS, "v2") == {"version": "v2"}


def test_circuit_breaking_holds_back_the_second_and_refuses_the_third() -> None:
    (target,) = [t for t, _ in snapshot_of("circuit-breaking.yaml").service(HTTPBIN).rules[0].split.choices]
    admission = Admission(target.traffic.limits)
    assert [admission.admit(), admission.wait(), admission.wait()] == [True, True, False]
    policy = target.traffic.outlier_detection
    assert policy is not None
    detector = Detector(policy, Random(1), 0.0)
    assert detector.result(detector.join("httpbin-1"), 500, 0.0) is not None
    assert detector.disregarded is False
    returned = {now: len(detector.sweep(float(now))) for now in (179, 180)}
    assert returned == {179: 0, 180: 1}


def test_resilience_of_a_subset_replaces_block_by_block() -> None:
    snapshot = snapshot_of("resilience.yaml")
    whole, v1, v2 = (snapshot.traffic(PAYMENTS, subset) for subset in (None, "v1", "v2"))
    assert v1 == whole
    assert whole.breaker is not None
    assert (whole.breaker.minimum_number_of_calls, whole.breaker.consecutive_failures) == (20, 5)
    assert v2.breaker == BreakerPolicy(consecutive_failures=3, wait_duration_in_open_state=5.0)
    assert replace(v2, breaker=whole.breaker) == whole
    assert whole.outlier_detection is not None
    assert whole.outlier_detection.shared == EvidencePolicy()
    assert whole.limits == Limits(200, 50)


def test_rate_limits() -> None:
    limits = RateLimiter(Sharing(born=1, now=-10.0))
    limits.apply(snapshot_of("rate-limits.yaml", caller="payments").limits, 0.0)

    def refused(
        caller: str, count: int, method: bytes = b"GET", target: bytes = b"/charge/7"
    ) -> Counter[str]:
        head = RequestHead(method, target, [(b"X-Customer", b"anna")])
        verdicts = [limits.check(ServiceName(caller), head, 1.0) for _ in range(count)]
        return Counter(verdict.limit for verdict in verdicts if not verdict.allowed)

    assert refused("orders", 60, b"POST") == {"charges": 10}
    assert refused("orders", 60) == {"callers": 10}
    assert refused("orders", 1, b"POST", b"/refunds") == {"callers": 1}
    assert refused("batch", 25) == {"callers": 5}
    assert limits.check(ServiceName("batch"), RequestHead(b"GET", b"/", []), 1.0).wait == pytest.approx(0.1)
    counted = limits.statistics()["customers"]
    assert (counted["allowed"], counted["refused"]) == (10 + 10, 100)
    assert snapshot_of("rate-limits.yaml", caller="web").limits == ()


def allowed(
    file: str,
    caller: str,
    method: bytes,
    target: bytes,
    claims: dict[str, Any] | None = None,
    service: str = "orders",
) -> bool:
    documents = list(publish(EMPTY, file).documents.values())
    asking = SpiffeId.workload("local", ServiceName(caller), "a-0")
    [row] = access_rows(
        documents, asking, ServiceName.parse(service), [], RequestHead(method, target, []), claims
    )
    return bool(row["allowed"])


def test_authorization() -> None:
    file = "authorization.yaml"
    assert allowed(file, "web", b"POST", b"/orders")
    assert allowed(file, "web", b"GET", b"/orders/7?full=1")
    assert not allowed(file, "web", b"DELETE", b"/orders/7")
    assert allowed(file, "warehouse", b"GET", b"/orders/open")
    assert not allowed(file, "warehouse", b"GET", b"/orders/7")
    assert not allowed(file, "other", b"GET", b"/orders/7")
    assert not allowed(file, "web", b"GET", b"/admin/users")
    assert allowed(file, "other", b"GET", b"/admin", service="payments"), "nothing is said of payments"


def test_authorization_default_deny() -> None:
    assert not allowed("authorization-default-deny.yaml", "web", b"GET", b"/")
    assert not allowed("authorization-default-deny.yaml", "web", b"GET", b"/", service="payments")
    assert allowed("authorization-default-deny.yaml", "web", b"GET", b"/", service="payments.other")


def test_end_users() -> None:
    file, issuer = "end-users.yaml", "https://idp.example"
    staff = {"iss": issuer, "sub": "ann", "groups": ["staff"]}
    assert allowed(file, "web", b"GET", b"/", staff)
    assert not allowed(file, "web", b"GET", b"/", staff | {"groups": ["guests"]})
    assert not allowed(file, "web", b"GET", b"/", staff | {"iss": "https://evil.example"})
    assert not allowed(file, "web", b"GET", b"/")


def test_no_file_is_without_a_test_of_its_own() -> None:
    tests = [name.removeprefix("test_") for name in globals() if name.startswith("test_")]
    for file in FILES:
        words = file.stem.replace("-", "_")
        assert any(name.startswith(words) for name in tests), f"say in a test what {file.name} does"
