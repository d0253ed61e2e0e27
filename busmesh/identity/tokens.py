"""End users' tokens: JSON Web Tokens (RFC 7519), verified once and remembered until they expire.

PyJWT checks signature, issuer and audience: verification of signatures written by hand is how most holes in
this field came about. What may go wrong around it is settled here: which algorithms a key is for follows
from the key, never from the token (RFC 8725 section 3.1), shared secrets are no keys at all, and the clock
is passed in. PyJWT is imported with the first token.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from busmesh.decide.authz.authenticate import JwtRule, TokenRefused
from busmesh.decide.authz.facts import Claims

#: Seconds by which issuers' clocks may differ from ours (Envoy's default).
SKEW_S = 60.0
#: Keys of one issuer; more are not looked at, as a token without `kid` is tried with each.
MAX_KEYS = 32
#: Key sets that are kept parsed.
MAX_SETS = 64
MIN_RSA_BITS = 2048

_RSA = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
#: PyJWT's options for a look that proves nothing.
_CHECKS = ("signature", "exp", "nbf", "iat", "aud", "iss", "sub", "jti")
_UNPROVEN = {f"verify_{name}": False for name in _CHECKS}
#: What cryptography, PyJWT and JSON raise for what is malformed; 16 KiB of "[" exhausts the recursion, and an
#: integer of 400 digits is no float.
_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
    UnsupportedAlgorithm,
)


class Keys(Protocol):
    """The key sets that issuers publish somewhere, as far as they are here."""

    def jwks(self, uri: str) -> str | None:
        """Return the JSON text of the key set at ``uri``, None if it is not known (yet)."""


class _Key(NamedTuple):
    kid: str | None
    algorithms: frozenset[str]
    public: Any


@dataclass(frozen=True, slots=True, eq=False)
class _Verified:
    rule: JwtRule
    claims: Claims
    keys: tuple[_Key, ...]
    not_before: float
    expires: float


class JwtTokens:
    """Verifies tokens; those that count are remembered by their digest.

    What does not count is not remembered: whoever sends junk must not push out what is good.
    """

    def __init__(self, keys: Keys, *, capacity: int) -> None:
        """``capacity`` is how many tokens are remembered; the one unused for longest goes."""
        self._keys = keys
        self._capacity = capacity
        self._known: OrderedDict[tuple[bytes, tuple[JwtRule, ...]], _Verified] = OrderedDict()
        self._sets: OrderedDict[str, tuple[_Key, ...]] = OrderedDict()

    def verify(self, rules: tuple[JwtRule, ...], token: bytes, now: float) -> tuple[JwtRule, Claims]:
        """Return which of ``rules`` a token fulfils, and its claims.

        Raises:
            TokenRefused: it fulfils none.
        """
        key = (sha256(token).digest(), rules)
        known = self._known.get(key)
        if known is not None and self._key_set(known.rule) is known.keys:
            self._known.move_to_end(key)
        else:
            known = self._known[key] = self._verify(rules, token, now)
            if len(self._known) > self._capacity:
                self._known.popitem(last=False)
        if not known.not_before - SKEW_S <= now <= known.expires + SKEW_S:
            del self._known[key]
            raise TokenRefused("the token has expired, or is not valid yet")
        return known.rule, known.claims

    def _verify(self, rules: tuple[JwtRule, ...], token: bytes, now: float) -> _Verified:
        jwt = import_module("jwt")
        try:
            header, issuer = _claimed(jwt, token)
        except (jwt.PyJWTError, *_MALFORMED):
            raise TokenRefused("the token is malformed") from None
        reason = "no RequestAuthentication knows the token's issuer"
        for rule in rules:
            if rule.issuer != issuer:
                continue
            keys = self._key_set(rule)
            if keys is None:
                reason = "the keys of the token's issuer are not known yet"
                continue
            for key in _candidates(keys, header):
                try:
                    payload = _decode(jwt, token, key, rule)
                    return _Verified(rule, Claims(payload, token.split(b".")[1]), keys, *_span(payload))
                except jwt.InvalidAudienceError:
                    reason = "the token is meant for another audience"
                except (jwt.PyJWTError, *_MALFORMED):
                    reason = "the token does not verify"
            if reason.startswith("no "):
                reason = "none of its issuer's keys is the token's"
        raise TokenRefused(reason)

    def _key_set(self, rule: JwtRule) -> tuple[_Key, ...] | None:
        text = rule.jwks or self._keys.jwks(rule.jwks_uri)
        if text is None:
            return None
        known = self._sets.get(text)
        if known is None:
            known = self._sets[text] = tuple(_read_keys(text))
            if len(self._sets) > MAX_SETS:
                self._sets.popitem(last=False)
        return known

    def statistics(self) -> dict[str, int]:
        return {"known": len(self._known), "capacity": self._capacity, "key_sets": len(self._sets)}

    def __repr__(self) -> str:
        return f"<JwtTokens known={len(self._known)}/{self._capacity} key_sets={len(self._sets)}>"


def _claimed(jwt: Any, token: bytes) -> tuple[dict[str, Any], object]:
    """Return header and issuer as a token states them, unproven: they choose what it is verified by."""
    read = jwt.decode_complete(token, options=_UNPROVEN)
    if not isinstance(read["header"].get("alg"), str):
        raise TypeError("alg is no text")
    if "crit" in read["header"] or "b64" in read["header"]:
        raise ValueError("an extension that must be understood (RFC 7515 section 4.1.11)")
    return read["header"], read["payload"].get("iss")


def _candidates(keys: tuple[_Key, ...], header: dict[str, Any]) -> Iterator[_Key]:
    """Yield the keys that a token may be signed by: for its algorithm, and of its key ID if both have one."""
    kid = header.get("kid")
    for key in keys:
        if header.get("alg") in key.algorithms and (kid is None or key.kid is None or key.kid == kid):
            yield key


def _decode(jwt: Any, token: bytes, key: _Key, rule: JwtRule) -> dict[str, Any]:
    payload: dict[str, Any] = jwt.decode(
        token,
        key.public,
        algorithms=sorted(key.algorithms),
        issuer=rule.issuer,
        audience=sorted(rule.audiences) or None,
        options={
            "require": ["iss"],
            "verify_aud": bool(rule.audiences),
            "verify_exp": False,  # by the clock that is passed in, see _span
            "verify_nbf": False,
            "verify_iat": False,
        },
    )
    return payload


def _span(payload: dict[str, Any]) -> tuple[float, float]:
    """Return from when to when a token is valid; without the claims, always, as Envoy has it."""
    ends: list[float] = []
    for name, otherwise in (("nbf", -math.inf), ("exp", math.inf)):
        value = payload.get(name, otherwise)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(f"{name} is no time")
        ends.append(float(value))
    return ends[0], ends[1]


def _read_keys(text: str) -> Iterator[_Key]:
    """Yield the keys of a set (RFC 7517) that can verify signatures; what is no such key is passed over."""
    algorithms = import_module("jwt.algorithms")
    readers = {
        "RSA": algorithms.RSAAlgorithm,
        "EC": algorithms.ECAlgorithm,
        "OKP": algorithms.OKPAlgorithm,
    }
    try:
        plain = json.loads(text)["keys"][:MAX_KEYS]
    except _MALFORMED:
        return
    for entry in plain:
        try:
            reader = readers[entry["kty"]]
            if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
                continue
            public = reader.from_jwk(entry)
            kid, fitting = entry.get("kid"), _algorithms_of(public)
            allowed = fitting & {entry["alg"]} if "alg" in entry else fitting
        except (import_module("jwt").PyJWTError, *_MALFORMED):
            continue
        if allowed:
            yield _Key(kid if isinstance(kid, str) else None, allowed, public)


def _algorithms_of(public: object) -> frozenset[str]:
    """Return the algorithms that a public key is for; none for a private, weak or exotic one."""
    match public:
        case rsa.RSAPublicKey() if public.key_size >= MIN_RSA_BITS:
            return _RSA
        case ec.EllipticCurvePublicKey():
            return frozenset(filter(None, (_CURVES.get(public.curve.name),)))
        case ed25519.Ed25519PublicKey():
            return frozenset(("EdDSA",))
        case _:
            return frozenset()
