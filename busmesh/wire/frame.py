"""Sealed frames: each message between two agents is encrypted and authenticated by itself.

A frame is a header, which is authenticated but readable, and AES-256-GCM ciphertext::

    version 1 | kind 1 | session 8 | counter 8 | stream 8 | ciphertext | tag 16

The nonce is the direction's IV xor the counter (as TLS 1.3 builds it, RFC 8446 section 5.3); a counter is
never used twice with one key, and :class:`~busmesh.wire.replay.ReplayWindow` never accepts one twice. Keys
come from the session's TLS handshake, one for each direction.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from busmesh.errors import RemoteProtocolError
from busmesh.names import SpiffeId
from busmesh.wire.replay import ReplayWindow

VERSION = 1
_HEADER = struct.Struct("!BBQQQ")
HEADER_SIZE = _HEADER.size
TAG_SIZE = 16
OVERHEAD = HEADER_SIZE + TAG_SIZE
#: A session ends long before AES-GCM's limits do (RFC 8446 section 5.5 allows 2^24.5 full-size records).
MAX_FRAMES = 1 << 24


class Kind(IntEnum):
    """What a frame carries."""

    REQUEST = 1
    RESPONSE = 2
    #: The receiver's agent answers instead of its application.
    REFUSAL = 3
    #: "What became of my request?", asked when an answer is slow.
    PROBE = 4
    PROBE_RESULT = 5
    #: A request or response whose body follows in DATA frames (:mod:`busmesh.wire.stream`).
    REQUEST_OPENING = 6
    RESPONSE_OPENING = 7
    #: A 1xx response; the final one follows.
    INTERIM = 8
    DATA = 9
    #: The body is whole.
    END = 10
    #: The stream is broken off, by either side; nothing follows.
    RESET = 11
    #: How much of the body its receiver takes.
    CREDIT = 12
    #: Not sealed, for its sender has no key: "I know no such session; shake hands again".
    UNKNOWN_SESSION = 0x80


class FrameError(RemoteProtocolError):
    """A frame that is forged, replayed, damaged or of an unknown version; it had no effect."""


def read_header(frame: bytes) -> tuple[int, int, int, int]:
    """Return (kind, session, counter, stream) of a frame, unauthenticated.

    Raises:
        FrameError: too short, or of a version that is not spoken here.
    """
    if len(frame) < HEADER_SIZE:
        raise FrameError("a frame shorter than its header")
    version, kind, session, counter, stream = _HEADER.unpack_from(frame)
    if version != VERSION:
        raise FrameError(f"a frame of version {version}; this agent speaks {VERSION}")
    return kind, session, counter, stream


def unknown_session(session: int, stream: int) -> bytes:
    """The unsealed answer to a frame of a session that is not (or no longer) known."""
    return _HEADER.pack(VERSION, Kind.UNKNOWN_SESSION, session, 0, stream)


class Session:
    """One direction pair of keys between this agent and one peer.

    Attributes:
        number: chosen by the side that accepted the handshake; unique there.
        peer: who the other side proved to be.
        fingerprint: of the certificate by which it did; the session ends when that is revoked.
        window: counters received.
        worker: which process of the peer holds the session; 0 for the first, which is all that most have.
        head: beginning of the publish frame for what is sealed with it, up to the stream number; who opened
            the session sets it.
    """

    __slots__ = (
        "_open",
        "_receive_iv",
        "_seal",
        "_send_iv",
        "_started",
        "fingerprint",
        "head",
        "number",
        "peer",
        "sent",
        "window",
        "worker",
    )

    def __init__(
        self,
        number: int,
        peer: SpiffeId,
        *,
        send: tuple[bytes, bytes],
        receive: tuple[bytes, bytes],
        started: float,
        fingerprint: str = "",
        worker: int = 0,
    ) -> None:
        """``send`` and ``receive`` are (32-byte key, 12-byte IV); ``started`` is in monotonic seconds."""
        self.number = number
        self.peer = peer
        self.fingerprint = fingerprint
        self.worker = worker
        self.head = b""
        self.sent = 0
        self.window = ReplayWindow()
        self._seal = AESGCM(send[0]).encrypt
        self._open = AESGCM(receive[0]).decrypt
        self._send_iv = int.from_bytes(send[1])
        self._receive_iv = int.from_bytes(receive[1])
        self._started = started

    def seal(self, kind: int, stream: int, plaintext: bytes) -> bytes:
        """Return a frame; each call uses up one counter."""
        counter = self.sent
        self.sent = counter + 1
        header = _HEADER.pack(VERSION, kind, self.number, counter, stream)
        return header + self._seal((self._send_iv ^ counter).to_bytes(12), plaintext, header)

    def open(self, frame: bytes, counter: int) -> bytes:
        """Return the plaintext of a frame whose header :func:`read_header` has read.

        Raises:
            FrameError: the frame was not sealed by the peer for this session, or it came before.
        """
        try:
            nonce = (self._receive_iv ^ counter).to_bytes(12)
            plaintext = self._open(nonce, frame[HEADER_SIZE:], frame[:HEADER_SIZE])
        except InvalidTag:
            raise FrameError("a frame that does not authenticate") from None
        if not self.window.accept(counter):
            raise FrameError("a frame that came before")
        return plaintext

    def now_ms(self, now: float) -> int:
        """Milliseconds since the handshake, at ``now`` (monotonic seconds).

        Both sides start this clock at the caller's last message of the handshake: the caller when it sends,
        the instance when it gets it. So a deadline written in it means the same to both, up to one trip over
        the bus by which it is late to the instance, however wrong their wall clocks are. Never early: the
        instance would then end what its caller still waits for; what is late its caller cancels.
        """
        return int((now - self._started) * 1000)

    @property
    def spent(self) -> bool:
        """True once so many frames were sent that the keys are due for a change."""
        return self.sent >= MAX_FRAMES

    def __repr__(self) -> str:
        return (
            f"<Session {self.number:x} with {self.peer} sent={self.sent} received={self.window.highest + 1}>"
        )
