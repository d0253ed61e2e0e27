"""What a rule does to requests, compiled from how a document says it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from busmesh.decide.answer import DirectResponse, Redirect
from busmesh.decide.fault import Fault
from busmesh.decide.request import Headers, RequestHead
from busmesh.decide.retry import DEFAULT_RETRIES, NO_RETRIES, RetryPolicy
from busmesh.decide.route import Rule, choose_rule
from busmesh.names import ServiceName
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.documents import Document
from busmesh.policy.retries import DEFAULT_RETRY_ON
from busmesh.policy.revision import PolicySet
from busmesh.policy.snapshot import Snapshot

Make = Callable[..., Document]
ORDERS, PAYMENTS = ServiceName("orders"), ServiceName("payments")
HEAD = RequestHead(b"GET", b"/", [])
WEB = Caller(ServiceName("web"))
HALVES = "- route: [{destination: {host: a}, weight: 50}, {destination: {host: b}, weight: 50}]"


def compiled(document: Document, caller: Caller = WEB) -> Snapshot:
    return compile_set(PolicySet(3, {document.key: document}), caller, rng=Random(1))


SEND = "route: [{destination: {host: orders}}]"


def only_rule(text: str, route: Make, caller: Caller = WEB, name: str = "orders") -> Rule:
    (rule,) = compiled(route(name, "orders", rules=text), caller).service(ORDERS).rules
    return rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{delay: {fixedDelay: 5s, percentage: {value: 0.1}}}", Fault(5.0, 0.001, 0, 0.0)),
        ("{delay: {fixedDelay: 250ms, percent: 10}}", Fault(0.25, 0.1, 0, 0.0)),
        ("{abort: {httpStatus: 400, percentage: {value: 100}}}", Fault(0.0, 0.0, 400, 1.0)),
        (
            "{delay: {fixedDelay: 1s, percent: 50}, abort: {httpStatus: 503, percentage: {value: 5}}}",
            Fault(1.0, 0.5, 503, 0.05),
        ),
        ("{abort: {httpStatus: 400}}", None),
        ("{delay: {fixedDelay: 5s}}", None),
        ("{delay: {fixedDelay: 5s, percentage: {}}}", None),
        ("{abort: {httpStatus: 400, percentage: {value: 0}}}", None),
    ],
)
def test_a_fault_of_no_request_is_none(text: str, expected: Fault | None, route: Make) -> None:
    assert only_rule(f"- {SEND}\n  fault: {text}", route).fault == expected


FIVES = frozenset(range(500, 600))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", RetryPolicy()),
        ("{attempts: 0, perTryTimeout: 2s, retryOn: 5xx}", NO_RETRIES),
        ("{attempts: 5, perTryTimeout: 2s}", RetryPolicy(attempts=5, per_try_timeout=2.0)),
        ("{perTryTimeout: 0s}", RetryPolicy()),
        ("{retryOn: connect-failure}", RetryPolicy(grpc_statuses=frozenset())),
        ("{retryOn: 5xx}", RetryPolicy(statuses=FIVES, grpc_statuses=frozenset(), unknown=True)),
        (
            "{retryOn: gateway-error}",
            RetryPolicy(statuses=frozenset((502, 503, 504)), grpc_statuses=frozenset(), unknown=True),
        ),
        ("{retryOn: reset}", RetryPolicy(grpc_statuses=frozenset(), unknown=True)),
        ("{retryOn: reset-before-request}", RetryPolicy(grpc_statuses=frozenset())),
        (
            "{retryOn: 'retriable-4xx, 503'}",
            RetryPolicy(statuses=frozenset((409, 503)), grpc_statuses=frozenset()),
        ),
        (
            "{retryOn: 'retriable-status-codes,429,internal,resource-exhausted,deadline-exceeded'}",
            RetryPolicy(statuses=frozenset((429,)), grpc_statuses=frozenset((13, 8, 4))),
        ),
        ("{retryOn: envoy-ratelimited}", RetryPolicy(grpc_statuses=frozenset(), rate_limited=True)),
        (
            "{retryRemoteLocalities: true, retryIgnorePreviousHosts: false, backoff: 100ms}",
            RetryPolicy(remote_localities=True, ignore_previous=False, base_backoff=0.1),
        ),
        (
            "{perTryTimeout: 50ms, hedgeOnPerTryTimeout: true}",
            RetryPolicy(per_try_timeout=0.05, hedge=True),
        ),
    ],
)
def test_retries_mean_what_istio_says(text: str, expected: RetryPolicy, route: Make) -> None:
    assert only_rule(f"- {SEND}\n  retries: {text}", route).retries == expected


def test_without_retries_the_default_is_one_object(route: Make) -> None:
    assert only_rule(f"- {SEND}", route).retries is DEFAULT_RETRIES
    assert (
        only_rule(f"- {SEND}\n  retries: {{retryOn: '{DEFAULT_RETRY_ON}'}}", route).retries == DEFAULT_RETRIES
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mirror: {host: orders, subset: v2}", [("orders/v2", 1.0)]),
        ("mirror: {host: payments.shop}\n  mirrorPercentage: {value: 12.5}", [("payments.shop", 0.125)]),
        ("mirror: {host: orders}\n  mirrorPercent: 50", [("orders", 0.5)]),
        ("mirror: {host: orders}\n  mirror_percent: 25", [("orders", 0.25)]),
        ("mirror: {host: orders}\n  mirrorPercentage: {value: 0}", []),
        (
            "mirrors: [{destination: {host: a}, percentage: {value: 1}}, {destination: {host: b}}]",
            [("a", 0.01), ("b", 1.0)],
        ),
    ],
)
def test_mirrors_however_they_are_spelt(text: str, expected: list[tuple[str, float]], route: Make) -> None:
    rule = only_rule(f"- {SEND}\n  {text}", route)
    assert [(str(mirror.target), mirror.fraction) for mirror in rule.mirrors] == expected
    assert {target.service for target in rule.targets()} == {ORDERS} | {
        mirror.target.service for mirror in rule.mirrors
    }


def test_the_service_that_gets_copies_is_one_to_know(route: Make) -> None:
    snapshot = compiled(route(rules=f"- {SEND}\n  mirror: {{host: payments}}"))
    assert snapshot.referenced(ORDERS) == {ORDERS, PAYMENTS}


def rewritten(snapshot: Snapshot, target: bytes, headers: Headers | None = None) -> bytes | None:
    head = RequestHead(b"GET", target, headers or [])
    rule = choose_rule(snapshot.service(ORDERS), head)
    assert rule is not None
    return target if rule.rewrite is None else rule.rewrite.target(target)


def test_a_rewriting_knows_which_prefix_was_matched(route: Make) -> None:
    match = (
        "[{uri: {prefix: /wpcatalog}}, {uri: {prefix: /consumercatalog}}, {uri: {exact: /old}},"
        " {uri: {regex: '/x[0-9]+'}}, {headers: {x-new: {}}}]"
    )
    rules = f"- name: new\n  match: {match}\n  rewrite: {{uri: /newcatalog}}\n  {SEND}\n- {SEND}"
    snapshot = compiled(route(rules=rules))
    for target, expected in [
        (b"/wpcatalog/7?a", b"/newcatalog/7?a"),
        (b"/consumercatalog", b"/newcatalog"),
        (b"/old?a", b"/newcatalog?a"),
        (b"/x12", b"/newcatalog"),
        (b"/other", b"/other"),
    ]:
        assert rewritten(snapshot, target) == expected
    assert rewritten(snapshot, b"/other", [(b"X-New", b"")]) == b"/newcatalogother"
    rules_made = snapshot.service(ORDERS).rules
    assert [rule.name for rule in rules_made] == ["new"] * 4 + ["orders[1]"]
    assert len({id(rule.split) for rule in rules_made[:4]}) == 1, "the shares are those of the whole rule"


def test_the_first_entry_that_matches_says_what_is_replaced(route: Make) -> None:
    match = "[{uri: {prefix: /a}, headers: {x-b: {}}}, {uri: {prefix: /a/b}}, {uri: {prefix: /}}]"
    snapshot = compiled(route(rules=f"- match: {match}\n  rewrite: {{uri: /n/}}\n  {SEND}"))
    assert rewritten(snapshot, b"/a/b/c", [(b"x-b", b"")]) == b"/n/b/c"
    assert rewritten(snapshot, b"/a/b/c") == b"/n/c"
    assert rewritten(snapshot, b"/a/c") == b"/n/a/c"


def test_one_prefix_makes_one_rule(route: Make) -> None:
    match = "[{uri: {prefix: /a}, method: {exact: GET}}, {uri: {prefix: /a}, method: {exact: PUT}}]"
    rule = only_rule(f"- match: {match}\n  rewrite: {{uri: /b}}\n  {SEND}", route)
    assert rule.matches is not None
    assert rule.rewrite is not None


def test_a_rule_for_everything_replaces_the_first_slash(route: Make) -> None:
    snapshot = compiled(route(rules=f"- rewrite: {{uri: /v1/}}\n  {SEND}"))
    assert rewritten(snapshot, b"/orders/7?x") == b"/v1/orders/7?x"


def test_other_ways_to_rewrite_need_no_prefix(route: Make) -> None:
    match = "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}]"
    regex = only_rule(
        f"- {match}\n  rewrite: {{uriRegexRewrite: {{match: '^/(.)/(.*)', rewrite: '/\\2/\\1'}}}}\n  {SEND}",
        route,
    )
    assert regex.rewrite is not None
    assert regex.rewrite.target(b"/a/x?q") == b"/x/a?q"
    host = only_rule(f"- {match}\n  rewrite: {{authority: 'v1.example'}}\n  {SEND}", route)
    assert host.rewrite is not None
    assert (host.rewrite.authority, host.rewrite.target(b"/a/x?q")) == (b"v1.example", b"/a/x?q")
    assert host.rewrite.headers(b"Host: orders\r\n") == b"Host: v1.example\r\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redirect: {uri: /new, authority: 'b:81'}", Redirect(uri=b"/new", authority=b"b:81")),
        ("redirect: {scheme: https, redirectCode: 308}", Redirect(308, scheme=b"https")),
        ("redirect: {uri: /, port: 8443}", Redirect(uri=b"/", port=8443)),
        ("redirect: {uri: /, derivePort: FROM_PROTOCOL_DEFAULT}", Redirect(uri=b"/", port=0)),
        ("redirect: {uri: /, derivePort: FROM_REQUEST_PORT}", Redirect(uri=b"/", request_port=True)),
        ("directResponse: {status: 204}", DirectResponse(204)),
        ("directResponse: {status: 503, body: {string: é}}", DirectResponse(503, "é".encode())),
        ("directResponse: {status: 503, body: {bytes: AP8=}}", DirectResponse(503, b"\x00\xff")),
    ],
)
def test_rules_that_answer_by_themselves(text: str, expected: Redirect | DirectResponse, route: Make) -> None:
    snapshot = compiled(route(rules=f"- {text}"))
    (rule,) = snapshot.service(ORDERS).rules
    assert rule.answer == expected
    assert rule.split is None
    assert snapshot.referenced(ORDERS) == frozenset()


@pytest.mark.parametrize(
    ("by", "request_of"),
    [
        ("{header: X-User}", lambda user: RequestHead(b"GET", b"/", [(b"x-user", user)])),
        ("{cookie: user}", lambda user: RequestHead(b"GET", b"/", [(b"Cookie", b"a=b; user=" + user)])),
        ("{query: user}", lambda user: RequestHead(b"GET", b"/?a=b&user=" + user, [])),
    ],
)
def test_a_split_by_user(by: str, request_of: Callable[[bytes], RequestHead], route: Make) -> None:
    text = f"{HALVES}\n  splitBy: {by}\n"
    rules = [only_rule(text, route) for _ in range(2)]
    users = [b"u%d" % number for number in range(100)]
    given = [[str(rule.pick(request_of(user))) for user in users] for rule in rules]
    assert given[0] == given[1], "two agents give a user the same"
    assert set(given[0]) == {"a", "b"}
    assert {str(rules[0].pick(HEAD)) for _ in range(20)} == {"a", "b"}, "without a user, the sequence"
    assert {str(rules[0].pick(request_of(b""))) for _ in range(20)} == {"a", "b"}
    other = only_rule(text, route, name="elsewhere")
    assert [str(other.pick(request_of(user))) for user in users] != given[0]


def test_a_split_by_caller(route: Make) -> None:
    text = f"{HALVES}\n  splitBy: {{caller: true}}\n"
    callers = [Caller(ServiceName(f"caller-{number}")) for number in range(20)]
    given = [{str(only_rule(text, route, caller).pick(HEAD)) for _ in range(20)} for caller in callers]
    assert all(len(targets) == 1 for targets in given)
    assert set().union(*given) == {"a", "b"}
