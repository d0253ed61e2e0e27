"""What authorization documents may say, and what is said to those that may not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from busmesh.names import ServiceName
from busmesh.policy.documents import Document, DocumentKey, parse_documents
from busmesh.policy.revision import PolicySet
from busmesh.policy.validate import validate_bundle
from busmesh.yamlfile import InvalidDocuments

KEY = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}
JWKS = json.dumps({"keys": [KEY]})
Live = Mapping[ServiceName, list[dict[str, str]]]
LIVE: Live = {ServiceName("orders"): [{"version": "v1"}]}


def read(spec: str, kind: str = "AuthorizationPolicy", **metadata: Any) -> Document:
    native = kind == "Authorization"
    head = f"apiVersion: {'busmesh/v1' if native else 'security.istio.io/v1'}\nkind: {kind}\n"
    named = json.dumps({"name": "a", **metadata})
    (document,) = parse_documents(f"{head}metadata: {named}\nspec: {spec}\n".encode(), "f.yaml")
    return document


def said(spec: str, kind: str = "AuthorizationPolicy", **metadata: Any) -> list[str]:
    """Code and path of each finding."""
    try:
        document = read(spec, kind, **metadata)
    except InvalidDocuments as error:
        return [f"{finding.code} {finding.path[-1]}" for finding in error.findings]
    return [f"{finding.code} {finding.path[-1]}" for finding in validate_bundle([document], None, LIVE)]


def source(text: str) -> str:
    return f"{{rules: [{{from: [{{source: {{{text}}}}}]}}]}}"


def operation(text: str) -> str:
    return f"{{rules: [{{to: [{{operation: {{{text}}}}}]}}]}}"


def when(text: str) -> str:
    return f"{{rules: [{{when: [{{{text}}}]}}]}}"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", []),
        ("{rules: []}", []),
        ("{rules: [{}]}", []),
        ("{action: ALLOW}", []),
        ("{action: DENY}", ["BM2141 action"]),
        ("{action: AUDIT, rules: []}", ["BM2141 action"]),
        ("{action: CUSTOM, provider: {name: x}, rules: [{}]}", ["BM1373 action", "BM1373 provider"]),
        ("{action: allow}", ["BM1204 action"]),
        ("{targetRef: {}}", ["BM1376 targetRef"]),
        ("{targetRefs: []}", ["BM1376 targetRefs"]),
        ("{hosts: [orders]}", ["BM1201 hosts"]),
        ("{dryRun: true}", ["BM1201 dryRun"]),
        ("{selector: {matchLabels: {version: v1}}}", []),
        ("{selector: {matchLabels: {version: v2}}}", ["BM2144 spec"]),
        ("{selector: {matchExpressions: []}}", ["BM1201 matchExpressions"]),
        ("{rules: [{from: []}]}", ["BM1220 from"]),
        ("{rules: [{to: []}]}", ["BM1220 to"]),
        ("{rules: [{when: []}]}", []),
        ("{rules: [{from: [{}]}]}", ["BM1202 source"]),
        (source(""), ["BM1220 source"]),
        (operation(""), ["BM1220 operation"]),
        (source("principals: []"), ["BM1220 principals"]),
        (source("principals: [a/ns/b/svc/c]"), []),
        (source("principals: ['spiffe://a/ns/b/svc/c']"), []),
        (source("principals: ['https://a/ns/b/svc/c']"), ["BM1251 0"]),
        (source("principals: [a/ns/b/svc/c/i/d]"), ["BM1251 0"]),
        (source("principals: ['']"), ["BM1250 0"]),
        (source("principals: ['*a*']"), ["BM1250 0"]),
        (source("principals: ['a*b']"), ["BM1250 0"]),
        (source("principals: ['**']"), ["BM1250 0"]),
        (source("namespaces: ['*']"), []),
        (source("namespaces: ['a b']"), []),
        (source("serviceAccounts: [web, shop/web]"), []),
        (source("serviceAccounts: ['web*']"), ["BM1251 0"]),
        (source("serviceAccounts: [a/b/c]"), ["BM1251 0"]),
        (source("serviceAccounts: [web], namespaces: [a]"), ["BM1255 source"]),
        (source("ipBlocks: [10.0.0.0/8]"), ["BM1370 ipBlocks"]),
        (source("notRemoteIpBlocks: [10.0.0.0/8]"), ["BM1370 notRemoteIpBlocks"]),
        (source("trustDomains: [x]"), ["BM1375 trustDomains"]),
        (source("principal: [x]"), ["BM1201 principal"]),
        (operation("methods: [GET, 'P*', '*', M-SEARCH]"), []),
        (operation("methods: [get]"), ["BM1252 0"]),
        (operation("methods: ['G T']"), ["BM1252 0"]),
        (operation("ports: ['80']"), ["BM1315 ports"]),
        (operation("notPorts: ['80']"), ["BM1315 notPorts"]),
        (operation("hosts: ['a.example:*']"), []),
        (
            operation(
                "paths: [/, /a, /a/, '/a*', '/a/*', '*', '*.css', '*/x', /a%20b, /é, /a.b, /.a, '/a/.*']"
            ),
            [],
        ),
        (operation("paths: [a]"), ["BM1212 0"]),
        (operation("paths: ['a*']"), ["BM1212 0"]),
        (operation("notPaths: ['/a?b']"), ["BM1253 0"]),
        (operation("paths: ['/a#b']"), ["BM1253 0"]),
        (operation("paths: ['/a;b']"), ["BM1253 0"]),
        (operation("paths: [/a//b]"), ["BM1253 0"]),
        (operation("paths: [/a/../b]"), ["BM1253 0"]),
        (operation("paths: [/a/.]"), ["BM1253 0"]),
        (operation("paths: ['/a\\b']"), ["BM1253 0"]),
        (operation("paths: [/a%2Fb]"), ["BM1253 0"]),
        (operation("paths: [/%2e%2e/b]"), ["BM1253 0"]),
        (operation("paths: [/a%25b]"), ["BM1253 0"]),
        (operation("paths: [/a%00]"), ["BM1253 0"]),
        (operation("paths: [/a%C0%AF]"), ["BM1253 0"]),
        (operation("paths: [/100%]"), ["BM1253 0"]),
        (operation("paths: ['/a.']"), ["BM1253 0"]),
        (operation("paths: ['/a ']"), ["BM1253 0"]),
        (operation("paths: ['*/../x']"), ["BM1253 0"]),
        (operation("paths: ['//*']"), ["BM1253 0"]),
        (operation("paths: ['/{*}/x']"), ["BM1371 0"]),
        (operation("paths: ['/a*b']"), ["BM1250 0"]),
        (when("key: 'request.headers[x-a]', values: [a]"), []),
        (when("key: 'request.headers[x-a]', notValues: [a]"), []),
        (when("key: 'request.headers[x-a]'"), ["BM1256 0"]),
        (when("key: 'request.headers[x-a]', values: []"), ["BM1220 values"]),
        (when("key: 'request.headers[x a]', values: [a]"), ["BM1209 key"]),
        (when("key: 'request.headers[:path]', values: [a]"), ["BM1209 key"]),
        (when("key: request.headers, values: [a]"), ["BM1254 key"]),
        (when("key: 'request.headers[a][b]', values: [a]"), ["BM1254 key"]),
        (when("key: 'request.auth.claims[a][b]', values: [a]"), []),
        (when("key: 'request.auth.claims[https://x/y]', values: [a]"), []),
        (when("key: request.auth.claims, values: [a]"), ["BM1254 key"]),
        (when("key: request.auth.principal, values: [a]"), []),
        (when("key: source.namespace, values: [a]"), []),
        (when("key: source.serviceAccount, values: [a]"), []),
        (when("key: source.ip, values: [10.0.0.1]"), ["BM1370 key"]),
        (when("key: destination.port, values: ['80']"), ["BM1315 key"]),
        (when("key: connection.sni, values: [a]"), ["BM1370 key"]),
        (when("key: 'experimental.envoy.filters.a.b[c]', values: [a]"), ["BM1372 key"]),
        (when("key: request.method, values: [a]"), ["BM1254 key"]),
        (when("values: [a]"), ["BM1202 key"]),
    ],
)
def test_authorization_policies(spec: str, expected: list[str]) -> None:
    assert said(spec) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{hosts: [orders], dryRun: true}", []),
        ("{hosts: []}", ["BM1220 hosts"]),
        ("{hosts: ['*.shop']}", ["BM1320 0"]),
        ("{hosts: [order]}", ["BM2144 hosts"]),
        ("{action: AUDIT, rules: [{}], dryRun: true}", ["BM2142 action"]),
        ("{provider: {}}", ["BM1373 provider"]),
    ],
)
def test_authorizations_of_busmesh(spec: str, expected: list[str]) -> None:
    assert said(spec, "Authorization") == expected


def jwt_rule(text: str) -> str:
    return f"{{jwtRules: [{{issuer: i, {text}}}]}}"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (jwt_rule(f"jwks: '{JWKS}'"), []),
        (jwt_rule("jwksUri: 'file:///etc/keys/a%20b.json'"), []),
        (jwt_rule("jwksUri: 'http://keys.shop/jwks.json'"), []),
        (jwt_rule("jwksUri: 'http://keys:8080/jwks.json'"), []),
        (jwt_rule("jwksUri: 'https://idp.example/jwks.json'"), ["BM1374 jwksUri"]),
        (jwt_rule("jwksUri: 'http://idp.example.com/jwks.json'"), ["BM1259 jwksUri"]),
        (jwt_rule("jwksUri: 'http://user@keys/jwks.json'"), ["BM1259 jwksUri"]),
        (jwt_rule("jwksUri: 'file://host/a'"), ["BM1259 jwksUri"]),
        (jwt_rule("jwksUri: a"), ["BM1259 jwksUri"]),
        (jwt_rule("jwksUri: 'file:a'"), ["BM1259 jwksUri"]),
        (jwt_rule("jwksUri: 'http://[/'"), ["BM1259 jwksUri"]),
        ("{jwtRules: [{issuer: i}]}", ["BM1257 0"]),
        (jwt_rule(f"jwks: '{JWKS}', jwksUri: 'file:///a'"), ["BM1257 0"]),
        (jwt_rule("jwks: '{}'"), ["BM1257 jwks"]),
        (jwt_rule("jwks: 'x'"), ["BM1257 jwks"]),
        (jwt_rule("jwks: '{\"keys\": []}'"), ["BM1257 jwks"]),
        (jwt_rule("jwks: '{\"keys\": [3]}'"), ["BM1257 jwks"]),
        (jwt_rule(f"jwks: '{'[' * 2000}'"), ["BM1257 jwks"]),
        (jwt_rule('jwks: \'{"keys": [{"kty": "oct", "k": "AA"}]}\''), ["BM1258 jwks"]),
        (jwt_rule(f"jwks: '{json.dumps({'keys': [KEY | {'d': 'AA'}]})}'"), ["BM1258 jwks"]),
        (jwt_rule('jwks: \'{"keys": [{"kty": "PQ"}]}\''), ["BM1257 jwks"]),
        (jwt_rule(f"jwks: '{JWKS}', audiences: [a], forwardOriginalToken: true, timeout: 3s"), []),
        (jwt_rule(f"jwks: '{JWKS}', fromHeaders: [{{name: x-jwt, prefix: 'tok '}}], fromParams: [t]"), []),
        (jwt_rule(f"jwks: '{JWKS}', fromCookies: [session]"), []),
        (jwt_rule(f"jwks: '{JWKS}', fromHeaders: [{{name: 'x y'}}]"), ["BM1209 name"]),
        (jwt_rule(f"jwks: '{JWKS}', fromParams: ['a&b']"), ["BM1259 0"]),
        (jwt_rule(f"jwks: '{JWKS}', outputPayloadToHeader: x-claims"), []),
        (jwt_rule(f"jwks: '{JWKS}', outputPayloadToHeader: host"), ["BM1211 outputPayloadToHeader"]),
        (jwt_rule(f"jwks: '{JWKS}', outputClaimToHeaders: [{{header: x-u, claim: a.b}}]"), []),
        (
            jwt_rule(f"jwks: '{JWKS}', outputClaimToHeaders: [{{header: x_busmesh_u, claim: a}}]"),
            ["BM1211 header"],
        ),
        (jwt_rule(f"jwks: '{JWKS}', jwks_uri: 'file:///a'"), ["BM1201 jwks_uri"]),
        ("{jwtRules: []}", ["BM1220 jwtRules"]),
        ("{}", ["BM1202 jwtRules"]),
        (f"{{jwtRules: [{{issuer: i, jwks: '{JWKS}'}}, {{issuer: i, jwks: '{JWKS}'}}]}}", ["BM2143 issuer"]),
        (
            f"{{selector: {{matchLabels: {{a: b}}}}, jwtRules: [{{issuer: i, jwks: '{JWKS}'}}]}}",
            ["BM2144 spec"],
        ),
        (f"{{targetRef: {{}}, jwtRules: [{{issuer: i, jwks: '{JWKS}'}}]}}", ["BM1376 targetRef"]),
    ],
)
def test_request_authentications(spec: str, expected: list[str]) -> None:
    assert said(spec, "RequestAuthentication") == expected


def test_a_dry_run_is_true_or_false() -> None:
    assert said("{}", annotations={"istio.io/dry-run": "yes"}) == ["BM1201 annotations"]
    assert said("{}", annotations={"istio.io/dry-run": "false", "other": "yes"}) == []


def test_several_documents_speak_for_one_service() -> None:
    some = [read("{hosts: [orders]}", "Authorization", name=name) for name in ("a", "b")]
    assert validate_bundle(some, None, LIVE) == []


def test_istios_document_and_ours_have_one_key() -> None:
    ours, istio = read("{}", "Authorization"), read("{}")
    assert ours.key == istio.key == DocumentKey.parse("authorizationpolicy/a")
    assert str(read(jwt_rule(f"jwks: '{JWKS}'"), "RequestAuthentication").key) == "RequestAuthentication/a"
    again = Document.from_plain(istio.plain)
    assert again == istio
    assert PolicySet(1, {istio.key: istio}).digest == PolicySet(1, {again.key: again}).digest


def test_what_kubernetes_adds_is_let_through() -> None:
    text = b"""
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: a, namespace: foo, uid: x, resourceVersion: "7", generation: 2}
spec: {action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}
status: {}
"""
    (document,) = parse_documents(text, "f.yaml")
    assert document.key == DocumentKey("Authorization", "foo", "a")
