"""NATS JWTs: who may log in to the bus, and what they may do there, signed by who is above them.

Three levels: the operator signs the account, a signing key of the account signs users. The server holds the
first two in its configuration and is told the third at each login, so newcomers need no change of the server.

Claims: https://github.com/nats-io/jwt (version 2).
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from busmesh.bus.nkeys import KeyPair

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may do on the bus; what is not listed is denied.

    Attributes:
        publish: subjects, with wildcards.
        subscribe: subjects, with wildcards.
        subscriptions: how many on one connection; -1 for any number.
        payload: bytes of the largest message; -1 for what the server takes.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    subscriptions: int = _UNLIMITED
    payload: int = _UNLIMITED


def operator_jwt(operator: KeyPair, name: str, now: float) -> str:
    """Return the operator's own claim, which makes a server ask for JWTs."""
    nats = {"type": "operator", "version": 2}
    return _signed(operator, {"sub": operator.public, "name": name, "nats": nats}, now)


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What an account may use of the server's JetStream.

    Attributes:
        disk: bytes; 0 for no JetStream at all.
        streams: how many.
    """

    disk: int = 0
    streams: int = 0


def account_jwt(
    operator: KeyPair,
    account: KeyPair,
    name: str,
    now: float,
    *,
    signing_keys: tuple[str, ...] = (),
    limits: AccountLimits = AccountLimits(),
) -> str:
    """Return an account, signed by the operator. Users who are granted nothing may do nothing in it."""
    nothing = {"deny": [">"]}
    bounds: dict[str, Any] = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn"), _UNLIMITED
    )
    bounds |= {"wildcards": True, "leaf": 0}
    if limits.disk:
        bounds |= {"disk_storage": limits.disk, "streams": limits.streams, "consumer": _UNLIMITED}
    nats = {
        "limits": bounds,
        "signing_keys": list(signing_keys),
        "default_permissions": {"pub": nothing, "sub": nothing},
        "type": "account",
        "version": 2,
    }
    return _signed(operator, {"sub": account.public, "name": name, "nats": nats}, now)


@dataclass(frozen=True, slots=True)
class User:
    """A login to be granted.

    Attributes:
        name: shown by the server's list of connections.
        public: the user's public key, as text.
        permissions: what it may do.
        expires: unix seconds from which on the server cuts it off; None is never.
    """

    name: str
    public: str
    permissions: Permissions = field(repr=False)
    expires: float | None = None


def user_jwt(signing: KeyPair, account: str, user: User, now: float) -> str:
    """Return a login, signed by a signing key of ``account``."""
    granted = user.permissions
    nats: dict[str, Any] = {
        "pub": {"allow": list(granted.publish)} if granted.publish else {"deny": [">"]},
        "sub": {"allow": list(granted.subscribe)},
        "subs": granted.subscriptions,
        "data": _UNLIMITED,
        "payload": granted.payload,
        "issuer_account": account,
        "type": "user",
        "version": 2,
    }
    claims: dict[str, Any] = {"sub": user.public, "name": user.name, "nats": nats}
    if user.expires is not None:
        claims["exp"] = int(user.expires)
    return _signed(signing, claims, now)


def claims_of(jwt: str) -> dict[str, Any]:
    """Return what a JWT claims, unproven: for its holder, who wants to know what it was given.

    An unreadable one claims nothing.
    """
    try:
        body = jwt.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _signed(key: KeyPair, claims: dict[str, Any], now: float) -> str:
    body = {**claims, "iss": key.public, "iat": int(now)}
    body["jti"] = hashlib.sha256(_json(body)).hexdigest()
    text = f"{_segment(_json(_HEADER))}.{_segment(_json(body))}"
    return f"{text}.{_segment(key.sign(text.encode()))}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
