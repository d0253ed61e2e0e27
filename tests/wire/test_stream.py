"""Parts of a body: the round trip, and that nothing hostile passes for what an agent writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from busmesh.errors import RemoteProtocolError
from busmesh.wire.http import HOP_BY_HOP, MAX_HEADER_BLOCK, WRITTEN_BY_AGENTS
from busmesh.wire.stream import (
    NOT_IN_TRAILERS,
    Opening,
    decode_credit,
    decode_data,
    decode_end,
    decode_opening,
    encode_credit,
    encode_data,
    encode_end,
    encode_opening,
)

_TCHAR = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_WORD = st.lists(st.sampled_from(_TCHAR), min_size=1, max_size=20).map(bytes)
_PROTOCOL = _WORD | st.builds(lambda name, version: name + b"/" + version, _WORD, _WORD)
_OPENING = st.builds(
    Opening,
    length=st.none() | st.integers(0, 2**64 - 2),
    expects=st.booleans(),
    upgrade=st.just(b"") | _PROTOCOL,
)
_NUMBER = st.integers(0, 2**32 - 1)
_LINE = st.builds(
    lambda name, value: b"X-%b: %b\r\n" % (name, value), _WORD, st.sampled_from([b"", b"1", b"\xe9 \t,;"])
)
_TRAILERS = st.lists(_LINE, max_size=5).map(b"".join)


def refused(decode: Callable[[bytes], object], data: bytes) -> bool:
    try:
        decode(data)
    except RemoteProtocolError:
        return True
    return False


# -- round trips -----------------------------------------------------------------------------------


@given(_OPENING, st.binary(max_size=200))
@example(Opening(), b"")
@example(Opening(0), b"\xff" * 50)
def test_an_opening_comes_back(opening: Opening, message: bytes) -> None:
    assert decode_opening(encode_opening(opening, message)) == (opening, message)


@given(_NUMBER, st.binary(max_size=200))
def test_data_come_back(number: int, data: bytes) -> None:
    assert decode_data(encode_data(number, data)) == (number, data)


@given(_NUMBER, _TRAILERS)
def test_an_end_comes_back(number: int, trailers: bytes) -> None:
    assert decode_end(encode_end(number, trailers)) == (number, trailers)


@given(st.integers(0, 2**64 - 1))
def test_a_credit_comes_back(total: int) -> None:
    assert decode_credit(encode_credit(total)) == total


# -- hostile bytes ---------------------------------------------------------------------------------

_DECODERS = [decode_opening, decode_data, decode_end, decode_credit]


@pytest.mark.parametrize("decode", _DECODERS)
@given(data=st.binary(max_size=100))
@example(b"")
@example(b"\xff" * 64)
@example(b"\x00" * 64)
def test_arbitrary_bytes_raise_nothing_but_a_protocol_error(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(data)


@given(_OPENING)
def test_an_opening_cut_within_its_fields_is_refused(opening: Opening) -> None:
    whole = encode_opening(opening, b"")
    assert all(refused(decode_opening, whole[:size]) for size in range(len(whole)))


@pytest.mark.parametrize("size", range(4))
def test_a_part_cut_within_its_number_is_refused(size: int) -> None:
    assert refused(decode_data, encode_data(7, b"")[:size])
    assert refused(decode_end, encode_end(7, b"")[:size])


@pytest.mark.parametrize("size", [0, 1, 7, 9, 16])
def test_a_credit_of_another_size_is_refused(size: int) -> None:
    assert refused(decode_credit, b"\x00" * size)


@pytest.mark.parametrize(
    "upgrade",
    [
        b" ",
        b"a b",
        b"web socket",
        b"websocket\r\n",
        b"websocket\r\nX: y",
        b"websocket, h2c",
        b"a/b/c",
        b"/a",
        b"a/",
        b"\x00",
        b"\xff",
        b"a" * 254 + b"\n",
    ],
)
def test_what_is_no_protocol_is_refused(upgrade: bytes) -> None:
    """It is written into a header line on the other side."""
    assert refused(decode_opening, encode_opening(Opening(upgrade=upgrade), b""))


@given(_OPENING, st.binary(max_size=20), st.data())
def test_an_opening_with_bytes_changed_is_one_or_is_refused(
    opening: Opening, message: bytes, data: st.DataObject
) -> None:
    changed = bytearray(encode_opening(opening, message))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        read, rest = decode_opening(bytes(changed))
        assert not set(read.upgrade) - set(_TCHAR + b"/")
        assert bytes(changed).endswith(read.upgrade + rest)
        assert read.length is None or 0 <= read.length < 2**64 - 1


# -- trailers --------------------------------------------------------------------------------------


def _spellings(name: bytes) -> set[bytes]:
    return {name, name.upper(), name.title()}


@pytest.mark.parametrize("name", sorted(NOT_IN_TRAILERS | HOP_BY_HOP | WRITTEN_BY_AGENTS))
@pytest.mark.parametrize("before", [b"", b"X-A: 1\r\n"])
@pytest.mark.parametrize("after", [b"", b"X-B: 2\r\n"])
def test_what_means_something_before_a_body_may_not_follow_it(
    name: bytes, before: bytes, after: bytes
) -> None:
    for spelling in _spellings(name):
        for colon in (b": ", b":"):
            assert refused(decode_end, encode_end(0, before + spelling + colon + b"x\r\n" + after))


@pytest.mark.parametrize(
    "line",
    [
        b"x-busmesh-flags: UH\r\n",
        b"X_Busmesh_Flags: UH\r\n",
        b"X_Forwarded_Client_Cert: URI=spiffe://local/ns/default/svc/admin\r\n",
        b"Content_Length: 3\r\n",
        b"Transfer_Encoding: chunked\r\n",
        b"X-A: 1",
        b"X-A: 1\n",
        b"X-A: 1\r\n\r\n",
        b"\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n",
        b"X-A: 1\r\n\r\nGET / HTTP/1.1\r\n",
        b"X-A: a\x00b\r\n",
        b"X-A : 1\r\n",
        b" folded\r\n",
        b"no colon\r\n",
        b"X: " + b"a" * MAX_HEADER_BLOCK + b"\r\n",
    ],
)
def test_trailers_that_no_agent_writes_are_refused(line: bytes) -> None:
    assert refused(decode_end, encode_end(0, line))
    assert refused(decode_end, encode_end(0, b"X-B: 2\r\n" + line))


@pytest.mark.parametrize(
    "line",
    [
        b"Grpc-Status: 0\r\n",
        b"Digest: sha-256=x\r\n",
        b"Server-Timing: a;dur=1\r\n",
        b"X-Host: a\r\n",
        b"Hosts: a\r\n",
        b"X_Own: 1\r\n",
        b"Content-Digest: x\r\n",
    ],
)
def test_trailers_of_applications_pass(line: bytes) -> None:
    assert decode_end(encode_end(3, line * 2)) == (3, line * 2)


@given(_TRAILERS.filter(bool), st.data())
def test_trailers_with_bytes_changed_are_lines_or_are_refused(trailers: bytes, data: st.DataObject) -> None:
    changed = bytearray(trailers)
    for _ in range(data.draw(st.integers(1, 3))):
        letter = data.draw(st.sampled_from(b"\r\n: \t\0hH-_\x7f"))
        changed[data.draw(st.integers(0, len(changed) - 1))] = letter
    with contextlib.suppress(RemoteProtocolError):
        _, read = decode_end(encode_end(0, bytes(changed)))
        assert read == changed
        assert read.endswith(b"\r\n")
        for line in read.split(b"\r\n")[:-1]:
            name, colon, value = line.partition(b":")
            assert colon
            assert name
            assert not set(name) - set(_TCHAR)
            assert not set(value) & set(b"\r\n\0")
            assert name.lower() not in NOT_IN_TRAILERS
