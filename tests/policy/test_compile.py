from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from busmesh.decide.request import Headers, RequestHead
from busmesh.decide.route import choose_rule
from busmesh.errors import InvalidDocument
from busmesh.names import ServiceName
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.documents import Document
from busmesh.policy.revision import EMPTY, PolicySet
from busmesh.policy.snapshot import DEFAULT_RULE, MAX_DEFAULTS, Snapshot

Make = Callable[..., Document]
ORDERS, PAYMENTS = ServiceName("orders"), ServiceName("payments")
HEAD = RequestHead(b"GET", b"/", [])
WEB = Caller(ServiceName("web"), {"version": "v2", "team": "shop"})


def compiled(*documents: Document, caller: Caller = WEB) -> Snapshot:
    policy_set = PolicySet(3, {document.key: document for document in documents})
    return compile_set(policy_set, caller, rng=Random(1))


def chosen(
    snapshot: Snapshot,
    target: bytes = b"/",
    headers: Headers | None = None,
    method: bytes = b"GET",
    service: ServiceName = ORDERS,
) -> str | None:
    rule = choose_rule(snapshot.service(service), RequestHead(method, target, headers or []))
    return None if rule is None else rule.name


def matching(condition: str) -> str:
    """Rules: "hit" for what the condition says, "miss" for all else."""
    send = "route: [{destination: {host: orders}}]"
    return f"- name: hit\n  match: [{condition}]\n  {send}\n- name: miss\n  {send}\n"


GET: tuple[bytes, Headers, bytes] = (b"/", [], b"GET")


@pytest.mark.parametrize(
    ("condition", "request_", "expected"),
    [
        ("{uri: {exact: /a}}", (b"/a?x=1", [], b"GET"), "hit"),
        ("{uri: {exact: /a}}", (b"/A", [], b"GET"), "miss"),
        ("{uri: {exact: /A}, ignoreUriCase: true}", (b"/a", [], b"GET"), "hit"),
        ("{uri: {prefix: /Api}, ignoreUriCase: true}", (b"/aPI/x", [], b"GET"), "hit"),
        ("{uri: {regex: '/A+'}, ignoreUriCase: true}", (b"/a", [], b"GET"), "miss"),
        ("{uri: {prefix: /api}}", (b"/apis", [], b"GET"), "hit"),
        ("{uri: {regex: '/v[0-9]+/.*'}}", (b"/v1/x?y", [], b"GET"), "hit"),
        ("{uri: {regex: '/v[0-9]+'}}", (b"/v1/x", [], b"GET"), "miss"),
        ("{uri: {prefix: /a b}}", (b"/a%20b", [], b"GET"), "miss"),
        ("{method: {exact: POST}}", (b"/", [], b"POST"), "hit"),
        ("{method: {regex: 'P(OS|U)T'}}", (b"/", [], b"PUT"), "hit"),
        ("{headers: {X-A: {exact: b}}}", (b"/", [(b"x-a", b"b")], b"GET"), "hit"),
        ("{headers: {x-a: {exact: b}}}", (b"/", [(b"X-A", b"B")], b"GET"), "miss"),
        ("{headers: {x-a: {}}}", (b"/", [(b"X-A", b"")], b"GET"), "hit"),
        ("{headers: {x-a: {}}}", GET, "miss"),
        ("{headers: {x-a: {prefix: b}}}", (b"/", [(b"x-a", b"bc")], b"GET"), "hit"),
        ("{headers: {x-a: {regex: 'b+'}}}", (b"/", [(b"x-a", b"bbb")], b"GET"), "hit"),
        ("{headers: {x-a: {regex: 'b+'}}}", (b"/", [(b"x-a", b"b" * 9000)], b"GET"), "miss"),
        ("{headers: {x-a: {exact: b}, x-c: {exact: d}}}", (b"/", [(b"x-a", b"b")], b"GET"), "miss"),
        ("{withoutHeaders: {x-a: {}}}", GET, "hit"),
        ("{withoutHeaders: {x-a: {}}}", (b"/", [(b"x-a", b"b")], b"GET"), "miss"),
        ("{withoutHeaders: {x-a: {exact: b}}}", (b"/", [(b"x-a", b"c")], b"GET"), "hit"),
        ("{withoutHeaders: {x-a: {regex: 'b+'}}}", (b"/", [(b"x-a", b"c" * 9000)], b"GET"), "miss"),
        ("{queryParams: {q: {exact: '1'}}}", (b"/?a=2&q=1", [], b"GET"), "hit"),
        ("{queryParams: {q: {exact: ''}}}", (b"/?q", [], b"GET"), "hit"),
        ("{queryParams: {q: {regex: '[0-9]+'}}}", (b"/?q=x", [], b"GET"), "miss"),
        ("{queryParams: {q: {}}}", GET, "miss"),
        ("{method: {exact: GET}, uri: {prefix: /a}}", (b"/b", [], b"GET"), "miss"),
        ("{method: {exact: PUT}}, {uri: {prefix: /a}}", (b"/a", [], b"GET"), "hit"),
        ("{method: {exact: PUT}}, {uri: {prefix: /a}}", GET, "miss"),
        ("{authority: {exact: orders}}", (b"/", [(b"Host", b"orders")], b"GET"), "hit"),
        ("{authority: {prefix: orders.}}", (b"/", [(b"host", b"orders.default:8080")], b"GET"), "hit"),
        ("{authority: {exact: orders}}", (b"/", [(b"Host", b"orders:8080")], b"GET"), "miss"),
        ("{scheme: {exact: http}, method: {exact: GET}}", GET, "hit"),
        ("{scheme: {exact: https}}", GET, "miss"),
        ("{scheme: {exact: https}}, {scheme: {prefix: http}}", GET, "hit"),
    ],
)
def test_matching_means_what_istio_says(
    condition: str, request_: tuple[bytes, Headers, bytes], expected: str, route: Make
) -> None:
    snapshot = compiled(route(rules=matching(condition)))
    assert chosen(snapshot, *request_) == expected


@pytest.mark.parametrize(
    ("condition", "caller", "expected"),
    [
        ("{caller: web}", WEB, "hit"),
        ("{caller: web.default.svc.cluster.local}", WEB, "hit"),
        ("{caller: payments}", WEB, "miss"),
        ("{caller: web.shop}", WEB, "miss"),
        ("{sourceNamespace: default}", WEB, "hit"),
        ("{sourceNamespace: shop}", WEB, "miss"),
        ("{sourceNamespace: shop}", Caller(ServiceName("web", "shop"), {}, "shop"), "hit"),
        ("{sourceLabels: {version: v2}}", WEB, "hit"),
        ("{sourceLabels: {version: v2, team: shop}}", WEB, "hit"),
        ("{sourceLabels: {version: v1}}", WEB, "miss"),
        ("{sourceLabels: {zone: a}}", WEB, "miss"),
        ("{caller: payments}, {sourceLabels: {team: shop}}", WEB, "hit"),
        ("{caller: payments, sourceLabels: {team: shop}}", WEB, "miss"),
    ],
)
def test_who_calls_is_settled_before_the_first_request(
    condition: str, caller: Caller, expected: str, route: Make
) -> None:
    snapshot = compiled(route(rules=matching(condition)), caller=caller)
    rules = snapshot.service(ORDERS).rules
    assert [rule.name for rule in rules] == [expected], "a rule that cannot match or be reached is left out"
    assert rules[0].matches is None


def test_a_caller_for_whom_no_rule_is_left_has_no_route(route: Make) -> None:
    send = "route: [{destination: {host: orders}}]"
    snapshot = compiled(route(rules=f"- match: [{{caller: payments}}]\n  {send}"))
    assert snapshot.service(ORDERS).rules == ()
    assert chosen(snapshot) is None
    assert snapshot.referenced(ORDERS) == frozenset()


def test_a_service_without_a_route_gets_all_its_instances() -> None:
    snapshot = compile_set(EMPTY, WEB, rng=Random(1))
    policy = snapshot.service(ORDERS)
    assert [rule.name for rule in policy.rules] == [DEFAULT_RULE]
    target = policy.rules[0].pick(HEAD)
    assert (target.service, target.subset, target.labels) == (ORDERS, None, {})
    assert (policy.rules[0].matches, policy.rules[0].timeout) == (None, None)
    assert snapshot.service(ORDERS) is policy
    assert snapshot.referenced(ORDERS) == {ORDERS}


def test_services_that_a_caller_makes_up_take_no_memory_for_ever() -> None:
    snapshot = compile_set(EMPTY, WEB, rng=Random(1))
    for number in range(3 * MAX_DEFAULTS):
        snapshot.service(ServiceName(f"s{number}"))
    assert repr(snapshot).endswith(f"defaults={MAX_DEFAULTS}>")


def test_rules_are_called_by_their_name_or_by_their_place(route: Make) -> None:
    send = "route: [{destination: {host: orders}}]"
    rules = f"- {send}\n  match: [{{method: {{exact: GET}}}}]\n- {send}\n  name: rest\n"
    names = [rule.name for rule in compiled(route("shop", "orders", rules)).service(ORDERS).rules]
    assert names == ["shop[0]", "rest"]


@pytest.mark.parametrize(("text", "expected"), [("1m30s", 90.0), ("250ms", 0.25), ("0s", None), ("~", None)])
def test_a_timeout_is_in_seconds_and_zero_is_none(text: str, expected: float | None, route: Make) -> None:
    (rule,) = (
        compiled(route(rules=f"- timeout: {text}\n  route: [{{destination: {{host: a}}}}]"))
        .service(ORDERS)
        .rules
    )
    assert rule.timeout == expected


def split_rule(*pairs: tuple[str, int]) -> str:
    targets = ", ".join(f"{{destination: {{host: {host}}}, weight: {weight}}}" for host, weight in pairs)
    return f"- route: [{targets}]"


def shares(snapshot: Snapshot, picks: int = 1000) -> dict[str, int]:
    (rule,) = snapshot.service(ORDERS).rules
    seen: list[str] = [str(rule.pick(HEAD)) for _ in range(picks)]
    return {name: seen.count(name) for name in sorted(set(seen))}


def test_weights_and_hosts_of_a_split(route: Make) -> None:
    rules = split_rule(("orders, subset: v1", 75), ("payments.shop", 25), ("later", 0))
    snapshot = compiled(route(rules=rules))
    counted = shares(snapshot)
    assert counted == pytest.approx({"orders/v1": 750, "payments.shop": 250}, abs=5)
    assert snapshot.referenced(ORDERS) == {ORDERS, ServiceName("payments", "shop"), ServiceName("later")}


def test_each_snapshot_starts_its_splits_elsewhere(route: Make) -> None:
    documents: Sequence[Document] = [route(rules=split_rule(("a", 50), ("b", 50)))]
    rng, firsts = Random(7), set()
    for _ in range(20):
        policy_set = PolicySet(1, {document.key: document for document in documents})
        (rule,) = compile_set(policy_set, WEB, rng=rng).service(ORDERS).rules
        firsts.add(str(rule.pick(HEAD)))
    assert firsts == {"a", "b"}


def test_subsets_and_balancers_come_from_destinations(route: Make, destination: Make) -> None:
    subsets = (
        "[{name: v1, labels: {version: '1'}}, {name: all, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]"
    )
    rules = split_rule(("orders, subset: v1", 50), ("orders, subset: v9", 50))
    snapshot = compiled(route(rules=rules), destination(subsets=subsets))
    assert snapshot.subset_labels(ORDERS, "v1") == {"version": "1"}
    assert snapshot.subset_labels(ORDERS, "all") == {}
    assert snapshot.subset_labels(ORDERS, "v9") == {"version": "v9"}
    assert snapshot.subset_labels(PAYMENTS, "v1") == {"version": "v1"}
    assert [snapshot.balancer(ORDERS, subset).simple for subset in (None, "v1", "all")] == [
        "LEAST_REQUEST",
        "LEAST_REQUEST",
        "RANDOM",
    ]
    (rule,) = snapshot.service(ORDERS).rules
    assert [target.labels for target in rule.targets()] == [{"version": "1"}, {"version": "v9"}]


def test_header_operations_stand_at_the_rule_and_at_the_target(route: Make) -> None:
    rules = (
        "- headers: {request: {set: {a: rule}}, response: {}}\n"
        "  route: [{destination: {host: orders}, headers: {response: {add: {b: target}}}}]\n"
    )
    (rule,) = compiled(route(rules=rules)).service(ORDERS).rules
    target = rule.pick(HEAD)
    assert rule.request_headers is not None
    assert rule.request_headers.apply([(b"A", b"x")]) == [(b"a", b"rule")]
    assert rule.response_headers is None, "operations that do nothing cost nothing"
    assert target.request_headers is None
    assert target.response_headers is not None
    assert target.response_headers.apply([(b"b", b"x")]) == [(b"b", b"x"), (b"b", b"target")]


def test_several_hosts_share_the_rules(documents: Callable[..., list[Document]]) -> None:
    text = (
        "{apiVersion: busmesh/v1, kind: Route, metadata: {name: a, namespace: shop},"
        " spec: {hosts: [orders, orders.default], http: [{route: [{destination: {host: b}}]}]}}"
    )
    snapshot = compiled(*documents(text))
    for host in (ORDERS, ServiceName("orders", "shop")):
        assert snapshot.referenced(host) == {ServiceName("b", "shop")}


def test_an_agent_refuses_what_an_operator_should_have_refused(route: Make) -> None:
    with pytest.raises(InvalidDocument, match="BM2104"):
        compiled(route(rules=split_rule(("a", 50), ("b", 60))))
    with pytest.raises(InvalidDocument, match="BM2105"):
        compiled(route(rules=split_rule(("a", 0))))
    with pytest.raises(InvalidDocument, match="BM2102"):
        compiled(route("a", "orders"), route("b", "orders"))


def test_a_warning_does_not_keep_an_agent_from_a_revision(route: Make) -> None:
    send = "- route: [{destination: {host: orders}}]\n"
    assert len(compiled(route(rules=send * 2)).service(ORDERS).rules) == 1


def test_a_snapshot_says_which_revision_it_is() -> None:
    snapshot = compile_set(PolicySet(7, {}), WEB, rng=Random(1))
    assert (snapshot.number, snapshot.digest) == (7, EMPTY.digest)
