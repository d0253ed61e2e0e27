"""The parser of the server's side of the protocol: the same messages however the bytes are cut."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from busmesh.bus.messages import parse_headers
from busmesh.bus.parser import MAX_CONTROL_LINE, MAX_PAYLOAD, Parser
from busmesh.errors import RemoteProtocolError

Event = tuple[object, ...]


def _parse(chunks: list[bytes]) -> list[Event]:
    events: list[Event] = []
    parser = Parser(lambda *message: events.append(message), lambda line: events.append((line,)))
    for chunk in chunks:
        parser.feed(chunk)
    return events


_WORD = st.binary(min_size=1, max_size=20).filter(lambda word: not set(word) & set(b" \t\r\n"))
_BYTES = st.binary(max_size=200) | st.sampled_from([b"\r\n", b"MSG a 1 0\r\n\r\n", b"PING\r\n", b"\r", b"\n"])


@st.composite
def _event(draw: st.DrawFn) -> tuple[Event, bytes]:
    """An event, and the bytes by which a server says it."""
    kind = draw(st.sampled_from(["message", "headers", "control"]))
    if kind == "control":
        line = draw(
            st.sampled_from([b"PING", b"PONG", b"+OK", b"-ERR 'x'", b'INFO {"a": 1}', b"", b"MSGX", b"HMS"])
        )
        return (line,), line + b"\r\n"
    subject, reply = draw(_WORD), draw(st.just(b"") | _WORD)
    sid, payload = draw(st.integers(0, 10**9)), draw(_BYTES)
    words = b" ".join([subject, b"%d" % sid, *([reply] if reply else [])])
    if kind == "message":
        return (sid, subject, reply, payload, b""), b"MSG %b %d\r\n%b\r\n" % (words, len(payload), payload)
    block = draw(_BYTES)
    size = len(block) + len(payload)
    frame = b"HMSG %b %d %d\r\n%b%b\r\n" % (words, len(block), size, block, payload)
    return (sid, subject, reply, payload, block), frame


@given(st.lists(_event(), max_size=12), st.data())
def test_any_messages_cut_anywhere_are_the_same_messages(
    sequence: list[tuple[Event, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(frame for _, frame in sequence)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    chunks = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    expected = [event for event, _ in sequence]
    assert _parse(chunks) == expected
    assert _parse([stream]) == expected
    assert _parse([stream[at : at + 1] for at in range(len(stream))]) == expected


@given(st.lists(st.binary(max_size=100), max_size=8))
@example([b"MSG a 1 5"])
@example([b"MSG a 1 " + b"9" * 5000 + b"\r\n"])
@example([b"HMSG\r\n"])
@example([b"HMSG 1 2\r\n"])
@example([b"MSG  \r\n", b"MSG a\r\n"])
def test_arbitrary_bytes_raise_nothing_but_a_protocol_error(chunks: list[bytes]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        _parse(chunks)


_LINE = st.lists(
    st.sampled_from([b"MSG", b"HMSG", b"a", b"1", b"-1", b"", b"\t", b"5", b"0x5", b"1_0"]), max_size=8
)


@given(st.lists(_LINE, max_size=6), st.binary(max_size=50))
def test_lines_of_nearly_messages_raise_nothing_but_a_protocol_error(
    lines: list[list[bytes]], tail: bytes
) -> None:
    with contextlib.suppress(RemoteProtocolError):
        _parse([b"\r\n".join(b" ".join(words) for words in lines) + b"\r\n" + tail])


@pytest.mark.parametrize(
    "line",
    [
        b"MSG ",
        b"MSG a",
        b"MSG a 1",
        b"MSG a x 1",
        b"MSG a 1 x",
        b"MSG a 1 -1",
        b"MSG a 1 0x1",
        b"MSG a b 1 c 5",
        b"MSG a 1 b c 5",
        b"MSG a 1 %d" % (MAX_PAYLOAD + 1),
        b"HMSG",
        b"HMSG a 1 5",
        b"HMSG a 1 6 5",
        b"HMSG a 1 -1 5",
        b"HMSG a 1 b c 5 5",
        b"HMSG a 1 x 5",
    ],
)
def test_a_malformed_message_line_is_refused(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        _parse([line + b"\r\n", b"12345\r\n"])


def test_a_line_without_end_is_refused_and_a_long_one_is_not() -> None:
    info = b'INFO {"a": "%b"}' % (b"x" * (MAX_CONTROL_LINE - 100))
    assert _parse([info[:100], info[100:], b"\r\n"]) == [(info,)]
    with pytest.raises(RemoteProtocolError):
        _parse([b"x" * 1000] * 70)


def test_messages_before_the_malformed_one_are_handed_over() -> None:
    events: list[Event] = []
    parser = Parser(lambda *message: events.append(message), lambda line: events.append((line,)))
    with pytest.raises(RemoteProtocolError):
        parser.feed(b"MSG a 1 1\r\nx\r\nPING\r\nMSG broken\r\nMSG a 1 1\r\ny\r\n")
    assert events == [(1, b"a", b"", b"x", b""), (b"PING",)]


def test_a_reset_forgets_what_was_incomplete() -> None:
    events: list[Event] = []
    parser = Parser(lambda *message: events.append(message), lambda line: events.append((line,)))
    parser.feed(b"MSG a 1 100\r\nhalf of it")
    parser.reset()
    parser.feed(b"PONG\r\n")
    assert events == [(b"PONG",)]


def test_a_large_message_in_many_pieces_costs_no_time_that_grows_with_their_number() -> None:
    size = 16 * 1024 * 1024
    stream = b"MSG a 1 %d\r\n%b\r\n" % (size, bytes(size))
    pieces = [stream[at : at + 4096] for at in range(0, len(stream), 4096)]
    began = time.process_time()
    assert len(_parse(pieces)) == 1
    assert time.process_time() - began < 1  # joined at each piece it would be 32 GB of copying


# -- header blocks ---------------------------------------------------------------------------------


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"NATS/1.0" + tail))
def test_no_header_block_raises(block: bytes) -> None:
    for name, value in parse_headers(block).items():
        assert isinstance(name, str)
        assert isinstance(value, str)


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"NATS/1.0\r\n\r\n", {}),
        (b"NATS/1.0\r\nA: b\r\nC:d\r\n\r\n", {"A": "b", "C": "d"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503", "Description": ""}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404", "Description": "No Messages"}),
        (b"NATS/1.0 100 Idle\r\nA: b\r\n\r\n", {"Status": "100", "Description": "Idle", "A": "b"}),
        (b"NATS/1.0\r\nA: b: c\r\n\r\n", {"A": "b: c"}),
        (b"NATS/1.0\r\nno colon\r\nA: b", {"A": "b"}),
        (b"", {}),
    ],
)
def test_a_header_block_is_read(block: bytes, headers: dict[str, str]) -> None:
    assert parse_headers(block) == headers
