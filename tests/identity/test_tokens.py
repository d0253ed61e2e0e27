"""Tokens of end users: which count, and what is never believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.authz.authenticate import JwtRule, TokenRefused
from busmesh.errors import BusmeshError
from busmesh.identity.keysets import KeySets, read_key_file
from busmesh.identity.tokens import SKEW_S, JwtTokens

NOW = 1_800_000_000.0
ISSUER = "https://idp.example"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC_384_KEY = ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
URI = "http://keys/jwks"


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    reader = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }[next(kind for kind in _KINDS if isinstance(key, kind))]
    made = json.loads(reader.to_jwk(key.public_key()))
    made.pop("key_ops", None)
    return made | more


_KINDS = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)


def jwks(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": keys})


JWKS = jwks(jwk(RSA_KEY, kid="r"), jwk(EC_KEY, kid="e"), jwk(EC_384_KEY, kid="e3"), jwk(ED_KEY, kid="ed"))
RULE = JwtRule("RequestAuthentication/a", ISSUER, jwks=JWKS)


def token(
    key: Any = RSA_KEY, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **claims: Any
) -> bytes:
    payload = {"iss": ISSUER, "sub": "ann", "exp": NOW + 300} | claims
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers).encode()


def parts(*pieces: object, signature: bytes = b"x") -> bytes:
    """A token written by hand, as an attacker does."""
    encoded = [base64.urlsafe_b64encode(json.dumps(piece).encode()).rstrip(b"=") for piece in pieces]
    return b".".join([*encoded, base64.urlsafe_b64encode(signature).rstrip(b"=")])


def tokens(capacity: int = 10) -> JwtTokens:
    return JwtTokens(KeySets(), capacity=capacity)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [
        (RSA_KEY, "RS256", "r"),
        (RSA_KEY, "RS384", "r"),
        (RSA_KEY, "RS512", "r"),
        (RSA_KEY, "PS256", "r"),
        (RSA_KEY, "PS512", "r"),
        (EC_KEY, "ES256", "e"),
        (EC_384_KEY, "ES384", "e3"),
        (ED_KEY, "EdDSA", "ed"),
        (RSA_KEY, "RS256", None),
        (EC_KEY, "ES256", None),
    ],
)
def test_a_token_of_its_issuer_counts(key: Any, algorithm: str, kid: str | None) -> None:
    made = token(key, algorithm, {"kid": kid} if kid else None, groups=["a"])
    rule, claims = tokens().verify((RULE,), made, NOW)
    assert rule is RULE
    assert claims.principal == b"https://idp.example/ann"
    assert claims.values(("groups",)) == [b"a"]
    assert base64.urlsafe_b64decode(claims.encoded + b"==").startswith(b"{")


def confused() -> bytes:
    """Signed with HMAC, the public key being the secret: the classic."""
    pem = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = parts({"alg": "HS256", "kid": "r"}, {"iss": ISSUER, "sub": "ann"}).rpartition(b".")[0]
    mac = hmac.new(pem, signed, hashlib.sha256).digest()
    return signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")


def tampered(made: bytes) -> bytes:
    head, _, signature = made.split(b".")
    body = base64.urlsafe_b64encode(json.dumps({"iss": ISSUER, "sub": "root", "exp": NOW + 9}).encode())
    return b".".join([head, body.rstrip(b"="), signature])


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (token(OTHER_RSA_KEY), "does not verify"),
        (token(OTHER_RSA_KEY, headers={"kid": "r"}), "does not verify"),
        (token(headers={"kid": "other"}), "none of its issuer's keys"),
        (token(EC_KEY, "ES256", {"kid": "r"}), "none of its issuer's keys"),
        (token(iss="https://other"), "no RequestAuthentication knows"),
        (token(iss="https://idp.example/"), "no RequestAuthentication knows"),
        (token(iss=None), "no RequestAuthentication knows"),
        (tampered(token()), "does not verify"),
        (token()[:-4], "malformed|does not verify"),
        (token() + b"AAAA", "does not verify"),
        (confused(), "none of its issuer's keys"),
        (parts({"alg": "none"}, {"iss": ISSUER, "sub": "ann"}, signature=b""), "none of its issuer's keys"),
        (parts({"alg": "None"}, {"iss": ISSUER}, signature=b""), "none of its issuer's keys"),
        (parts({"alg": "nOnE", "kid": "r"}, {"iss": ISSUER}, signature=b""), "none of its issuer's keys"),
        (parts({"alg": ["RS256"]}, {"iss": ISSUER}), "malformed"),
        (parts({"alg": "RS256", "kid": ["r"]}, {"iss": ISSUER}), "malformed"),
        (parts({"kid": "r"}, {"iss": ISSUER}), "malformed"),
        (parts({"alg": "RS256", "jwk": jwk(OTHER_RSA_KEY)}, {"iss": ISSUER}), "does not verify"),
        (parts({"alg": "RS256", "crit": ["x"], "x": 1}, {"iss": ISSUER}), "malformed"),
        (parts({"alg": "RS256", "b64": False, "crit": ["b64"]}, {"iss": ISSUER}), "malformed"),
        (parts({"alg": "RS256"}, ["iss"]), "malformed"),
        (parts("RS256", {"iss": ISSUER}), "malformed"),
        (parts({"alg": "RS256"}), "malformed"),
        (b"", "malformed"),
        (b"..", "malformed"),
        (b"a.b.c", "malformed"),
        (b"\xff\xfe.\xff.\xff", "malformed"),
        (token().replace(b".", b"..", 1), "malformed"),
        (b"e30." + base64.urlsafe_b64encode(b"[" * 9000) + b".e30", "malformed"),
        (base64.urlsafe_b64encode(b'{"alg":' + b"[" * 9000) + b".e30.e30", "malformed"),
        (b"e30." + base64.urlsafe_b64encode(b'{"exp":' + b"9" * 9000 + b"}") + b".e30", "malformed"),
        (token(exp=NOW - SKEW_S - 1), "expired"),
        (token(nbf=NOW + SKEW_S + 1), "expired, or is not valid yet"),
        (token(exp="tomorrow"), "does not verify"),
        (token(nbf=True), "does not verify"),
        (token(exp=float("nan")), "does not verify"),
        (token(exp=10**400), "does not verify"),
        (token(sub=7), "does not verify"),
    ],
)
def test_what_does_not_count(made: bytes, reason: str) -> None:
    with pytest.raises(TokenRefused, match=reason) as caught:
        tokens().verify((RULE,), made, NOW)
    assert made.decode("latin-1") not in str(caught.value) or not made


@pytest.mark.parametrize(
    ("audience", "counts"), [("orders", True), (["x", "orders"], True), ("x", False), (None, False)]
)
def test_an_audience_is_asked_for_where_the_rule_does(audience: object, counts: bool) -> None:
    rule = replace(RULE, audiences=frozenset(("orders", "payments")))
    made = token(aud=audience)
    assert tokens().verify((RULE,), made, NOW)
    if counts:
        assert tokens().verify((rule,), made, NOW)[0] is rule
    else:
        with pytest.raises(TokenRefused):
            tokens().verify((rule,), made, NOW)


def test_of_several_rules_the_one_that_fits_is_told() -> None:
    others = (replace(RULE, issuer="https://a"), replace(RULE, audiences=frozenset(("x",))))
    assert tokens().verify((*others, RULE), token(aud="y"), NOW)[0] is RULE
    assert tokens().verify((*others, RULE), token(aud="x"), NOW)[0] is others[1]


def test_a_token_is_remembered_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    some, made = tokens(), token()
    first = some.verify((RULE,), made, NOW)
    with monkeypatch.context() as patch:
        patch.setattr(jwt, "decode", None)  # what would verify it once more
        assert some.verify((RULE,), made, NOW + 1) == first
        with pytest.raises(TokenRefused, match="expired"):
            some.verify((RULE,), made, NOW + 300 + SKEW_S + 1)
    assert "known=0/10" in repr(some)
    with pytest.raises(TokenRefused, match="expired"):
        some.verify((RULE,), made, NOW + 300 + SKEW_S + 1)


def test_without_exp_a_token_does_not_expire() -> None:
    assert tokens().verify((RULE,), token(exp=None), NOW + 1e9)


def test_tokens_are_remembered_within_a_bound_and_junk_pushes_none_out() -> None:
    some = tokens(capacity=3)
    good = [token(sub=f"s{number}") for number in range(5)]
    for made in good[:3]:
        some.verify((RULE,), made, NOW)
    for number in range(20):
        with pytest.raises(TokenRefused):
            some.verify((RULE,), parts({"alg": "RS256"}, {"iss": ISSUER, "n": number}), NOW)
    some.verify((RULE,), good[0], NOW)
    some.verify((RULE,), good[3], NOW)
    assert "known=3/3" in repr(some)
    kept = {claims.payload["sub"] for claims in (entry.claims for entry in some._known.values())}
    assert kept == {"s2", "s0", "s3"}


def test_what_was_verified_by_other_rules_is_verified_anew() -> None:
    some, made = tokens(), token()
    some.verify((RULE,), made, NOW)
    with pytest.raises(TokenRefused):
        some.verify((replace(RULE, audiences=frozenset(("x",))),), made, NOW)


def test_keys_that_are_elsewhere_count_as_soon_and_as_long_as_they_are_here() -> None:
    keys = KeySets()
    some, rule, made = JwtTokens(keys, capacity=10), replace(RULE, jwks="", jwks_uri=URI), token()
    with pytest.raises(TokenRefused, match="not known yet"):
        some.verify((rule,), made, NOW)
    keys.put(URI, JWKS)
    assert some.verify((rule,), made, NOW)
    keys.put(URI, jwks(jwk(OTHER_RSA_KEY)))  # the issuer has new keys; the old one may have been stolen
    with pytest.raises(TokenRefused, match="does not verify"):
        some.verify((rule,), made, NOW)
    assert some.verify((rule,), token(OTHER_RSA_KEY), NOW)
    keys.keep([])
    with pytest.raises(TokenRefused, match="not known yet"):
        some.verify((rule,), token(OTHER_RSA_KEY), NOW)


SECRET = {"kty": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"keys": 3}',
        '{"keys": [3, null, "x", {}]}',
        '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}',
        '{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}',
        "[" * 9000,
        jwks(SECRET),
        jwks(jwk(RSA_KEY, use="enc")),
        jwks(jwk(RSA_KEY, key_ops=["sign"])),
        jwks(jwk(RSA_KEY, alg="ES256")),
        jwks(jwk(RSA_KEY, alg="HS256")),
        jwks(jwk(RSA_KEY, alg="none")),
        jwks(jwk(RSA_KEY, alg=["RS256"])),
        jwks(jwk(RSA_KEY, kty=["RSA"])),
        jwks(jwk(RSA_KEY, kty="oct", k="AAAA")),
        jwks(*[jwk(OTHER_RSA_KEY)] * 32, jwk(RSA_KEY)),
    ],
)
def test_a_key_set_without_a_key_for_it_verifies_nothing(text: str) -> None:
    keys = KeySets()
    keys.put(URI, text)
    rule = replace(RULE, jwks="", jwks_uri=URI)
    with pytest.raises(TokenRefused):
        JwtTokens(keys, capacity=1).verify((rule,), token(), NOW)


def test_a_key_that_cannot_be_read_does_not_take_the_others_with_it() -> None:
    rule = replace(RULE, jwks=jwks({"kty": "RSA"}, SECRET, {"kty": "PQ"}, jwk(RSA_KEY, alg="RS256")))
    assert tokens().verify((rule,), token(), NOW)
    with pytest.raises(TokenRefused):
        tokens().verify((rule,), token(algorithm="RS512"), NOW)


def test_a_weak_or_exotic_key_is_none() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    exotic = ec.generate_private_key(ec.SECP256K1())
    for key, algorithm in ((weak, "RS256"), (exotic, "ES256K")):
        rule = replace(RULE, jwks=jwks(jwk(key)))
        made = parts({"alg": algorithm}, {"iss": ISSUER, "sub": "ann"})
        with pytest.raises(TokenRefused, match="none of its issuer's keys"):
            tokens().verify((rule,), made, NOW)


@given(st.binary(max_size=200) | st.tuples(*[st.binary(max_size=40)] * 3).map(b".".join))
def test_junk_is_refused_and_nothing_else_happens(junk: bytes) -> None:
    with pytest.raises(TokenRefused):
        tokens().verify((RULE,), junk, NOW)


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    made = token(EC_KEY, "ES256")
    head, body, _ = made.split(b".")
    place = data.draw(st.integers(0, len(head) + len(body)).filter(lambda place: place != len(head)))
    other = data.draw(st.sampled_from(b"ABCxyz019_-").filter(lambda byte: byte != made[place]))
    with pytest.raises(TokenRefused):
        tokens().verify((RULE,), made[:place] + bytes([other]) + made[place + 1 :], NOW)


def test_key_sets_in_files(tmp_path: Path) -> None:
    file = tmp_path / "a b.json"
    uri = file.as_uri()
    keys = KeySets()
    wrong = keys.read_files([uri, "http://keys/jwks"])
    assert [error.code for error in wrong.values()] == ["BM4701"]
    assert keys.jwks(uri) is None
    file.write_text(JWKS)
    assert keys.read_files([uri]) == {}
    assert keys.jwks(uri) == JWKS
    file.unlink()
    assert set(keys.read_files([uri])) == {uri}
    assert keys.jwks(uri) == JWKS  # keys that were good are not bad now
    keys.keep([])
    assert keys.jwks(uri) is None
    assert repr(keys) == "<KeySets 0>"


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b"\xff"),
        lambda file: file.write_text("x" * 70_000),
        lambda file: file.mkdir(),
    ],
)
def test_files_that_are_no_key_sets(write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "k")
    with pytest.raises(BusmeshError, match="BM4701"):
        read_key_file((tmp_path / "k").as_uri())
