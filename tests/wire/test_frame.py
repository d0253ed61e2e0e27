"""Sealed frames: what was not sealed by the peer, for this session, this once, has no effect."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from busmesh.names import ServiceName, SpiffeId
from busmesh.wire.frame import (
    HEADER_SIZE,
    MAX_FRAMES,
    OVERHEAD,
    TAG_SIZE,
    FrameError,
    Kind,
    Session,
    read_header,
    unknown_session,
)

SEALED = [kind for kind in Kind if kind is not Kind.UNKNOWN_SESSION]
_WEB = SpiffeId.workload("local", ServiceName("web"), "web-0")
_ORDERS = SpiffeId.workload("local", ServiceName("orders"), "orders-0")


def _pair(number: int = 7, salt: int = 0) -> tuple[Session, Session]:
    """Both ends of one session; ``salt`` makes other keys."""
    there = (bytes([1 + salt]) * 32, bytes([2 + salt]) * 12)
    back = (bytes([3 + salt]) * 32, bytes([4 + salt]) * 12)
    return (
        Session(number, _ORDERS, send=there, receive=back, started=100.0),
        Session(number, _WEB, send=back, receive=there, started=100.0),
    )


def _open(session: Session, frame: bytes) -> bytes:
    """Open as the agents do: the header first, unauthenticated, then all of it."""
    _, number, counter, _ = read_header(frame)
    if number != session.number:
        raise FrameError("another session")
    return session.open(frame, counter)


@given(kind=st.sampled_from(SEALED), stream=st.integers(0, 2**64 - 1), plaintext=st.binary(max_size=300))
def test_what_one_side_seals_the_other_opens_once(kind: Kind, stream: int, plaintext: bytes) -> None:
    one, other = _pair()
    frame = one.seal(kind, stream, plaintext)
    assert len(frame) == len(plaintext) + OVERHEAD
    assert read_header(frame) == (kind, 7, 0, stream)
    assert _open(other, frame) == plaintext
    with pytest.raises(FrameError, match="came before"):
        _open(other, frame)


@pytest.mark.parametrize("kind", SEALED)
def test_every_single_bit_counts(kind: Kind) -> None:
    one, other = _pair()
    frame = one.seal(kind, 12345, b"the plaintext of a frame")
    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            _open(other, bytes(flipped))
    assert _open(other, frame) == b"the plaintext of a frame", "forgeries must not move the window"


@pytest.mark.parametrize("kind", SEALED)
def test_a_frame_cut_short_or_made_longer_is_refused(kind: Kind) -> None:
    one, other = _pair()
    frame = one.seal(kind, 1, b"plaintext")
    for size in range(len(frame)):
        with pytest.raises(FrameError):
            _open(other, frame[:size])
    for tail in (b"\0", b"x" * TAG_SIZE):
        with pytest.raises(FrameError):
            _open(other, frame + tail)
    assert _open(other, frame) == b"plaintext"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_open_nothing(data: bytes) -> None:
    _, other = _pair()
    with pytest.raises(FrameError):
        _open(other, data)
    assert other.window.highest == -1


def test_the_frame_of_another_session_is_refused() -> None:
    one, _ = _pair(7)
    _, same_number = _pair(7, salt=10)
    _, both_other = _pair(8, salt=20)
    frame = one.seal(Kind.REQUEST, 1, b"x")
    for session in (same_number, both_other):
        with pytest.raises(FrameError):
            session.open(frame, 0)
    renumbered = frame[:2] + struct.pack("!Q", 8) + frame[10:]
    with pytest.raises(FrameError):
        _open(both_other, renumbered)


def test_a_frame_is_no_answer_to_itself() -> None:
    one, _ = _pair()
    frame = one.seal(Kind.REQUEST, 1, b"x")
    with pytest.raises(FrameError):
        _open(one, frame)


def test_parts_of_two_frames_are_no_frame() -> None:
    one, other = _pair()
    first, second = one.seal(Kind.REQUEST, 1, b"first"), one.seal(Kind.REQUEST, 2, b"other")
    with pytest.raises(FrameError):
        _open(other, first[:HEADER_SIZE] + second[HEADER_SIZE:])
    with pytest.raises(FrameError):
        _open(other, first[:-TAG_SIZE] + second[-TAG_SIZE:])


def test_the_counter_that_is_opened_is_the_one_that_was_sealed() -> None:
    one, other = _pair()
    frame = one.seal(Kind.REQUEST, 1, b"x")
    with pytest.raises(FrameError):
        other.open(frame, 5)


def test_frames_that_arrive_in_any_order_are_opened_once_each() -> None:
    one, other = _pair()
    frames = [one.seal(Kind.REQUEST, n, b"%d" % n) for n in range(100)]
    for n in [*range(0, 100, 2), *range(1, 100, 2)]:
        assert _open(other, frames[n]) == b"%d" % n
    for frame in frames:
        with pytest.raises(FrameError):
            _open(other, frame)


@pytest.mark.parametrize("start", [2**32 - 3, 2**24 - 3, 2**63])
def test_counters_go_on_across_powers_of_two(start: int) -> None:
    one, other = _pair()
    one.sent = start
    nonces = set()
    for n in range(8):
        frame = one.seal(Kind.REQUEST, n, b"x")
        assert read_header(frame)[2] == start + n
        assert _open(other, frame) == b"x"
        nonces.add(_nonce(one, start + n))
        with pytest.raises(FrameError):
            _open(other, frame)
    assert len(nonces) == 8


def _nonce(session: Session, counter: int) -> bytes:
    return (session._send_iv ^ counter).to_bytes(12)


def test_no_nonce_comes_twice_with_one_key() -> None:
    """Ten thousand frames in each direction: the nonces that the cipher got, per key."""
    used: set[tuple[bytes, bytes]] = set()

    class Recording:
        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, AESGCM(key)

        def encrypt(self, nonce: Any, data: Any, associated_data: Any) -> bytes:
            assert (self._key, nonce) not in used
            used.add((self._key, nonce))
            return self._cipher.encrypt(nonce, data, associated_data)

    one, other = _pair()
    one._seal, other._seal = Recording(b"\1" * 32).encrypt, Recording(b"\3" * 32).encrypt
    for n in range(10_000):
        one.seal(Kind.REQUEST, n, b"")
        other.seal(Kind.RESPONSE, n, b"")
    assert len(used) == 20_000


def test_the_nonce_and_the_sealing_are_those_of_the_specification() -> None:
    """Header as associated data, IV xor counter as nonce (RFC 8446 section 5.3): made here by hand."""
    one, _ = _pair()
    one.sent = 258
    header = struct.pack("!BBQQQ", 1, Kind.REQUEST, 7, 258, 9)
    nonce = b"\2" * 10 + b"\3\0"
    assert one.seal(Kind.REQUEST, 9, b"text") == header + AESGCM(b"\1" * 32).encrypt(nonce, b"text", header)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_told_apart(version: int) -> None:
    one, _ = _pair()
    frame = bytes([version]) + one.seal(Kind.REQUEST, 1, b"x")[1:]
    with pytest.raises(FrameError, match=f"version {version}"):
        read_header(frame)


def test_unknown_session_names_session_and_stream_and_is_not_sealed() -> None:
    notice = unknown_session(7, 99)
    assert read_header(notice) == (Kind.UNKNOWN_SESSION, 7, 0, 99)
    assert len(notice) == HEADER_SIZE
    _, other = _pair()
    with pytest.raises(FrameError):
        _open(other, notice)


def test_both_sides_read_the_same_clock() -> None:
    one, other = _pair()
    assert one.now_ms(101.5) == other.now_ms(101.5) == 1500


def test_a_session_is_spent_in_time() -> None:
    one, _ = _pair()
    one.sent = MAX_FRAMES - 1
    assert not one.spent
    one.seal(Kind.REQUEST, 1, b"")
    assert one.spent


def test_a_session_shows_who_it_is_with_and_no_key() -> None:
    one, other = _pair()
    _open(other, one.seal(Kind.REQUEST, 1, b""))
    assert repr(other) == f"<Session 7 with {_WEB} sent=0 received=1>"
    assert "sent=1" in repr(one)
