"""Who may do what, in a real mesh; nothing that a caller writes changes who it is."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh, eventually

ISSUER = "https://idp.example"
ALLOW = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: store, namespace: default}
spec:
  selector: {matchLabels: {app: store}}
  rules:
    - from: [{source: {principals: [cluster.local/ns/default/sa/shop]}}]
      to: [{operation: {methods: [GET], paths: ["/goods*", /]}}]
"""
DENY_ADMIN = """\
apiVersion: busmesh/v1
kind: Authorization
metadata: {name: admin}
spec:
  hosts: [store]
  action: DENY
  rules: [{to: [{operation: {paths: ["/admin*"]}}]}]
"""
DRY_RUN = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tried, namespace: default, annotations: {istio.io/dry-run: "true"}}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: ["/goods/9"]}}]}]
"""
AUDIT = """\
apiVersion: busmesh/v1
kind: Authorization
metadata: {name: watched}
spec: {action: AUDIT, rules: [{to: [{operation: {paths: ["/goods*"]}}]}]}
"""
TOKENS = """\
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: people, namespace: default}
spec:
  selector: {matchLabels: {app: store}}
  jwtRules:
    - issuer: https://idp.example
      audiences: [store]
      jwksUri: %s
      outputClaimToHeaders: [{header: x-user, claim: sub}]
---
apiVersion: busmesh/v1
kind: Authorization
metadata: {name: store}
spec:
  hosts: [store]
  rules:
    - from: [{source: {requestPrincipals: ["https://idp.example/*"]}}]
      when: [{key: "request.auth.claims[groups]", values: [staff]}]
"""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


def ask(caller: Instance, path: str = "/goods/1", method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(caller.outbound, timeout=10)
    try:
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers={"Host": "store", **lines})
        answer = connection.getresponse()
        said = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, said, json.loads(answer.read() or b"null"))
    finally:
        connection.close()


def test_a_caller_is_who_its_session_says_and_hears_no_more_than_no(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        store = mesh.instance("store", "store-0")
        shop = mesh.agent("shop", "shop-0", "--upstreams", "store")
        other = mesh.agent("batch", "batch-0", "--upstreams", "store")
        assert ask(other).status == 200, "without a document about it everybody may"
        mesh.run("policy", "publish", "-", "--wait", "10s", stdin="---\n".join([ALLOW, DENY_ADMIN]))

        assert ask(shop).status == 200
        refused = ask(other)
        assert refused.status == 403
        assert refused.headers["x-busmesh-flags"] == "RBAC"
        assert refused.body["error"] == "rbac_access_denied"
        assert refused.body["message"] == "RBAC: access denied"
        assert ask(shop, method="POST").status == 403
        assert ask(shop, "/other").status == 403
        for path in ("/goods/../admin", "/goods/%2e%2e/admin", "/goods/..%2fadmin", "/goods//../../admin;x"):
            assert ask(shop, path).status in (400, 403), path

        identity = f"By=spiffe://local;Hash=0;URI={shop_id(shop)}"
        for forged in (
            {"x_forwarded_client_cert": identity},
            {"X_Forwarded_Client_Cert": identity},
            {"x_busmesh_source": shop_id(shop)},
            {"x_busmesh_caller": "shop"},
        ):
            answer = ask(other, **forged)
            assert answer.status in (400, 403), forged
        assert {line["path"] for line in store.seen()} == {"/goods/1"}
        assert len(store.seen()) == 2

        counted = store.metric(
            "busmesh_authorization_denied_total",
            'policy="Authorization/store"',
            'reason="not_allowed"',
        )
        assert counted >= 4
        assert store.page("/authorization")["policies"] == [
            {"name": "Authorization/admin", "action": "DENY", "dry_run": False},
            {"name": "Authorization/store", "action": "ALLOW", "dry_run": False},
        ]
        for caller, path, expected in (
            ("shop", "/goods/1", 0),
            ("batch", "/goods/1", 1),
            ("shop", "/admin", 1),
        ):
            done = mesh.run("authz", "check", caller, "store", "GET", path, "-o", "json", check=False)
            assert done.returncode == expected, done.stderr
            row = json.loads(done.stdout)
            assert row["allowed"] is (expected == 0)
        assert row["policy"] == "Authorization/admin"


def shop_id(shop: Instance) -> str:
    return str(shop.page("/config")["id"])


def test_a_change_takes_effect_at_once_and_what_is_tried_out_only_counts(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        store = mesh.instance("store", "store-0")
        shop = mesh.agent("shop", "shop-0", "--upstreams", "store")
        mesh.run("policy", "publish", "-", "--wait", "10s", stdin="---\n".join([DRY_RUN, AUDIT]))
        assert ask(shop, "/goods/9").status == 200
        assert ask(shop, "/goods/1").status == 200
        dry = store.metric("busmesh_authorization_dry_run_total", 'rule="0"', 'result="denied"')
        assert dry == 1
        assert store.metric("busmesh_authorization_audited_total", 'policy="Authorization/watched"') == 2

        began = time.monotonic()
        mesh.run("policy", "publish", "-", stdin=DRY_RUN.replace('"true"', '"false"'))
        eventually(lambda: ask(shop, "/goods/9").status == 403, "the denial is in force")
        assert ask(shop, "/goods/1").status == 200
        mesh.run("policy", "delete", "authorization/tried")
        eventually(lambda: ask(shop, "/goods/9").status == 200, "the denial is gone")
        assert time.monotonic() - began < bar(5)


def key_set(kid: str) -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return key, json.dumps({"keys": [{**public, "kid": kid, "alg": "ES256"}]})


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve files over HTTP, as an issuer does with its keys."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def token(key: ec.EllipticCurvePrivateKey, kid: str, **claims: object) -> str:
    said = {"iss": ISSUER, "aud": "store", "sub": "ann", "groups": ["staff"], "exp": time.time() + 60}
    return "Bearer " + jwt.encode(said | claims, key, algorithm="ES256", headers={"kid": kid})


@pytest.mark.parametrize("place", ["file", "service"])
def test_who_brings_a_good_token_is_served(tmp_path: Path, nats_server: NatsServer, place: str) -> None:
    key, jwks = key_set("one")
    (tmp_path / "idp").mkdir()
    file = tmp_path / "idp" / "keys.json"
    file.write_text(jwks)
    with served(file.parent) as serving, Mesh(tmp_path, nats_server) as mesh:
        store = mesh.instance("store", "store-0")
        shop = mesh.agent("shop", "shop-0", "--upstreams", "store")
        uri = file.as_uri()
        if place == "service":
            mesh.agent("idp", "idp-0", application=serving)
            uri = "http://idp/keys.json"
        mesh.run("policy", "publish", "-", "--wait", "10s", stdin=TOKENS % uri)
        good = token(key, "one")
        eventually(lambda: ask(shop, authorization=good).status == 200, "the keys are known")

        answer = ask(shop, authorization=good, x_user="root")
        assert answer.status == 200
        told = {name.lower(): value for name, value in answer.body["headers"].items()}
        assert told["x-user"] == "ann", "the claim, and not what the caller wrote"
        assert "authorization" not in told

        missing = ask(shop)
        assert (missing.status, missing.body["error"]) == (401, "token_missing")
        assert missing.headers["www-authenticate"] == 'Bearer realm="store"'
        stranger, _ = key_set("one")
        for bad in (
            token(stranger, "one"),
            token(key, "one", exp=time.time() - 3600),
            token(key, "one", aud="another"),
            token(key, "one", iss="https://evil.example"),
            "Bearer junk",
        ):
            answer = ask(shop, authorization=bad)
            assert (answer.status, answer.body["error"]) == (401, "token_invalid")
            assert answer.headers["www-authenticate"] == 'Bearer realm="store", error="invalid_token"'
            assert answer.headers["x-busmesh-flags"] == "JWT"
        assert ask(shop, authorization=token(key, "one", groups=["guests"])).status == 403

        if place == "file":
            newer, jwks = key_set("two")
            file.write_text(jwks)
            eventually(
                lambda: ask(shop, authorization=token(newer, "two")).status == 200, "new keys are read", 15
            )
            assert ask(shop, authorization=good).status == 401, "what the old ones had signed counts no more"
        assert store.page("/authorization")["keys"] == {"wanted": [uri], "problems": {}}
