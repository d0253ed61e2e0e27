"""An explanation says what happens: the same rule, the same destinations, and each reason is a true one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.request import RequestHead
from busmesh.decide.route import choose_rule
from busmesh.decide.split import deviation_bound
from busmesh.names import ServiceName
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.documents import Document, parse_documents
from busmesh.policy.explain import Question, explain
from busmesh.policy.explaininstances import Instance
from busmesh.policy.revision import PolicySet
from tests.policy.conftest import destination_text, limits_text, route_text

ORDERS = ServiceName("orders")
WEB = Caller(ServiceName("web"), {"version": "v2"})
PICKS = 40

texts = st.sampled_from(["a", "b", "ab"])
comparisons = st.builds(lambda kind, text: {kind: text}, st.sampled_from(["exact", "prefix"]), texts)
paths = st.builds(lambda kind, text: {kind: f"/{text}"}, st.sampled_from(["exact", "prefix", "regex"]), texts)
entries = st.fixed_dictionaries(
    {},
    optional={
        "method": st.just({"exact": "POST"}) | st.just({"exact": "GET"}),
        "uri": paths,
        "headers": st.dictionaries(st.sampled_from(["x-a", "x-b"]), comparisons | st.just({}), min_size=1),
        "withoutHeaders": st.dictionaries(st.sampled_from(["x-a", "x-b"]), comparisons, min_size=1),
        "queryParams": st.dictionaries(st.sampled_from(["q", "r"]), comparisons, min_size=1),
        "sourceLabels": st.just({"version": "v2"}) | st.just({"version": "v1"}),
        "caller": st.sampled_from(["web", "shop"]),
    },
).filter(len)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    weights = draw(st.sampled_from([[100], [80, 20], [0, 100], [50, 0, 50], [1, 98, 1]]))
    rule: dict[str, Any] = {
        "route": [
            {"destination": {"host": "orders", "subset": f"v{number}"}, "weight": weight}
            for number, weight in enumerate(weights, start=1)
        ]
    }
    if match := draw(st.lists(entries, max_size=3)):
        rule["match"] = match
        if all("uri" not in entry or "regex" not in entry["uri"] for entry in match) and draw(st.booleans()):
            rule["rewrite"] = {"uri": "/new"}
    if draw(st.booleans()):
        rule["splitBy"] = {"header": "x-a"}
    return rule


requests = st.builds(
    lambda method, path, query, headers: RequestHead(
        method, b"/" + path + query, [(b"Host", b"orders"), *headers.items()]
    ),
    st.sampled_from([b"GET", b"POST"]),
    texts.map(str.encode),
    st.sampled_from([b"", b"?q=a", b"?r=ab&q=b"]),
    st.dictionaries(st.sampled_from([b"X-A", b"x-b"]), texts.map(str.encode)),
)


def the_set(*documents: Document) -> PolicySet:
    return PolicySet(7, {document.key: document for document in documents})


@given(st.lists(rules(), min_size=1, max_size=4), requests)
def test_it_agrees_with_the_request_path(declared: list[dict[str, Any]], head: RequestHead) -> None:
    plain = {
        "apiVersion": "busmesh/v1",
        "kind": "Route",
        "metadata": {"name": "orders"},
        "spec": {"hosts": ["orders"], "http": declared},
    }
    policy_set = the_set(Document.from_plain(plain, file="f"))
    found: Any = explain(policy_set, Question(WEB, ORDERS, head))
    rule = choose_rule(compile_set(policy_set, WEB, rng=Random(3)).service(ORDERS), head)

    verdicts = [row["verdict"] for row in found["rules"]]
    assert verdicts.count("taken") == (rule is not None)
    if rule is None:
        assert found["taken"] is None
        assert all(row["why"] for row in found["rules"])
        return
    place = verdicts.index("taken")
    assert found["taken"]["rule"] == found["rules"][place]["rule"] == rule.name
    assert set(verdicts[:place]) <= {"does not match"}
    assert all(row["why"] for row in found["rules"][:place])

    picked = Counter(rule.pick(head).key for _ in range(PICKS))
    shares = {part["destination"]: part["percent"] for part in found["taken"]["split"]}
    if found["taken"]["goes_to"] is not None:
        assert picked == {found["taken"]["goes_to"]: PICKS}
        assert shares[found["taken"]["goes_to"]] > 0
    else:
        for destination, percent in shares.items():
            off = abs(picked[destination] - PICKS * percent / 100)
            assert off <= deviation_bound(PICKS)
            assert percent > 0 or not picked[destination]
    rewritten = None if rule.rewrite is None else rule.rewrite.target(head.target)
    assert found["taken"]["rewritten_to"] == (None if rewritten is None else rewritten.decode())


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("{method: {exact: POST}}", "method is 'GET', wanted: 'POST'"),
        ("{uri: {prefix: /v2}}", "path is '/v1/x', wanted: prefix '/v2'"),
        ("{uri: {regex: '/v[2-9]/.*'}}", "path is '/v1/x', wanted: regex '/v[2-9]/.*'"),
        ("{headers: {X-Canary: {exact: always}}}", "header x-canary is absent, wanted: 'always'"),
        ("{headers: {x-user: {exact: bob}}}", "header x-user is 'ana', wanted: 'bob'"),
        ("{headers: {x-gone: {}}}", "header x-gone is absent, wanted: present"),
        ("{withoutHeaders: {x-user: {}}}", "header x-user is 'ana', wanted: not present"),
        ("{queryParams: {q: {exact: '2'}}}", "query q is '1', wanted: '2'"),
        ("{authority: {exact: orders.shop}}", "header host is 'orders', wanted: 'orders.shop'"),
        ("{scheme: {exact: https}}", "scheme is 'http', wanted: 'https'"),
        ("{caller: shop}", "caller is 'web', wanted: 'shop'"),
        ("{sourceNamespace: shop}", "source namespace is 'default', wanted: 'shop'"),
        ("{sourceLabels: {version: v1}}", "source label version is 'v2', wanted: 'v1'"),
        ("{sourceLabels: {zone: a}}", "source label zone is absent, wanted: 'a'"),
        (
            "{method: {exact: PUT}, uri: {exact: /}}",
            "method is 'GET', wanted: 'PUT'; path is '/v1/x', wanted: '/'",
        ),
    ],
)
def test_why_a_rule_does_not_match(condition: str, why: str, route: Callable[..., Document]) -> None:
    send = "route: [{destination: {host: orders}}]"
    document = route(rules=f"- match: [{condition}]\n  {send}\n- name: rest\n  {send}")
    head = RequestHead(b"GET", b"/v1/x?q=1", [(b"Host", b"orders"), (b"X-User", b"ana")])
    found: Any = explain(
        PolicySet(7, {document.key: document}, {document.key: 5}), Question(WEB, ORDERS, head)
    )
    assert found["document"] == {"name": "Route/orders", "revision": 5}
    assert found["rules"] == [
        {"index": 0, "rule": "orders[0]", "verdict": "does not match", "why": [why]},
        {"index": 1, "rule": "rest", "verdict": "taken", "why": ["it matches every request"]},
    ]


def test_by_which_entry_a_rule_matches(route: Callable[..., Document]) -> None:
    match = "{method: {exact: PUT}}, {name: v1, uri: {prefix: /v1}, headers: {x-a: {}}}"
    document = route(rules=f"- match: [{match}]\n  route: [{{destination: {{host: orders}}}}]")
    head = RequestHead(b"GET", b"/v1/x", [(b"X-A", b"")])
    found: Any = explain(the_set(document), Question(WEB, ORDERS, head))
    assert found["rules"][0]["why"] == ["v1 holds (path: prefix '/v1'; header x-a: present)"]
    head = RequestHead(b"GET", b"/v1/x", [])
    found = explain(the_set(document), Question(WEB, ORDERS, head))
    assert found["rules"][0]["why"] == [
        "match[0]: method is 'GET', wanted: 'PUT'",
        "v1: header x-a is absent, wanted: present",
    ]


def test_what_holds_for_the_request_beside_its_rule() -> None:
    documents = parse_documents(
        "---\n".join(
            [
                route_text(
                    rules="""
                    - timeout: 2s
                      fault: {abort: {httpStatus: 503, percentage: {value: 10}}}
                      retries: {attempts: 4}
                      route:
                      - {destination: {host: orders, subset: v1}, weight: 75}
                      - {destination: {host: orders, subset: v2}, weight: 25}
                    """
                ),
                destination_text(subsets="[{name: v1, labels: {version: v1}}]")
                + "  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN},"
                " connectionPool: {http: {http2MaxRequests: 9}}}\n",
                limits_text(limits="[{name: writes, requests: 5, match: [{method: {exact: POST}}]}]"),
            ]
        ).encode(),
        "f.yaml",
    )
    members = {
        ORDERS: [
            Instance("o-1", labels={"version": "v1"}, weight=300),
            Instance("o-2", labels={"version": "v1"}),
            Instance("o-3", labels={"version": "v1"}, state="draining"),
            Instance("o-4", labels={"version": "v2"}, state="unhealthy"),
        ]
    }
    question = Question(WEB, ORDERS, RequestHead(b"POST", b"/", [(b"Host", b"orders")]), members=members)
    found: Any = explain(the_set(*documents), question)
    assert found["taken"]["timeout_s"] == 2.0
    assert found["taken"]["retries"]["attempts"] == 4
    assert found["taken"]["fault"]["abort_status"] == 503
    assert [(part["destination"], part["percent"]) for part in found["taken"]["split"]] == [
        ("orders.default/v1", 75.0),
        ("orders.default/v2", 25.0),
    ]
    first, second = found["destinations"]
    assert first["document"]["name"] == "Destination/orders"
    assert first["balancer"] == "ROUND_ROBIN"
    assert first["limits"] == {"max_requests": 9}
    assert [(limit["limit"], limit["applies"]) for limit in first["rate_limits"]] == [("writes", True)]
    assert {one["instance"]: (one["share"], one["why"]) for one in first["instances"]} == {
        "o-1": (75.0, ""),
        "o-2": (25.0, ""),
        "o-3": (0.0, "draining"),
        "o-4": (0.0, "not of the subset: lacks version=v1"),
    }
    assert [one["why"] for one in second["instances"] if one["instance"] == "o-4"] == ["unhealthy"]


def test_nothing_is_published(route: Callable[..., Document]) -> None:
    found: Any = explain(PolicySet(), Question(WEB, ORDERS, RequestHead(b"GET", b"/", [])))
    assert found["document"] is None
    assert found["taken"]["rule"] == "default"
    only_post: Any = explain(
        the_set(route(rules="- match: [{method: {exact: POST}}]\n  route: [{destination: {host: orders}}]")),
        Question(WEB, ORDERS, RequestHead(b"GET", b"/", [])),
    )
    assert only_post["taken"] is None
    assert only_post["destinations"] == []
