"""Keys and tokens out of requests, and what the answer says of them."""

from __future__ import annotations

import string
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.affinity import Affinity, Cookie, cookie_value
from busmesh.decide.hashkey import HashKey
from busmesh.decide.origin import Origin
from busmesh.decide.request import RequestHead
from busmesh.decide.sticky import StickySession, instance_token

HERE = Origin("web.default", "web-1")


def head(*lines: str, target: str = "/") -> RequestHead:
    block = "".join(f"{line}\r\n" for line in lines)
    return RequestHead.from_block(b"GET", target.encode(), block.encode())


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (["Cookie: a=1"], b"1"),
        (["cookie:a=1"], b"1"),
        (["COOKIE:   a=1"], b"1"),
        (["Cookie: b=2; a=1"], b"1"),
        (["Cookie: b=2;a=1;c=3"], b"1"),
        (["Cookie: a=1; a=2"], b"1"),
        (['Cookie: a="1"'], b"1"),
        (["Cookie: a=1=2"], b"1=2"),
        (["Cookie: a="], b""),
        (["Cookie: b=2", "X: y", "Cookie: a=1"], b"1"),
        (["Cookie: ba=2"], None),
        (["Cookie: b=a=1"], None),
        (["Cookie: b=x a=1"], None),
        (["Cookie: A=1"], None),
        (["Cookie: a"], None),
        (["Cookie: "], None),
        (["Set-Cookie: a=1"], None),
        (["X-Cookie: a=1"], None),
        (["Cookie: b=2", "X: a=1"], None),
        ([], None),
    ],
)
def test_cookies(lines: list[str], value: bytes | None) -> None:
    assert cookie_value(head(*lines).block, b"a") == value


NAMES = st.text(string.ascii_letters + "-_", min_size=1, max_size=6)
VALUES = st.text(string.ascii_letters + string.digits + "=+/.-", max_size=8)


@given(
    pairs=st.lists(st.tuples(NAMES, VALUES), max_size=8),
    name=NAMES,
    blanks=st.sampled_from(["; ", ";", " ;\t"]),
)
def test_a_cookie_is_what_splitting_finds(pairs: list[tuple[str, str]], name: str, blanks: str) -> None:
    line = blanks.join(f"{one}={value}" for one, value in pairs)
    expected = next((value.encode() for one, value in pairs if one == name), None)
    assert cookie_value(head(f"Cookie: {line}").block, name.encode()) == expected


@given(st.binary(max_size=200))
def test_no_line_makes_reading_fail(data: bytes) -> None:
    line = data.replace(b"\r", b"").replace(b"\n", b"")
    found = cookie_value(b"Host: a\r\nCookie: %b\r\n" % line, b"a")
    assert found is None or found in line


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"a=" * 30_000, b"a=" * 29_999),
        (b"xa=;" * 15_000, None),
        (b"\t" * 60_000 + b"a=1", b"1"),
        (b"b a=" * 15_000, None),
        (b"b=;" * 20_000 + b" a=1", b"1"),
    ],
)
def test_a_hostile_line_is_read_all_the_same(line: bytes, value: bytes | None) -> None:
    assert cookie_value(b"Cookie: %b\r\n" % line, b"a") == value


KEYS = {
    "header": HashKey("header", "X-User"),
    "query": HashKey("query", "user"),
    "cookie": HashKey("cookie", cookie=Cookie("user")),
    "instance": HashKey("caller instance"),
    "service": HashKey("caller service"),
}


@pytest.mark.parametrize(
    ("key", "request_", "expected"),
    [
        ("header", head("X-User: ann"), b"ann"),
        ("header", head("x-user: ann", "X-USER: bob"), b"ann, bob"),
        ("header", head("X-User:"), None),
        ("header", head(), None),
        ("query", head(target="/a?b=1&user=ann"), b"ann"),
        ("query", head(target="/a?user="), None),
        ("query", head(target="/user=ann"), None),
        ("cookie", head("Cookie: b=1; user=ann"), b"ann"),
        ("cookie", head("Cookie: user="), None),
        ("instance", head(), b"web-1"),
        ("service", head(), b"web.default"),
    ],
)
def test_keys(key: str, request_: RequestHead, expected: bytes | None) -> None:
    assert KEYS[key].read(request_, HERE) == expected


def test_who_cannot_be_known_has_no_key() -> None:
    assert HashKey("caller instance").read(head(), Origin()) is None
    with pytest.raises(ValueError, match="cookie"):
        HashKey("cookie")


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_the_agent_does_not_set_is_not_made_up(name: str) -> None:
    key = KEYS[name]
    assert key.fresh(Random(1)) is None
    assert key.mark(None, None, "i1") is None
    assert key.mark(b"ann", b"ann", "i1") is None


def test_a_request_without_the_cookie_gets_one_that_leads_it_back() -> None:
    key = HashKey("cookie", cookie=Cookie("user", "/shop", 3600.0))
    made = key.fresh(Random(1))
    assert made is not None
    assert key.fresh(Random(2)) != made
    line = key.mark(None, made, "i1")
    assert line == b'Set-Cookie: user="%b"; Max-Age=3600; Path=/shop; HttpOnly\r\n' % made
    back = line.decode().removeprefix("Set-Cookie: ").partition(";")[0]
    assert key.read(head(f"Cookie: {back}"), HERE) == made
    assert key.mark(made, made, "i1") is None


@pytest.mark.parametrize(
    ("cookie", "attributes"),
    [
        (Cookie("a"), b""),
        (Cookie("a", ttl=0.0), b""),
        (Cookie("a", ttl=0.2), b"; Max-Age=1"),
        (Cookie("a", "/", 90.0), b"; Max-Age=90; Path=/"),
    ],
)
def test_attributes_of_a_cookie(cookie: Cookie, attributes: bytes) -> None:
    assert cookie.set_line(b"v") == b'Set-Cookie: a="v"%b; HttpOnly\r\n' % attributes


def test_a_token_says_nothing_of_the_name() -> None:
    token = instance_token("orders-1a2b3c4d")
    assert len(token) == 16
    assert b"orders" not in token
    assert token == instance_token("orders-1a2b3c4d") != instance_token("orders-1a2b3c4e")


@pytest.mark.parametrize(
    ("sticky", "line", "request_line"),
    [
        (StickySession(Cookie("s", "/", 0.0)), 'Set-Cookie: s="{}"; Path=/; HttpOnly\r\n', "Cookie: s={}"),
        (StickySession(header="X-Session"), "X-Session: {}\r\n", "x-session: {}"),
    ],
)
def test_a_session_is_named_once_and_again_when_it_moves(
    sticky: StickySession, line: str, request_line: str
) -> None:
    affinity: Affinity = sticky
    token, other = instance_token("i1").decode(), instance_token("i2").decode()
    assert affinity.read(head(), HERE) is None
    assert affinity.fresh(Random(1)) is None
    assert affinity.mark(None, None, "i1") == line.format(token).encode()
    sent = affinity.read(head(request_line.format(token)), HERE)
    assert sent == token.encode()
    assert affinity.mark(sent, sent, "i1") is None
    assert affinity.mark(sent, sent, "i2") == line.format(other).encode()
