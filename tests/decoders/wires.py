"""Decoders of the relay: frames, what is sealed in them, and the messages by which sessions come about."""

from __future__ import annotations

import time
from typing import Any, cast

import msgpack

from busmesh.bus.bus import Bus
from busmesh.decide.authz.paths import readings
from busmesh.errors import RemoteProtocolError
from busmesh.identity.handshake import Handshake
from busmesh.names import SpiffeId
from busmesh.relay.session.accepting import Acceptor
from busmesh.relay.session.handshakes import number_of, unpack, worker_of
from busmesh.relay.tries.streams import decode_interim
from busmesh.wire.frame import FrameError, Kind, Session, read_header, unknown_session
from busmesh.wire.http import (
    FINAL,
    SWITCHING,
    Refusal,
    decode_refusal,
    decode_request,
    decode_response,
    encode_refusal,
    encode_request,
    encode_response,
)
from busmesh.wire.probe import decode_probe, decode_probe_result, encode_probe
from busmesh.wire.stream import (
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
from tests.decoders import world
from tests.decoders.decoder import Decoder
from tests.decoders.world import MESH, ORDERS, ORDERS_SVID, SUBJECTS

_BUS = (RemoteProtocolError,)
_BLOCK = b"Host: orders\r\nX-A: 1\r\nX_B: \xe9\r\n"
MIB = 1024 * 1024


class _Frames:
    """Two ends of a session: frames are sealed at one, and opened once at the other."""

    _HERE, _THERE = (bytes(32), bytes(12)), (bytes([1]) * 32, bytes([2]) * 12)

    def __init__(self) -> None:
        peer = SpiffeId(MESH, ORDERS, "orders-0")
        self._sender = Session(5, peer, send=self._HERE, receive=self._THERE, started=0.0)
        self._receiver = Session(5, peer, send=self._THERE, receive=self._HERE, started=0.0)

    def wrap(self, body: bytes) -> bytes:
        return self._sender.seal(Kind.DATA, 1, body)

    def read(self, data: bytes) -> object:
        kind, number, counter, stream = read_header(data)
        opened = self._receiver.open(data, counter)
        assert (kind, number, stream) == (Kind.DATA, 5, 1)
        return opened


class _Inbox:
    """An instance to which somebody comes with a handshake, and what it answers."""

    def __init__(self) -> None:
        self.connected = True
        self.answers: list[bytes] = []
        self._identity = world.identity(ORDERS_SVID)

    def publish(self, subject: str, payload: bytes) -> None:
        self.answers.append(payload)

    def read(self, data: bytes) -> object:
        self.answers.clear()
        acceptor = Acceptor(cast(Bus, self), SUBJECTS, self._identity, lambda session, fingerprint: None)
        acceptor.on_message(b"", b"busmesh.local.inbox.web-0.a", data, b"")
        return self.answers or None


def _first_flight() -> bytes:
    hello = Handshake.client(world.identity().tls, ORDERS_SVID.id).feed(b"", time.time())
    packed: bytes = msgpack.packb([1, b"i" * 16, hello])
    return packed


_FRAMES, _INBOX = _Frames(), _Inbox()


def _decoder(name: str, read: Any, whole: tuple[bytes, ...], *covers: str, **more: Any) -> Decoder:
    return Decoder(name, read, whole, covers, **{"refuses": _BUS, "cap": MIB, **more})


WIRES = [
    _decoder(
        "sealed frame",
        _FRAMES.read,
        (b"", b"abc"),
        "wire.frame:read_header",
        "wire.frame:Session.open",
        wrap=_FRAMES.wrap,
        refuses=(FrameError,),
    ),
    _decoder(
        "header of a frame",
        read_header,
        (unknown_session(7, 9), bytes([1, Kind.DATA]) + bytes(60)),
        "wire.frame:read_header",
    ),
    _decoder(
        "request",
        decode_request,
        (encode_request(9, 0, b"GET", b"/a?b", _BLOCK, b"body", True),),
        "wire.http:decode_request",
    ),
    _decoder(
        "response",
        lambda data: decode_response(data, FINAL),
        (encode_response(200, b"OK", _BLOCK, b"body"), encode_response(304, b"", b"", b"", 9)),
        "wire.http:decode_response",
    ),
    _decoder(
        "interim response",
        decode_interim,
        (encode_response(103, b"", _BLOCK, b""),),
        "relay.tries.streams:decode_interim",
    ),
    _decoder(
        "switch of protocols",
        lambda data: decode_response(data, SWITCHING),
        (encode_response(101, b"S", _BLOCK, b""),),
        "wire.http:decode_response",
    ),
    _decoder(
        "refusal",
        decode_refusal,
        (encode_refusal(Refusal(False, 503, "UO", "overloaded", "too much é")),),
        "wire.http:decode_refusal",
    ),
    _decoder(
        "opening",
        decode_opening,
        (encode_opening(Opening(9, True, b"a/1"), b"x"), encode_opening(Opening(), b"")),
        "wire.stream:decode_opening",
    ),
    _decoder("part of a body", decode_data, (encode_data(3, b"abc"),), "wire.stream:decode_data"),
    _decoder(
        "end of a body",
        decode_end,
        (encode_end(3, b""), encode_end(4, b"Grpc-Status: 0\r\nX_Own: 1\r\n")),
        "wire.stream:decode_end",
    ),
    _decoder("credit", decode_credit, (encode_credit(1 << 40),), "wire.stream:decode_credit"),
    _decoder("probe", decode_probe, (encode_probe(1 << 40),), "wire.probe:decode_probe"),
    _decoder("result of a probe", decode_probe_result, (b"\0", b"\2"), "wire.probe:decode_probe_result"),
    _decoder(
        "message of a handshake",
        unpack,
        (_first_flight(),),
        "relay.session.handshakes:unpack",
        form="msgpack",
    ),
    _decoder(
        "handshake, as an instance gets it",
        _INBOX.read,
        (_first_flight(),),
        "relay.session.accepting:Acceptor.on_message",
        form="msgpack",
        refuses=(),
    ),
    _decoder(
        "parameters of a session",
        number_of,
        (b"\x81\xa7session\x07", b"\x82\xa7session\x07\xa6worker\x03"),
        "relay.session.handshakes:number_of",
        form="msgpack",
    ),
    _decoder(
        "worker of a caller", worker_of, (b"", b"\x81\xa6worker\x03"), "relay.session.handshakes:worker_of"
    ),
    _decoder(
        "path of a request, under a rule",
        readings,
        (b"/a/../b", b"/%2561;x/.%2e/b"),
        "decide.authz.paths:readings",
        refuses=(),
        cap=65536,
    ),
]
