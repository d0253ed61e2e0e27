"""Istio's RequestAuthentication, compiled: where tokens are, which of them count, and what becomes of them.

A request without a token passes, as in Istio: whether it needs one is for the policies to say. One with a
token that does not verify is refused, and so is one with two different tokens, as the application may take
the other. What is taken out of a token for the application is taken out of every request first, so that no
caller can write it by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from busmesh.decide.authz.engine import Edit
from busmesh.decide.authz.facts import Claims, Facts, Values, lines_of
from busmesh.decide.match import cookie_value
from busmesh.decide.request import Headers, RequestHead
from busmesh.errors import Denied

#: Bytes of a token; a larger one is refused before anything looks at it.
MAX_TOKEN = 16 * 1024
#: What no header value may hold; a claim with it gets no header.
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
Kind = Literal["header", "param", "cookie"]


class TokenRefused(Denied):
    """A token that proves nothing; the message says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True, eq=False)
class JwtRule:
    """One issuer whose tokens count.

    Attributes:
        policy: the document's name.
        issuer: what ``iss`` is.
        audiences: one of which ``aud`` names; empty for any.
        jwks: the keys, as JSON text; empty if they are to be found at ``jwks_uri``.
        timeout: seconds for fetching them.
        forward: the application gets the token as well.
        payload_header: gets the token's claims, base64url.
        claim_headers: (header, path of the claim) for each claim that gets a header of its own.
    """

    policy: str
    issuer: str
    audiences: frozenset[str] = frozenset()
    jwks: str = ""
    jwks_uri: str = ""
    timeout: float = 5.0
    forward: bool = False
    payload_header: str = ""
    claim_headers: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One place in a request where tokens of some rules may be.

    Attributes:
        name: of the header, parameter or cookie.
        prefix: before the token in a header.
        any_case: the prefix in any case, as the scheme ``Bearer`` is (RFC 9110 section 11.1).
        rules: whose tokens count here.
    """

    kind: Kind
    name: str
    prefix: bytes = b""
    any_case: bool = False
    rules: tuple[JwtRule, ...] = ()
    lines: Values = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", lines_of("cookie" if self.kind == "cookie" else self.name))

    def tokens(self, facts: Facts) -> list[bytes]:
        """Return the tokens that are here."""
        if self.kind == "param":
            return _parameters(facts.head.target.partition(b"?")[2], self.name.encode())
        if self.kind == "cookie":
            found = [cookie_value(line, self.name.encode()) for line in self.lines(facts)]
            return [value for value in found if value]
        size = len(self.prefix)
        return [
            value[size:].strip(b" ")
            for value in self.lines(facts)
            if (
                value[:size].lower() == self.prefix.lower()
                if self.any_case
                else value.startswith(self.prefix)
            )
        ]


def _parameters(query: bytes, name: bytes) -> list[bytes]:
    """Return the value of each parameter of this name; by searching, as a query may hold 30,000 of them."""
    values, text = [], b"&" + query
    at = text.find(b"&" + name + b"=")
    while at >= 0:
        start = at + len(name) + 2
        stop = text.find(b"&", start)
        values.append(unquote_to_bytes(text[start : stop if stop >= 0 else None]))
        at = text.find(b"&" + name + b"=", start)
    return [value for value in values if value]


class Tokens(Protocol):
    """Verifies tokens, and remembers those that it has."""

    def verify(self, rules: tuple[JwtRule, ...], token: bytes, now: float) -> tuple[JwtRule, Claims]:
        """Return which of ``rules`` a token fulfils, and its claims.

        Args:
            rules: whose tokens count; made once per revision, and told apart by identity.
            token: as it came.
            now: seconds since 1970.

        Raises:
            TokenRefused: it fulfils none.
        """


class Refused(NamedTuple):
    """A token was there that does not count."""

    policy: str
    reason: str


class Authenticated(NamedTuple):
    """The request may go on; ``claims`` is None without a token."""

    claims: Claims | None
    edit: Edit | None


class Authenticator:
    """The rules of every RequestAuthentication that applies to this instance.

    Attributes:
        issuers: whose tokens count.
        jwks_uris: where key sets are that somebody has to fetch, and how many seconds that may take.
    """

    __slots__ = ("_outputs", "_places", "_without", "issuers", "jwks_uris")

    def __init__(self, places: Sequence[Place]) -> None:
        """``places`` are different; the rules of several documents about one place stand together."""
        self._places = tuple(places)
        rules = {rule for place in places for rule in place.rules}
        self.issuers = frozenset(rule.issuer for rule in rules)
        self.jwks_uris: dict[str, float] = {}
        for rule in rules:
            if rule.jwks_uri:
                self.jwks_uris[rule.jwks_uri] = max(rule.timeout, self.jwks_uris.get(rule.jwks_uri, 0.0))
        names = [rule.payload_header for rule in rules if rule.payload_header]
        names += [header for rule in rules for header, _ in rule.claim_headers]
        #: Headers that only a verified token may fill.
        self._outputs = frozenset(_plain(name) for name in names)
        self._without = Authenticated(None, Edit(self._outputs, []) if self._outputs else None)

    def authenticate(self, head: RequestHead, tokens: Tokens, now: float) -> Authenticated | Refused:
        """Find the token of a request and have it verified."""
        facts = Facts(head, None)
        found = [(place, token) for place in self._places for token in place.tokens(facts)]
        if not found:
            return self._without
        if len({token for _, token in found}) > 1:
            return Refused("", "the request has several tokens")
        accepted: list[tuple[JwtRule, Claims]] = []
        reasons: list[str] = []
        for place, token in found:
            try:
                if len(token) > MAX_TOKEN:
                    raise TokenRefused(f"the token is larger than {MAX_TOKEN} bytes")
                accepted.append(tokens.verify(place.rules, token, now))
            except TokenRefused as error:
                reasons.append(error.message)
        if not accepted:
            return Refused(found[0][0].rules[0].policy, reasons[0])
        rule, claims = accepted[0]
        return Authenticated(claims, self._edit(rule, claims, [place for place, _ in found]))

    def _edit(self, rule: JwtRule, claims: Claims, places: list[Place]) -> Edit | None:
        drop, params, add = set(self._outputs), set(), _outputs(rule, claims)
        if not rule.forward:
            drop |= {_plain(place.name) for place in places if place.kind == "header"}
            params |= {place.name.encode() for place in places if place.kind == "param"}
        return Edit(frozenset(drop), add, frozenset(params)) if drop or add or params else None


def _plain(name: str) -> bytes:
    return name.lower().replace("_", "-").encode()


def _outputs(rule: JwtRule, claims: Claims) -> Headers:
    lines = [(rule.payload_header.encode(), claims.encoded)] if rule.payload_header else []
    for header, path in rule.claim_headers:
        values = claims.values(path)
        joined = b",".join(values)
        if values and _CONTROL.search(joined) is None:
            lines.append((header.encode(), joined))
    return lines
