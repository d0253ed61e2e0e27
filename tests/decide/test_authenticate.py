"""Where tokens are found in a request, and what becomes of it with and without one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from busmesh.decide.authz.authenticate import (
    MAX_TOKEN,
    Authenticated,
    Authenticator,
    JwtRule,
    Place,
    Refused,
    TokenRefused,
)
from busmesh.decide.authz.engine import Edit
from busmesh.decide.authz.facts import Claims
from busmesh.decide.request import RequestHead

IDP, OTHER = JwtRule("RequestAuthentication/a", "idp"), JwtRule("RequestAuthentication/b", "other")


@dataclass
class FakeTokens:
    """Believes a token ``ISSUER.SUBJECT``, but not ``bad``."""

    asked: list[bytes] = field(default_factory=list)

    def verify(self, rules: tuple[JwtRule, ...], token: bytes, now: float) -> tuple[JwtRule, Claims]:
        self.asked.append(token)
        issuer, _, subject = token.decode().partition(".")
        for rule in rules:
            if rule.issuer == issuer and subject != "bad":
                payload: dict[str, Any] = {"iss": issuer, "sub": subject, "roles": ["a", "b"], "x": {"y": 7}}
                return rule, Claims(payload | {"evil": "a\r\nb"}, b"cGF5bG9hZA")
        raise TokenRefused("not believed")


def places(rule: JwtRule = IDP) -> list[Place]:
    return [
        Place("header", "authorization", b"Bearer ", any_case=True, rules=(rule,)),
        Place("header", "x-jwt", b"tok=", rules=(rule,)),
        Place("param", "access_token", rules=(rule,)),
        Place("cookie", "session", rules=(rule,)),
    ]


def authenticate(target: str, *lines: str, rules: list[Place] | None = None) -> Authenticated | Refused:
    head = RequestHead.from_block(b"GET", target.encode(), "".join(f"{line}\r\n" for line in lines).encode())
    return Authenticator(places() if rules is None else rules).authenticate(head, FakeTokens(), 0.0)


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/", ["Authorization: Bearer idp.ann"]),
        ("/", ["AUTHORIZATION:bearer   idp.ann  "]),
        ("/", ["authorization: BEARER idp.ann"]),
        ("/", ["X-Jwt: tok=idp.ann"]),
        ("/?access_token=idp.ann", []),
        ("/?a=b&access_token=idp%2eann&c", []),
        ("/", ["Cookie: a=b; session=idp.ann; c=d"]),
        ("/?access_token=idp.ann", ["Authorization: Bearer idp.ann"]),
        ("/", ["Authorization: Basic YTpi", "Authorization: Bearer idp.ann"]),
    ],
)
def test_a_token_is_found(target: str, lines: list[str]) -> None:
    found = authenticate(target, *lines)
    assert isinstance(found, Authenticated)
    assert found.claims is not None
    assert found.claims.principal == b"idp/ann"


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("/", []),
        ("/", ["Authorization: Basic YTpi"]),
        ("/", ["Authorization: Bearer"]),
        ("/", ["Authorization: idp.ann"]),
        ("/", ["X-Authorization: Bearer idp.ann"]),
        ("/", ["X-Jwt: idp.ann"]),
        ("/", ["X-Jwt: TOK=idp.ann"]),
        ("/access_token=idp.ann", []),
        ("/?xaccess_token=idp.ann", []),
        ("/?access_token=", []),
        ("/", ["Cookie: xsession=idp.ann"]),
    ],
)
def test_what_is_no_token_passes_as_nobodys(target: str, lines: list[str]) -> None:
    assert authenticate(target, *lines) == Authenticated(None, None)


@pytest.mark.parametrize(
    ("target", "lines", "reason"),
    [
        ("/", ["Authorization: Bearer idp.bad"], "not believed"),
        ("/", ["Authorization: Bearer other.ann"], "not believed"),
        ("/", ["Authorization: Bearer idp.ann", "Authorization: Bearer idp.bob"], "several"),
        ("/?access_token=idp.bob", ["Authorization: Bearer idp.ann"], "several"),
        ("/?access_token=idp.ann&access_token=idp.bob", [], "several"),
        ("/?access_token=idp.bad", ["Authorization: Bearer idp.ann"], "several"),
        ("/", [f"Authorization: Bearer idp.{'a' * MAX_TOKEN}"], "larger"),
    ],
)
def test_a_token_that_does_not_count_is_refused(target: str, lines: list[str], reason: str) -> None:
    found = authenticate(target, *lines)
    assert isinstance(found, Refused)
    assert reason in found.reason
    assert "idp." not in found.reason


def test_a_large_token_is_not_even_looked_at() -> None:
    tokens = FakeTokens()
    head = RequestHead(b"GET", b"/", [(b"authorization", b"Bearer " + b"a" * (MAX_TOKEN + 1))])
    assert isinstance(Authenticator(places()).authenticate(head, tokens, 0.0), Refused)
    assert tokens.asked == []


def test_rules_of_several_documents_stand_at_one_place() -> None:
    both = [Place("header", "authorization", b"Bearer ", any_case=True, rules=(IDP, OTHER))]
    for issuer in ("idp", "other"):
        found = authenticate("/", f"Authorization: Bearer {issuer}.x", rules=both)
        assert isinstance(found, Authenticated)
    assert isinstance(authenticate("/", "Authorization: Bearer third.x", rules=both), Refused)


def edited(rule: JwtRule, target: str, *lines: str) -> tuple[bytes, list[str]]:
    found = authenticate(target, *lines, rules=places(rule))
    assert isinstance(found, Authenticated)
    block = "".join(f"{line}\r\n" for line in lines).encode()
    if found.edit is None:
        return target.encode(), block.decode().splitlines()
    return found.edit.target(target.encode()), found.edit.block(block).decode().splitlines()


def test_the_token_stays_here_unless_it_is_to_be_forwarded() -> None:
    forward = JwtRule("a", "idp", forward=True)
    lines = ["Host: orders", "Authorization: Bearer idp.ann", "Accept: */*"]
    assert edited(IDP, "/a", *lines) == (b"/a", ["Host: orders", "Accept: */*"])
    assert edited(forward, "/a", *lines) == (b"/a", lines)
    assert edited(IDP, "/a?access_token=idp.ann") == (b"/a", [])
    assert edited(IDP, "/a?b=c&access_token=idp.ann&d") == (b"/a?b=c&d", [])
    assert edited(forward, "/a?access_token=idp.ann") == (b"/a?access_token=idp.ann", [])
    assert edited(IDP, "/a", "X-Jwt: tok=idp.ann", "Authorization: Basic x") == (
        b"/a",
        ["Authorization: Basic x"],
    )


OUTPUT = JwtRule(
    "a",
    "idp",
    payload_header="X-Claims",
    claim_headers=(
        ("x-user", ("sub",)),
        ("x-roles", ("roles",)),
        ("x-y", ("x", "y")),
        ("x-no", ("no",)),
        ("x-evil", ("evil",)),
    ),
)


def test_claims_become_headers() -> None:
    _, lines = edited(OUTPUT, "/", "Authorization: Bearer idp.ann", "Host: orders")
    assert lines == ["Host: orders", "X-Claims: cGF5bG9hZA", "x-user: ann", "x-roles: a,b", "x-y: 7"]


@pytest.mark.parametrize("with_token", [True, False])
@pytest.mark.parametrize(
    "forged",
    ["X-Claims", "x-claims", "X_CLAIMS", "x-user", "X-USER", "x_user", "x-roles", "x-y", "x-no", "X_Evil"],
)
def test_nobody_writes_them_but_a_token(forged: str, with_token: bool) -> None:
    token = ["Authorization: Bearer idp.ann"] if with_token else []
    _, lines = edited(OUTPUT, "/", f"{forged}: root", *token, "X-Users: stays")
    assert not any("root" in line for line in lines)
    assert "X-Users: stays" in lines


def test_an_edit_that_has_nothing_to_do_keeps_every_byte() -> None:
    block = b"A:  b \r\nC: d\r\nA:e\r\n"
    edit = Edit(frozenset((b"x",)), [])
    assert edit.block(block) == block
    assert edit.block(b"") == b""
    assert edit.target(b"/a?x=1") == b"/a?x=1"
