"""Downgrade: no weaker handshake comes about, whatever is done to what is offered; nothing goes without."""

from __future__ import annotations

import queue
from collections.abc import Callable

import msgpack

from busmesh.errors import BusmeshError
from busmesh.identity.svid import Svid
from busmesh.wire.frame import Kind
from tests.support.mesh import eventually
from tests.threats.middle import Passing, honest
from tests.threats.stage import HEADER, RELAY, REPLY, Stage, statistics
from tests.threats.talker import Change, Talker, talking


def put(old: bytes, new: bytes) -> Change:
    """Write ``new`` where ``old`` stands first."""

    def change(data: bytes) -> bytes:
        assert old in data, "it is not in it, so nothing would be changed"
        return data.replace(old, new, 1)

    return change


#: Of a ClientHello: what is offered, taken out (an extension of a type that nobody knows) or made weaker.
HELLOS: dict[str, Change] = {
    "TLS 1.2 offered": put(b"\x00\x2b\x00\x03\x02\x03\x04", b"\x00\x2b\x00\x03\x02\x03\x03"),
    "TLS 1.0 offered": put(b"\x00\x2b\x00\x03\x02\x03\x04", b"\x00\x2b\x00\x03\x02\x03\x01"),
    "a later version offered": put(b"\x00\x2b\x00\x03\x02\x03\x04", b"\x00\x2b\x00\x03\x02\x03\x05"),
    "versions stripped": put(b"\x00\x2b\x00\x03\x02", b"\xfa\xfa\x00\x03\x02"),
    "an older record": put(b"\x16\x03", b"\x16\x02"),
    "an older hello": lambda data: data[:9] + b"\x03\x01" + data[11:],
    "AES-128 offered": put(b"\x13\x02", b"\x13\x01"),
    "ChaCha20 offered": put(b"\x13\x02", b"\x13\x03"),
    "a suite of TLS 1.2 offered": put(b"\x13\x02", b"\x00\x9c"),
    "no suite offered": put(b"\x13\x02", b"\x00\x00"),
    "key shares stripped": put(b"\x00\x33", b"\xfa\xfa"),
    "groups stripped": put(b"\x00\x0a", b"\xfa\xfa"),
    "the group against quantum computers stripped": lambda data: data.replace(b"\x11\xec", b"\x00\x1d"),
    "signature algorithms stripped": put(b"\x00\x0d", b"\xfa\xfa"),
    "random changed": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "nothing of TLS": lambda data: b"GET / HTTP/1.1\r\n\r\n",
    "nothing": lambda data: b"",
}
#: Of the flight that answers.
FLIGHTS: dict[str, Change] = {
    "TLS 1.2 chosen": put(b"\x00\x2b\x00\x02\x03\x04", b"\x00\x2b\x00\x02\x03\x03"),
    "version stripped": put(b"\x00\x2b\x00\x02", b"\xfa\xfa\x00\x02"),
    "AES-128 chosen": put(b"\x13\x02", b"\x13\x01"),
    "a suite of TLS 1.2 chosen": put(b"\x13\x02", b"\x00\x9c"),
    "another group chosen": put(b"\x11\xec", b"\x00\x1d"),
    "said to be downgraded": lambda data: data[:35] + b"DOWNGRD\x01" + data[43:],
    "cut": lambda data: data[:-1],
}


def versioned(*version: int) -> Change:
    """Write another version into the message around a flight, or none."""
    return lambda message: msgpack.packb([*version, *msgpack.unpackb(message)[1:]])


ENVELOPES = {f"version {version}": versioned(*version) for version in ((), (0,), (2,), (2**63,))}


def test_t21_versions_and_suites_that_somebody_changes(stage: Stage) -> None:
    """No handshake comes to its end in which a version or a suite was changed on the way, either way."""
    evil = stage.svid("evil-0")
    with talking(stage) as talker:
        alter(stage, talker, evil)


def alter(stage: Stage, talker: Talker, evil: Svid) -> None:
    before = statistics(stage.orders, "handshakes")
    assert talker.shake(evil).done, "unchanged it is one"
    assert statistics(stage.orders, "handshakes")["completed"] == before["completed"] + 1
    silent, found = 0, list[str]()
    for table, where in ((HELLOS, "out"), (FLIGHTS, "back"), (ENVELOPES, "envelope")):
        for what, change in table.items():
            try:
                talker.shake(evil, **{where: change})
            except BusmeshError:
                continue
            except queue.Empty:
                silent += 1
            else:
                found.append(what)
    assert found == []
    after = statistics(stage.orders, "handshakes")
    assert after["completed"] == before["completed"] + 1
    assert silent > 0
    assert after["refused"] - before["refused"] >= silent


def changed(way: bytes, out: bool, change: Change) -> Callable[[Passing], list[bytes]]:
    def meddle(message: Passing) -> list[bytes]:
        if message.out is out and message.subject.split(b".")[2:3] == [way]:
            return [change(message.payload)]
        return [message.payload]

    return meddle


def test_t21_downgrade(stage: Stage) -> None:
    """Between two agents no session comes about while somebody changes what they offer or choose."""
    hits = stage.hits()
    strip = changed(
        b"session",
        True,
        lambda data: data.replace(b"\x00\x2b\x00\x03\x02\x03\x04", b"\x00\x2b\x00\x03\x02\x03\x03"),
    )
    choose = changed(
        b"inbox", False, lambda data: data.replace(b"\x00\x2b\x00\x02\x03\x04", b"\x00\x2b\x00\x02\x03\x03")
    )
    for meddle in (strip, choose):
        before = statistics(stage.orders, "handshakes")
        stage.middle.meddle = meddle
        stage.restart_shop()
        with stage.caller() as caller:
            assert caller.call("/", x_id="t21")[0] == 503
        assert statistics(stage.shop, "sessions")["failures"] >= 1
        after = statistics(stage.orders, "handshakes")
        assert after["completed"] == before["completed"]
        if meddle is strip:
            assert after["refused"] - before["refused"] >= 1
        stage.middle.meddle = honest
        with stage.caller() as caller:
            eventually(lambda caller=caller: caller.call("/")[0] == 200, "without the attack it comes about")
    assert stage.hits() == hits


def test_t21_what_is_not_sealed_is_refused(stage: Stage) -> None:
    hits, before = stage.hits(), statistics(stage.orders, "inbound")
    plain = b"GET / HTTP/1.1\r\nHost: orders\r\nx-id: t21\r\n\r\n"
    others = [HEADER.pack(version, Kind.REQUEST, 1, 0, 1) + plain for version in range(256) if version != 1]
    for payload in [plain, *others, b"", b"\x01"]:
        stage.rogue.publish(RELAY, payload, reply=REPLY.encode())
    for session in range(25):
        stage.rogue.publish(RELAY, HEADER.pack(1, Kind.REQUEST, session, 0, 1) + plain, reply=REPLY.encode())
    stage.rogue.flush()
    expected = {"bad_frames": before["bad_frames"] + 258, "unknown_sessions": before["unknown_sessions"] + 25}
    eventually(lambda: expected.items() <= statistics(stage.orders, "inbound").items(), "each is counted")
    assert stage.hits() == hits
