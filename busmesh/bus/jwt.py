"""NATS JWTs: who may log in to the bus, and what they may do there, signed by who is above them.

Three levels: the operator signs the accounts, a signing key of each signs its users. The server holds the
first two in its configuration and is told the third at each login, so newcomers need no change of the server.
Accounts see nothing of each other but what one exports and the other imports.

Claims: https://github.com/nats-io/jwt (version 2).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Shared:
    """Subjects by which one account reaches another.

    Attributes:
        services: the account that imports asks, the one that exports answers, once. The answer goes wherever
            whoever asked wants it in the importing account, and to no other. By each subject its name in the
            importing account: at ``$JS.API`` the server itself answers in an account without JetStream.
        streams: the account that imports hears what is published in the one that exports.
    """

    services: Mapping[str, str] = field(default_factory=dict)
    streams: tuple[str, ...] = ()

    def exports(self) -> list[dict[str, str]]:
        services = [{"name": each, "subject": each, "type": "service"} for each in self.services]
        return services + [{"name": each, "subject": each, "type": "stream"} for each in self.streams]

    def imports(self, account: str) -> list[dict[str, str]]:
        found = [{**each, "account": account} for each in self.exports()]
        return [
            each | {"local_subject": self.services[each["subject"]]} if each["type"] == "service" else each
            for each in found
        ]


@dataclass(frozen=True, slots=True)
class Account:
    """What an account is to be.

    Attributes:
        name: for people.
        signing_keys: public keys that sign its users.
        limits: of what it may use of JetStream.
        exports: what every other account of the server may import.
        imports: what it takes from other accounts, by their public keys.
        revoked: by the user's public key, up to when (unix seconds) logins that were issued to it count no
            more; the server cuts off who is connected by one.
    """

    name: str
    signing_keys: tuple[str, ...] = ()
    limits: AccountLimits = AccountLimits()
    exports: Shared = Shared()
    imports: Mapping[str, Shared] = field(default_factory=dict)
    revoked: Mapping[str, int] = field(default_factory=dict)


def account_jwt(operator: KeyPair, account: KeyPair, claims: Account, now: float) -> str:
    """Return an account, signed by the operator. Users who are granted nothing may do nothing in it.

    Args:
        operator: signs it.
        account: whose it is.
        claims: what it is to be.
        now: unix seconds. Of two claims of one account a server keeps the one that was issued later.
    """
    nothing = {"deny": [">"]}
    bounds: dict[str, Any] = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn"), _UNLIMITED
    )
    bounds |= {"wildcards": True, "leaf": 0}
    limits = claims.limits
    if limits.disk:
        bounds |= {"disk_storage": limits.disk, "streams": limits.streams, "consumer": _UNLIMITED}
    nats = {
        "limits": bounds,
        "signing_keys": list(claims.signing_keys),
        "exports": claims.exports.exports(),
        "imports": [each for other, shared in claims.imports.items() for each in shared.imports(other)],
        "default_permissions": {"pub": nothing, "sub": nothing},
        "type": "account",
        "version": 2,
    }
    if claims.revoked:
        nats["revocations"] = dict(sorted(claims.revoked.items()))
    return _signed(operator, {"sub": account.public, "name": claims.name, "nats": nats}, now)


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
