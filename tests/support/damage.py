"""What an attacker makes of a message that is taken: bytes and values changed, cut, repeated, blown up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import msgpack
from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes], words: list[bytes]) -> bytes:
    """Bytes of ``whole`` after some edits: changed, taken out, repeated, moved, or ``words`` put in."""
    data = draw(whole)
    for _ in range(draw(st.integers(0, 6))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        match draw(st.integers(0, 5)):
            case 0:
                data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:end] + data[at:end] + data[end:]
            case 3:
                data = data[end:] + data[:at] + data[at:end]
            case 4:
                data = data[:at] + draw(st.sampled_from(words)) + data[at:]
            case _:
                data = data[:at] + draw(st.sampled_from(words)) + data[end:]
    return data


#: (what is done, from where, how far, what with): places are taken modulo what the message turns out to have.
Edit = tuple[int, int, int, bytes]


def edits(words: list[bytes]) -> st.SearchStrategy[list[Edit]]:
    """Draw changes before there is a message: one that is signed comes out a byte longer or shorter."""
    places = st.integers(0, 63) | st.integers(0, 2**20)
    return st.lists(
        st.tuples(st.integers(0, 5), places, places, st.sampled_from(words) | st.binary(max_size=4)),
        max_size=5,
    )


def edited(data: bytes, changes: list[Edit]) -> bytes:
    """Return bytes after changes like those of :func:`damaged`."""
    for kind, first, second, word in changes:
        at, end = sorted((first % (len(data) + 1), second % (len(data) + 1)))
        match kind:
            case 0:
                data = data[:at] + word[:1] + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:end] + data[at:end] + data[end:]
            case 3:
                data = data[end:] + data[:at] + data[at:end]
            case 4:
                data = data[:at] + word + data[at:]
            case _:
                data = data[:at] + word + data[end:]
    return data


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` in pieces: of one byte each, or cut at any places."""
    if draw(st.integers(0, 3)) == 0:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[at:end] for at, end in zip([0, *places], [*places, len(data)], strict=True)]


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


#: What no field expects, one thing after the other.
EVIL: list[Any] = [
    None, True, False, 10**400, -(10**30), 10**4200, 0, 1, -1, 2, 64, 255, 2**31, 2**53, 2**63 - 1,
    2**64 - 1, -(2**63), 0.0, -0.0, 0.5,
    1e300, -1e300, math.nan, math.inf, -math.inf, "", "a", "A", "é", "\0", "\x1b[31m", "\r\n", "..", "*", ">",
    "_", "-", "1", "1e999", "9" * 4299, "a" * 64, "a" * 5000, "[::1", "spiffe://[", "spiffe://local/operator/x",
    "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00", b"", b"\0", b"\xff" * 20, b"\x80" * 400, [], {}, [[]],
    [{}], {"": None}, {"a": {"a": {"a": {}}}}, [0] * 2000, [[]] * 2000, [{}] * 1000,
    nested(100), nested(400), nested(900),
    {str(number): number for number in range(500)}, {"v": 1}, msgpack.Timestamp(2**33, 5),
    msgpack.ExtType(5, b"x"), "\ud800",
]  # fmt: skip


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A value with something in it changed: replaced, left out, doubled, or wrapped."""
    if isinstance(value, list | tuple) and value and draw(st.integers(0, 9)):
        items = list(value)
        at = draw(st.integers(0, len(items) - 1))
        match draw(st.integers(0, 5)):
            case 0:
                del items[at]
            case 1:
                items.insert(at, draw(st.sampled_from(EVIL)))
            case 2:
                items = (items * draw(st.sampled_from([2, 100, 1000])))[:3000]
            case _:
                items[at] = draw(altered(items[at]))
        return items
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        changed = dict(value)
        name = draw(st.sampled_from(sorted(changed, key=repr)))
        match draw(st.integers(0, 5)):
            case 0:
                del changed[name]
            case 1:
                changed[draw(st.sampled_from(["", "x", "a" * 300, "\0", "__class__"]))] = changed[name]
            case _:
                changed[name] = draw(altered(value[name]))
        return changed
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from([[value], {"a": value}, [value, value], str(value)]))
    return draw(st.sampled_from(EVIL))


def everywhere(value: Any) -> Iterator[Any]:
    """Yield ``value`` with one thing of `EVIL` in one of its places, for every thing and every place."""
    yield from EVIL
    if isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield [*value[:at], *value[at + 1 :]]
            for other in everywhere(item):
                yield [*value[:at], other, *value[at + 1 :]]
    elif isinstance(value, dict):
        for name, item in value.items():
            yield {key: each for key, each in value.items() if key != name}
            for other in everywhere(item):
                yield {**value, name: other}


def packed(value: Any) -> bytes:
    """Return msgpack, whatever stands in the text."""
    data: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return data


def written(value: Any) -> bytes:
    """Return JSON; what JSON has no form for becomes text."""
    return json.dumps(value, default=repr).encode()


def bombs(size: int) -> list[bytes]:
    """Return what is small and costs much, each of ``size`` bytes or so."""
    many = size // 2
    return [
        b"\x91" * size,
        b"\x81\xa1a" * (size // 3),
        b"\xdd" + many.to_bytes(4) + b"\x90" * many,
        b"\xdd" + many.to_bytes(4) + b"\x80" * many,
        b"\xdd" + many.to_bytes(4) + b"\xc0" * many,
        b"\x92\x01\xdd" + many.to_bytes(4) + b"\x80" * many,
        b"\x92\x01\x81\xa6labels\xdf" + (many // 2).to_bytes(4) + b"\xa1a\xa1b" * (many // 2),
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xc1" * size,
        b"\xff" * size,
        b"[" * size,
        b'{"a":' * (size // 5),
        b"[" + b"[]," * (size // 3 - 2) + b"[]]",
        b'{"a":' + b"9" * min(size, 4000) + b"}",
        b'"' + b"\\ud800" * (size // 6) + b'"',
        b"-----BEGIN CERTIFICATE-----\n" * (size // 28),
        b"\x30\x84" + size.to_bytes(4) + bytes(size),
        b"\x30\x80" * (size // 2),
        b"%25" * (size // 3),
        b"a.b" * (size // 3),
    ]


#: Pieces of the forms that messages are made of.
WORDS = [
    b"\x90", b"\x80", b"\xc0", b"\xc1", b"\x91" * 50, b"\xdd\xff\xff\xff\xff", b"\xdf\x00\x00\xff\xff",
    b"\xc6\x00\x01\x00\x00", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xcb\x7f\xf0" + bytes(6),
    b"\xcb\x7f\xf8" + bytes(6), b"\xd6\xff\xff\xff\xff\xff", b"\xc7\x0c\xff" + b"\xff" * 12, b"\xa1a",
    b"\xd9\xff" + b"a" * 255, b"\xa3\xff\xfe\xfd", b"\xa3\xed\xa0\x80", b"\0", b"\xff" * 8, bytes(8), b"\r\n",
    b"\r\n\r\n", b".", b"*",
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999",
    b"1" + b"0" * 400, b"9" * 4300, b"9" * 4301, b"[" * 1100, b'{"a":' * 1100, b'"\\ud800"', b"-----BEGIN ",
    b"\n", b" ", b"\x30\x82\xff\xff", b"\x30\x80", b"spiffe://", b"%2e%2e", b"\xe2\x88\x95", b"PING\r\n",
    b"-ERR 'x'\r\n", b"INFO {}\r\n", b"MSG a 1 3\r\nabc\r\n", b"HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n",
    b"NATS/1.0 503", b"X-A: 1\r\n", b"\x16\x03\x01\xff\xff", b"\x16\x03\x03\x00\x01\x01",
]  # fmt: skip
