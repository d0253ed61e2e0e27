from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import jsonschema
import pytest

from busmesh.decide.limit import Limit, Quota
from busmesh.decide.ratelimit import RateLimiter
from busmesh.decide.request import Headers, RequestHead
from busmesh.decide.sharing import Sharing
from busmesh.errors import InvalidDocument
from busmesh.names import ServiceName
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.ratelimit import MAX_LIMITS
from busmesh.policy.revision import PolicySet
from busmesh.policy.schema import schema
from busmesh.policy.validate import validate_bundle
from busmesh.yamlfile import InvalidDocuments

Make = Callable[..., Document]
ORDERS, WEB, BATCH = ServiceName("orders"), ServiceName("web"), ServiceName("batch", "shop")
LIVE = {ORDERS: [{"version": "v1"}]}


def compiled(*documents: Document, me: ServiceName = ORDERS) -> tuple[Limit, ...]:
    policy_set = PolicySet(1, {document.key: document for document in documents})
    return compile_set(policy_set, Caller(me), rng=Random(1)).limits


def one(rate_limit: Make, fields: str) -> Limit:
    (limit,) = compiled(rate_limit(limits=f"[{{{fields}}}]"))
    return limit


@pytest.mark.parametrize(
    ("fields", "quota"),
    [
        ("requests: 100", Quota(100, 100)),
        ("requests: 100, interval: 1s", Quota(100, 100)),
        ("requests: 60, interval: 1m", Quota(1, 60)),
        ("requests: 60, interval: 1m, burst: 5", Quota(1, 5)),
        ("requests: 5, interval: 100ms, burst: 50", Quota(50, 50)),
    ],
)
def test_requests_interval_and_burst(rate_limit: Make, fields: str, quota: Quota) -> None:
    assert one(rate_limit, fields).quota == pytest.approx(quota)


def test_what_is_left_out(rate_limit: Make) -> None:
    limit = one(rate_limit, "requests: 1")
    assert (limit.name, limit.match, limit.per, limit.scope) == ("orders[0]", (), (), "local")
    assert (limit.enforcing, limit.quotas) == (True, {})


def test_everything_that_a_limit_can_say(rate_limit: Make) -> None:
    limit = one(
        rate_limit,
        "name: all of it, requests: 10, interval: 1m, burst: 3, scope: mesh, enforcing: false,"
        " per: [caller, path, 'header:X-User'],"
        " overrides: [{callers: [web, batch.shop], requests: 6, interval: 1m}]",
    )
    assert (limit.name, limit.scope, limit.enforcing) == ("all of it", "mesh", False)
    assert limit.per == ("caller", "path", "header:x-user")
    assert limit.quotas == {WEB: Quota(0.1, 6), BATCH: Quota(0.1, 6)}


@pytest.mark.parametrize(
    ("match", "caller", "method", "target", "headers", "falls_under"),
    [
        ("{}", WEB, b"GET", b"/", [], True),
        ("{caller: web}", WEB, b"GET", b"/", [], True),
        ("{caller: web}", BATCH, b"GET", b"/", [], False),
        ("{caller: batch.shop}", BATCH, b"GET", b"/", [], True),
        ("{sourceNamespace: shop}", BATCH, b"GET", b"/", [], True),
        ("{sourceNamespace: shop}", WEB, b"GET", b"/", [], False),
        ("{uri: {prefix: /a}, method: {exact: POST}}", WEB, b"POST", b"/a?b", [], True),
        ("{uri: {prefix: /a}, method: {exact: POST}}", WEB, b"GET", b"/a", [], False),
        ("{headers: {X-Plan: {exact: free}}}", WEB, b"GET", b"/", [(b"x-plan", b"free")], True),
        ("{withoutHeaders: {x-plan: {}}}", WEB, b"GET", b"/", [(b"X-Plan", b"free")], False),
        ("{caller: batch.shop}, {method: {exact: GET}}", WEB, b"GET", b"/", [], True),
    ],
)
def test_which_requests_fall_under_a_limit(
    rate_limit: Make,
    match: str,
    caller: ServiceName,
    method: bytes,
    target: bytes,
    headers: Headers,
    falls_under: bool,
) -> None:
    limits = RateLimiter(Sharing(born=1, now=0.0))
    limits.apply([one(rate_limit, f"requests: 1, match: [{match}]")], 0.0)
    head = RequestHead(method, target, headers)
    assert [limits.check(caller, head, 0.0).allowed for _ in range(2)] == [True, not falls_under]


def test_only_the_service_itself_gets_its_limits(rate_limit: Make) -> None:
    documents = [rate_limit("orders"), rate_limit("others", host="payments")]
    assert [limit.name for limit in compiled(*documents)] == ["orders[0]"]
    assert [limit.name for limit in compiled(*documents, me=ServiceName("payments"))] == ["others[0]"]
    assert compiled(*documents, me=WEB) == ()


def test_a_limit_is_the_same_until_its_numbers_or_its_name_change(rate_limit: Make) -> None:
    def identities(limits: str) -> list[str]:
        return [limit.identity for limit in compiled(rate_limit(limits=limits))]

    (before,) = identities("[{name: a, requests: 10}]")
    assert before in identities("[{name: b, requests: 10}, {name: a, requests: 10, interval: 1s}]")
    assert identities("[{name: a, requests: 10, enforcing: false}]") == [before], "tried out, then enforced"
    assert before not in identities("[{name: a, requests: 11}, {name: b, requests: 10}]")
    assert (
        before
        != compiled(rate_limit("second", host="orders", limits="[{name: a, requests: 10}]"))[0].identity
    )


def said(rate_limit: Make, limits: str) -> list[str]:
    try:
        rate_limit(limits=limits)
    except InvalidDocuments as error:
        return [str(finding) for finding in error.findings]
    return []


@pytest.mark.parametrize(
    ("fields", "code", "rest"),
    [
        ("interval: 1s", "BM1202", "requests is missing"),
        ("requests: 0", "BM1204", "greater than or equal to 1"),
        ("requests: 1000001", "BM1204", "1000000"),
        ("requests: 1.5", "BM1203", "integer"),
        ("requests: '5'", "BM1203", "integer"),
        ("requests: 5, interval: 0s", "BM1207", "an interval of 0s"),
        ("requests: 5, interval: 25h", "BM1207", "out of range"),
        ("requests: 5, unit: second", "BM1201", "'unit'"),
        ("requests: 5, burst: 0", "BM1204", "burst"),
        ("requests: 5, scope: global", "BM1204", "'mesh'"),
        ("requests: 5, enforcing: 50", "BM1203", "boolean"),
        ("requests: 5, per: [user]", "BM1271", "header:NAME"),
        ("requests: 5, per: ['header:']", "BM1209", ""),
        ("requests: 5, per: ['header:a b']", "BM1209", "'a b'"),
        ("requests: 5, per: ['header:uri']", "BM1209", "use the field uri"),
        ("requests: 5, per: [caller, caller]", "BM1272", "twice"),
        ("requests: 5, per: ['header:A', 'header:a']", "BM1272", "twice"),
        ("requests: 5, overrides: [{callers: [web], requests: 1}]", "BM1273", "add caller to per"),
        ("requests: 5, per: [caller], overrides: [{callers: [], requests: 1}]", "BM1220", "at least one"),
        ("requests: 5, per: [caller], overrides: [{callers: ['*'], requests: 1}]", "BM1320", "wildcards"),
        ("requests: 5, match: [{sourceLabels: {a: b}}]", "BM1358", "use caller"),
        ("requests: 5, match: [{port: 80}]", "BM1315", "one application address"),
        ("requests: 5, match: [{uri: {prefix: a}}]", "BM1212", "'a'"),
    ],
)
def test_what_a_limit_may_not_say(rate_limit: Make, fields: str, code: str, rest: str) -> None:
    (line,) = said(rate_limit, f"[{{{fields}}}]")
    assert f" {code} " in line
    assert rest in line


def test_a_document_has_some_limits_and_not_too_many(rate_limit: Make) -> None:
    assert "BM1220" in said(rate_limit, "[]")[0]
    many = ", ".join(["{requests: 1}"] * (MAX_LIMITS + 1))
    assert "BM1274" in said(rate_limit, f"[{many}]")[0]


@pytest.mark.parametrize(
    ("limits", "code", "rest"),
    [
        ("[{name: a, requests: 1}, {name: a, requests: 2}]", "BM2108", "'a'"),
        (
            "[{requests: 1, per: [caller], overrides: [{callers: [web], requests: 1},"
            " {callers: [web.default.mesh], requests: 2}]}]",
            "BM2131",
            "the caller web",
        ),
    ],
)
def test_what_contradicts_itself(rate_limit: Make, limits: str, code: str, rest: str) -> None:
    document = rate_limit(limits=limits)
    (finding,) = validate_bundle([document], None, LIVE)
    assert (finding.level, finding.code) == ("error", code)
    assert rest in finding.message
    with pytest.raises(InvalidDocument):
        compiled(document)


def test_one_document_speaks_for_a_service_and_somebody_serves_it(rate_limit: Make) -> None:
    rivals = [rate_limit("orders"), rate_limit("second", host="orders")]
    assert [finding.code for finding in validate_bundle(rivals, None, LIVE)] == ["BM2102"]
    (doubt,) = validate_bundle([rate_limit("order")], None, LIVE)
    assert (doubt.level, doubt.code, doubt.hint) == ("warning", "BM2109", "did you mean orders?")


def test_its_key_is_one_of_its_own(rate_limit: Make) -> None:
    assert rate_limit().key == DocumentKey.parse("ratelimit/orders")


def test_editors_refuse_what_cannot_tell_requests_apart(rate_limit: Make) -> None:
    plain: Any = rate_limit(limits="[{requests: 1, per: [caller, 'header:x-user']}]").plain
    jsonschema.validate(plain, schema("RateLimit"))
    plain["spec"]["limits"][0]["per"] = ["user"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, schema("RateLimit"))
