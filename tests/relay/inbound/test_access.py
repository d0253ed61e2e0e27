"""Authorization on the whole way of a request: from a client's bytes to the application, or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from busmesh.decide.authz.authenticate import JwtRule, TokenRefused
from busmesh.decide.authz.facts import Claims
from busmesh.names import ServiceName
from busmesh.policy.compileauthz import compile_authorizer
from busmesh.policy.documents import parse_documents
from busmesh.relay.inbound.access import Access
from busmesh.wire.frame import Kind
from busmesh.wire.http import encode_request
from busmesh.wire.stream import Opening, encode_opening
from tests.decide.test_authz_paths import TARGET, VARIANTS, reach
from tests.relay.apps import WiredApp
from tests.relay.bodies import CHAT, SWITCH, ask, got
from tests.relay.peer import Peer
from tests.relay.transcript import request
from tests.relay.wires import FakeTransport
from tests.relay.world import Instance, World, answer_of, outcome

RULES = [
    "{action: DENY, rules: [{to: [{operation: {paths: [/admin/secret]}}]}]}",
    '{action: DENY, rules: [{to: [{operation: {paths: ["/admin*"]}}]}]}',
    '{action: DENY, rules: [{to: [{operation: {paths: ["*/secret"]}}]}]}',
    '{action: DENY, rules: [{to: [{operation: {notPaths: ["/public*"]}}]}]}',
    '{rules: [{to: [{operation: {paths: ["/public*", "/"]}}]}]}',
    '{rules: [{to: [{operation: {notPaths: ["/admin*"]}}]}]}',
]
TOKENS = (
    "{jwtRules: [{issuer: idp, jwksUri: 'file:///keys', outputPayloadToHeader: x-claims,"
    " outputClaimToHeaders: [{header: x-user, claim: sub}]}]}"
)


class FakeTokens:
    """Believes a token that is called after its subject, but not ``bad``."""

    def verify(self, rules: tuple[JwtRule, ...], token: bytes, now: float) -> tuple[JwtRule, Claims]:
        if token == b"bad":
            raise TokenRefused("the token does not verify")
        return rules[0], Claims({"iss": "idp", "sub": token.decode()}, b"encoded")


def protect(instance: Instance, *specs: str, tokens: str = "") -> None:
    """Put policies in force at an instance."""
    texts = [
        f"apiVersion: busmesh/v1\nkind: Authorization\nmetadata: {{name: p{number}}}\nspec: {spec}\n"
        for number, spec in enumerate(specs)
    ]
    if tokens:
        head = (
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, namespace: "
        )
        texts.append(f"{head} default}}\nspec: {tokens}\n")
    documents = parse_documents("---\n".join(texts).encode(), "f.yaml")
    authorizer = compile_authorizer(documents, instance.id.service or ServiceName("orders"), {})
    assert authorizer is not None
    instance.inbound.access = Access(authorizer, FakeTokens(), instance.world.notes)


def settle(world: World, orders: Instance) -> None:
    """Let everything through, and the application answer what came to it."""
    world.pump()
    while orders.app.calls:
        orders.app.answer()
        world.pump()


@pytest.fixture
def orders(world: World) -> Instance:
    return world.instance("orders-1")


def error(client: FakeTransport) -> tuple[str, str]:
    body: Mapping[str, Any] = json.loads(answer_of(client).body)
    return body["error"], body["message"]


# -- ways around a rule ------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", RULES)
def test_t13_no_spelling_of_a_path_comes_through(world: World, orders: Instance, spec: str) -> None:
    protect(orders, spec)
    for variant in VARIANTS:
        client = world.ask(path=variant)
        settle(world, orders)
        assert outcome(client) in ("403 RBAC", "400 RBAC", "400 DPE"), variant
        assert orders.app.targets == []
    world.settled()


@pytest.mark.parametrize("spec", RULES)
def test_no_spelling_comes_through_from_an_agent_that_skips_its_own_checks(
    world: World, orders: Instance, spec: str
) -> None:
    protect(orders, spec)
    peer = Peer(world, orders)
    for stream, variant in enumerate(VARIANTS, start=1):
        peer.ask(stream, target=variant.encode())
        assert peer.refusal()[0] in (400, 403), variant
    assert orders.app.targets == []


def test_whatever_comes_through_is_the_forbidden_path_to_no_application(
    world: World, orders: Instance
) -> None:
    """Paths put together at random, and what a few hundred applications make of those that arrive."""
    rng = Random(5)
    pieces = (
        "/ // \\ . .. ; ;x % %2f %2e %2E %5c %3b %252f %252e %25 %61dmin %20 a admin admin secret secret %73 "
        "/../ /..;/ %2e%2e/ /x/ %00 %c0%af %ef%bc%8f"
    ).split()
    protect(orders, RULES[0])
    for _ in range(400):
        path = "/" + "".join(rng.choices(pieces, k=rng.randint(1, 8)))
        before = len(orders.app.seen)
        client = world.ask(path=path)
        settle(world, orders)
        if len(orders.app.seen) > before:
            assert outcome(client) == "200"
            came = orders.app.targets[-1].partition(" ")[2].encode()
            assert TARGET not in {found.rstrip(b"/") for found in reach(came)}, came
    assert 50 < len(orders.app.seen) < 400, "some come through, some do not"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/public/a",
        "/public/a%20b",
        "/public/caf%C3%A9",
        "/public/v1/items:batch",
        "/public/100%25",
        "/public/a;v=1",
        "/public/.well-known/x?next=/admin/secret",
        "/public/?q=%2fadmin%2fsecret;..",
        "/public/%E6%97%A5%E6%9C%AC",
    ],
)
def test_honest_paths_come_through(world: World, orders: Instance, path: str) -> None:
    protect(orders, RULES[1], RULES[4])
    client = world.ask(path=path)
    settle(world, orders)
    assert outcome(client) == "200"
    assert orders.app.targets == [f"GET {path}"]


def test_the_absolute_form_is_about_its_path(world: World, orders: Instance) -> None:
    protect(orders, RULES[1])
    client = world.ask(path="http://orders/admin/secret")
    settle(world, orders)
    assert outcome(client) == "403 RBAC"


# -- who calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "x-forwarded-client-cert: By=a;Hash=b;URI=spiffe://local/ns/default/svc/admin/i/admin-1",
        "X-Forwarded-Client-Cert: URI=spiffe://local/ns/default/svc/admin",
        "x_forwarded_client_cert: URI=spiffe://local/ns/default/svc/admin",
        "x-busmesh-source: spiffe://local/ns/default/svc/admin",
        "X_Busmesh_Source: admin",
        "x-forwarded-for: 127.0.0.1",
        "forwarded: for=admin;by=admin",
        "x-envoy-peer-metadata-id: admin",
        "x-user: admin",
        "authorization: Basic YWRtaW46",
    ],
)
def test_no_header_says_who_calls(world: World, orders: Instance, line: str) -> None:
    protect(orders, '{rules: [{from: [{source: {principals: ["*/svc/admin"]}}]}]}')
    client = world.client()
    client.arrive(request(line, line="GET / HTTP/1.1", host="Host: orders"))
    settle(world, orders)
    assert outcome(client) in ("403 RBAC", "400 DPE")
    assert orders.app.targets == []


def test_the_session_says_who_calls(world: World, orders: Instance) -> None:
    protect(orders, '{rules: [{from: [{source: {principals: ["*/svc/shop"]}}]}]}')
    client = world.ask()
    settle(world, orders)
    assert outcome(client) == "200"
    peer = Peer(world, orders)
    peer.ask(headers=b"Host: a\r\n")
    assert peer.refusal() == (403, "rbac_access_denied", False)
    assert len(orders.app.seen) == 1


# -- what the caller hears, and what is counted ------------------------------------------------------


def test_a_denial_says_no_more_than_istios(world: World, orders: Instance) -> None:
    other = world.instance("orders-2")
    for instance in (orders, other):
        protect(instance, "{action: DENY, rules: [{}]}")
    client = world.ask("POST", "/x", b"body")
    settle(world, orders)
    assert outcome(client) == "403 RBAC"
    assert error(client) == ("rbac_access_denied", "RBAC: access denied")
    assert len(world.notes.tries) == 1, "every other instance would say the same"
    [decision] = world.notes.judgements
    assert (decision.policy, decision.rule, decision.code) == ("Authorization/p0", 0, "denied")
    assert orders.app.targets == other.app.targets == []
    world.over()


def test_what_may_not_be_asked_says_nothing_of_the_instance(world: World, orders: Instance) -> None:
    """Else whoever asks for what is forbidden would have instances ejected."""
    other = world.instance("orders-2")
    protect(orders, "{}")
    denied = 0
    for _ in range(60):
        client = world.ask()
        world.pump()
        while other.app.calls:
            other.app.answer()
            world.pump()
        denied += outcome(client) == "403 RBAC"
    assert denied > 20, "it stays in the rotation"
    assert {orders.endpoint.state, other.endpoint.state} == {"usable"}


def outcome_of(world: World, orders: Instance, path: str) -> str:
    client = world.ask(path=path)
    settle(world, orders)
    return outcome(client)


def test_what_is_tried_out_and_what_is_audited_is_told_and_passes(world: World, orders: Instance) -> None:
    protect(
        orders,
        "{action: DENY, dryRun: true, rules: [{to: [{operation: {paths: [/a]}}]}]}",
        "{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}",
    )
    assert outcome_of(world, orders, "/a") == "200"
    [decision] = world.notes.judgements
    assert decision.allowed
    assert decision.shadow is not None
    assert (decision.shadow.allowed, decision.shadow.policy) == (False, "Authorization/p0")
    assert decision.audits == ("Authorization/p1",)


def test_without_a_document_nobody_is_asked_and_a_new_one_holds_for_the_next_request(
    world: World, orders: Instance
) -> None:
    assert orders.inbound.access is None
    assert outcome_of(world, orders, "/a") == "200"
    protect(orders, "{}")
    assert outcome_of(world, orders, "/a") == "403 RBAC"
    orders.inbound.access = None
    assert outcome_of(world, orders, "/a") == "200"
    assert len(world.notes.judgements) == 1


# -- bodies in parts, other protocols ------------------------------------------------------------------


def test_a_body_in_parts_is_refused_with_its_head(world: World) -> None:
    orders = world.instance("orders-1", app=WiredApp)
    protect(orders, "{action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}")
    client = world.client()
    client.arrive(
        request("Transfer-Encoding: chunked", line="POST / HTTP/1.1", host="Host: orders") + b"5\r\nhello\r\n"
    )
    world.pump()
    assert got(client).status == 403
    assert orders.app.wires == []
    world.after(0.5)
    world.over()


def test_parts_after_a_refusal_reach_nobody(world: World, orders: Instance) -> None:
    protect(orders, "{}")
    peer = Peer(world, orders)
    peer.open(Opening(length=10), b"01234")
    assert peer.refusal()[0] == 403
    peer.data(1, b"56789")
    peer.end(2)
    assert peer.answers() == []
    assert orders.app.targets == []
    assert orders.inbound.statistics()["active"] == 0


@pytest.mark.parametrize("allowed", [True, False])
def test_a_switch_to_another_protocol_is_a_request_like_any_other(world: World, allowed: bool) -> None:
    orders = world.instance("orders-1", app=WiredApp)
    path = "/other" if allowed else "/chat"
    protect(orders, f"{{action: DENY, rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}")
    client = ask(world, CHAT)
    if not allowed:
        assert got(client).status == 403
        assert orders.app.wires == []
        return
    orders.app.wire.arrive(SWITCH + b"hello")
    world.pump()
    assert got(client).status == 101


# -- tokens --------------------------------------------------------------------------------------------

STAFF = '{rules: [{from: [{source: {requestPrincipals: ["idp/ann"]}}]}]}'


def with_token(world: World, orders: Instance, *lines: str, target: str = "/") -> FakeTransport:
    client = world.client()
    client.arrive(request(*lines, line=f"GET {target} HTTP/1.1", host="Host: orders"))
    settle(world, orders)
    return client


def test_without_a_token_and_with_a_bad_one(world: World, orders: Instance) -> None:
    protect(orders, STAFF, tokens=TOKENS)
    missing, bad, other = (
        with_token(world, orders, *lines)
        for lines in ((), ("Authorization: Bearer bad",), ("Authorization: Bearer bob",))
    )
    assert (outcome(missing), error(missing)[0]) == ("401 JWT", "token_missing")
    assert answer_of(missing).header("www-authenticate") == 'Bearer realm="orders"'
    assert (outcome(bad), error(bad)) == ("401 JWT", ("token_invalid", "the token does not verify"))
    assert answer_of(bad).header("www-authenticate") == 'Bearer realm="orders", error="invalid_token"'
    assert (outcome(other), error(other)[0]) == ("403 RBAC", "rbac_access_denied")
    assert answer_of(other).header("www-authenticate") is None
    assert orders.app.targets == []


def test_the_application_gets_what_the_token_says_and_not_what_the_caller_says(
    world: World, orders: Instance
) -> None:
    protect(orders, STAFF, tokens=TOKENS)
    client = with_token(
        world,
        orders,
        "Authorization: Bearer ann",
        "X-User: root",
        "x_user: root",
        "X-Claims: forged",
        "X-Other: kept",
        target="/?a=1&access_token=ann&b=2",
    )
    assert outcome(client) == "200"
    head = orders.app.seen[0].partition(b"\r\n\r\n")[0].decode()
    first, *lines = head.split("\r\n")
    assert first == "GET /?a=1&b=2 HTTP/1.1"
    assert [line for line in lines if line.lower().startswith(("x-user", "x_user", "x-claims", "auth"))] == [
        "x-claims: encoded",
        "x-user: ann",
    ]
    assert "X-Other: kept" in lines


def test_a_token_of_a_stream_counts_as_well(world: World, orders: Instance) -> None:
    protect(orders, STAFF, tokens=TOKENS)
    peer = Peer(world, orders)
    head = b"Host: a\r\nAuthorization: Bearer bad\r\n"
    message = encode_request(peer.session.now_ms(world.clock.now) + 5000, 0, b"POST", b"/", head, b"01234")
    peer.send(Kind.REQUEST_OPENING, 1, encode_opening(Opening(length=10), message))
    assert peer.refusal() == (401, "token_invalid", False)
