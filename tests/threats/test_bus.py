"""Threats from whoever has all rights on the bus: registrations, policies, answers, replays, changes."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import Any

import msgpack

from busmesh.identity.revisions import open_revision
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.store import Home
from busmesh.identity.verify import Verifier
from busmesh.members import announcement
from tests.security.rogue import Rogue
from tests.support.mesh import eventually
from tests.threats.middle import Passing, drop, flip, honest, swap
from tests.threats.stage import MEMBER, MESH, RELAY, Stage, cpu_seconds

REPLY = "busmesh.local.reply.shop-0.0.orders-0"
HEADER = struct.Struct("!BBQQQ")
NUMBERS = count()


def identifier() -> str:
    return f"threat-{next(NUMBERS)}"


def record(stage: Stage, subject: str, act: Callable[[], Any], enough: int = 1) -> list[bytes]:
    """Return the payloads heard on ``subject`` while something is done."""
    heard: list[bytes] = []
    with Rogue(stage.bus.port, subject, lambda *message: heard.append(message[3])):
        act()
        eventually(lambda: len(heard) >= enough, f"something is heard on {subject}")
    return heard


def test_t01_fake_registration(stage: Stage) -> None:
    [genuine, *_] = record(stage, MEMBER, lambda: None)
    bundle = Home(stage.mesh.home).trust(MESH)
    said = announcement.decode(open_signed(genuine, "member", Verifier(bundle), time.time()).body)
    stolen = said.model_copy(update={"sequence": said.sequence + 10**6, "weight": 10_000})
    misnamed = seal_signed(stage.svid("evil-0"), "member", announcement.encode(stolen), time.time())
    forged = [
        msgpack.packb([1, b"certificate", 1, b"body", b"signature"]),
        genuine[:-1] + bytes([genuine[-1] ^ 1]),
        misnamed,
        genuine,  # a replay: what was said since then counts
    ]
    eventually(lambda: len(record(stage, MEMBER, lambda: None)) > 0, "the instance has spoken again")

    def refused() -> dict[str, int]:
        said = stage.shop.page("/members")["statistics"]
        return {name: said[name] for name in ("forged", "rejected", "stale")}

    before, endpoints = refused(), stage.shop.page("/members")["endpoints"]
    for _ in range(250):
        for payload in forged:
            stage.rogue.publish(MEMBER, payload)
    stage.rogue.flush()
    eventually(lambda: refused()["forged"] - before["forged"] == 500, "what nobody signed is counted")
    eventually(lambda: refused()["rejected"] - before["rejected"] == 250, "so is who speaks for another")
    assert refused()["stale"] - before["stale"] >= 250
    after = stage.shop.page("/members")["endpoints"]
    assert [e | {"active": 0} for e in after] == [e | {"active": 0} for e in endpoints]


ROUTE = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
  - timeout: %ds
    route:
    - destination: {host: orders}
"""


def test_t02_fake_policy(stage: Stage) -> None:
    revision = "busmesh.local.policy.revision"
    [first, *_] = record(stage, revision, lambda: stage.mesh.publish(ROUTE % 3))
    [second, *_] = record(stage, revision, lambda: stage.mesh.publish(ROUTE % 4))
    bundle = Home(stage.mesh.home).trust(MESH)
    held, _ = open_revision(second, Verifier(bundle), time.time())
    evil, now = stage.svid("evil-0"), time.time()
    made = replace(held, number=held.number + 1, previous=held.digest, time_ms=int(now * 1000))
    next_one = msgpack.packb([1, made.to_plain()])
    forgeries = [
        first,  # older than what is in force
        second,
        second[:-1] + bytes([second[-1] ^ 1]),
        seal_signed(evil, "policy.revision", next_one, now),  # a workload is no operator
        seal_signed(stage.operator(), "member", next_one, now),  # signed for another purpose
        seal_signed(stage.operator(), "policy.revision", next_one, now + 3600),  # from the future
        next_one,
        b"",
    ]
    before = stage.shop.page("/policies")
    for payload in forgeries * 20:
        stage.rogue.publish(revision, payload)
    stage.rogue.flush()
    time.sleep(1)
    assert stage.shop.page("/policies") == before
    assert stage.orders.page("/policies")["digest"] == before["digest"]
    stage.mesh.publish(ROUTE % 5)
    assert stage.shop.page("/policies")["revision"] == before["revision"] + 1, "the honest one still counts"


def test_t03_fake_or_swapped_response(stage: Stage) -> None:
    with stage.caller() as caller:
        [old, *_] = record(stage, REPLY, lambda: caller.call("/", x_id="old"))

        def meddle(message: Passing) -> list[bytes]:
            if message.out or message.subject != REPLY.encode():
                return [message.payload]
            version, kind, session, counter, stream = HEADER.unpack_from(message.payload)
            junk = HEADER.pack(version, kind, session, counter + 10**6, stream) + b"junk" * 20
            moved = HEADER.pack(version, kind, session, counter, stream) + old[HEADER.size :]
            return [junk, moved, old, b"", message.payload]

        stage.middle.meddle = meddle
        before = stage.shop.page("/members")["statistics"]["outbound"]
        for _ in range(100):
            name = identifier()
            status, answer, _ = caller.call("/", x_id=name)
            assert (status, answer["headers"]["x-id"]) == (200, name)
        after = stage.shop.page("/members")["statistics"]["outbound"]
        assert after["bad_frames"] - before["bad_frames"] >= 300
        assert after["in_flight"] == 0


def test_t04_replay(stage: Stage) -> None:
    names = [identifier() for _ in range(50)]

    def call() -> None:
        with stage.caller() as caller:
            for name in names:
                assert caller.call("/", method="POST", body=b"x", x_id=name)[0] == 200

    everything: list[tuple[bytes, bytes, bytes]] = []

    def hear(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if subject.startswith(b"busmesh.") and not headers:
            everything.append((subject, reply, payload))

    with Rogue(stage.bus.port, ">", hear) as rogue:
        call()
        rogue.flush()
    assert len(everything) >= 100

    def replay() -> None:
        for subject, reply, payload in everything:
            stage.rogue.publish(subject, payload, reply=reply)
        stage.rogue.flush()

    for _ in range(3):
        replay()
    stage.restart_orders()  # a new process with new keys
    replay()
    with stage.caller() as caller:
        eventually(lambda: caller.call("/")[0] == 200, "the new process serves")
    assert {name: stage.hits()[name] for name in names} == dict.fromkeys(names, 1)


def test_t06_tampering_reordering_dropping_and_repeating(stage: Stage) -> None:
    """Of each frame of a streamed body every change is found out: no partial body passes for a whole one."""
    body = b"0123456789abcdef" * 64 * 1024  # 1 MiB, in several DATA frames

    def post() -> tuple[int, bool]:
        with closing(http.client.HTTPConnection(stage.shop.outbound, timeout=20)) as connection:
            connection.request("POST", "/", body=body, headers={"Host": "orders", "x-id": identifier()})
            try:
                answer = connection.getresponse()
                data = answer.read()
            except (http.client.HTTPException, OSError):
                return 0, False
            return answer.status, answer.status == 200 and json.loads(data)["echo"].encode() == body

    assert post() == (200, True)
    flips = [flip(RELAY, at) for at in (0, 1, 5, 13, 21, 26, 500, 9_999, -1, -16)]
    for meddle in [*flips, swap(RELAY), drop(RELAY, 1), drop(RELAY, 2)]:
        stage.middle.meddle = meddle
        status, whole = post()
        assert status != 200, "a changed body was taken for a whole one"
        assert not whole
    stage.middle.meddle = lambda message: [message.payload] * 3
    assert post() == (200, True), "repeated frames count once"


def test_t14_subject_injection(stage: Stage) -> None:
    def subscribed() -> list[str]:
        listed = stage.bus.monitor("subsz?subs=1&limit=10000")["subscriptions_list"]
        return [each["subject"] for each in listed]

    before = set(subscribed())
    hosts = ["*", ">", "a.*", "*.b", "a.>", "..", ".", "a..b", "a b", "a\tb", "-", "_", "a" * 64, "a" * 5000]
    hosts += ["a.b.c.d", "orders.default.svc.cluster.local.evil", "ördér", "a\x00b", "$JS.API.>", "x" * 63]
    hosts += [f"{text}.{other}" for text in hosts[:8] for other in hosts[:8]]
    for host in hosts:
        with closing(socket.create_connection(stage.address(), timeout=5)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode("latin-1"))
            assert client.recv(65536).split(b" ", 2)[1] in (b"400", b"404", b"431", b"503"), host
    new = set(subscribed()) - before
    safe = re.compile(r"busmesh\.local\.(member|limits|evidence)\.[a-z0-9-]{1,63}\.[a-z0-9-]{1,63}(\.\*)?")
    assert [subject for subject in new if safe.fullmatch(subject) is None] == []
    with stage.caller() as caller:
        assert caller.call("/")[0] == 200, "the connection to the bus stands"


def _bombs() -> list[bytes]:
    return [
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdd\x00\x0f\x00\x00" + b"\x90" * 0xF0000,
        msgpack.packb([1, b"\x91" * 60_000, 1, b"\x91" * 1000, b""]),
        msgpack.packb({"a": [[[[]]]]}) * 1000,
        b"\xc1" * 1000,
    ]


def test_t18_msgpack_bombs(stage: Stage) -> None:
    """What nobody signed is refused before it is decoded; each costs less than 5 ms of the agent's time."""
    subjects = [
        MEMBER,
        "busmesh.local.policy.revision",
        "busmesh.local.session.orders-0",
        RELAY,
        REPLY,
        "busmesh.local.limits.default.orders.orders-1",
        "busmesh.local.evidence.default.orders.evil-0",
        "busmesh.local.roll",
    ]
    processes = [cpu_seconds(stage.orders.agent.pid), cpu_seconds(stage.shop.agent.pid)]
    sent = 0
    for _ in range(10):
        for subject in subjects:
            for bomb in _bombs():
                if len(bomb) < 500_000 or subject in (MEMBER, RELAY, REPLY):
                    stage.rogue.publish(subject, bomb, reply=b"busmesh.local.inbox.rogue.1")
                    sent += 1
    stage.rogue.flush()
    with stage.caller() as caller:
        assert caller.call("/")[0] == 200
    spent = [cpu_seconds(stage.orders.agent.pid), cpu_seconds(stage.shop.agent.pid)]
    for before, after in zip(processes, spent, strict=True):
        assert (after - before) / sent <= 0.005


def test_t20_no_nonce_is_used_twice(stage: Stage) -> None:
    """Over new processes and new sessions: (session, counter) of one direction never comes again."""
    frames: list[tuple[bytes, bytes]] = []

    def hear(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if len(payload) > HEADER.size and not headers:
            frames.append((subject.split(b".")[2], payload[: HEADER.size]))

    with Rogue(stage.bus.port, "busmesh.local.>", hear) as rogue:
        for number in range(4):
            with stage.caller() as caller:
                for _ in range(250):
                    assert caller.call("/")[0] == 200
            if number < 3:
                stage.restart_shop()
        rogue.flush()
    nonces = []
    for direction, head in frames:
        if direction in (b"relay", b"reply"):
            _, kind, session, counter, _ = HEADER.unpack(head)
            if kind != 0x80:
                nonces.append((direction, session, counter))
    assert {direction for direction, *_ in nonces} == {b"relay", b"reply"}
    assert len(nonces) >= 2000
    assert len(nonces) == len(set(nonces))


def test_t21_downgrade(stage: Stage) -> None:
    """Without a session there is no way in: neither in clear nor by a frame of another version."""
    before = stage.hits()
    payloads = [
        b"GET / HTTP/1.1\r\nHost: orders\r\nx-id: t21\r\n\r\n",
        HEADER.pack(0, 1, 1, 0, 1) + b"x-id: t21" * 10,
        HEADER.pack(2, 1, 1, 0, 1) + b"x-id: t21" * 10,
        HEADER.pack(1, 1, 0, 0, 1) + b"x-id: t21" * 10,
    ]
    for payload in payloads * 25:
        stage.rogue.publish(RELAY, payload, reply=REPLY.encode())
    stage.rogue.flush()

    def strip(message: Passing) -> list[bytes]:
        """Offer TLS 1.2 in the ClientHello, as somebody in between would."""
        if message.out and message.subject.startswith(b"busmesh.local.session."):
            return [message.payload.replace(b"\x03\x04", b"\x03\x03")]
        return [message.payload]

    stage.middle.meddle = strip
    stage.restart_shop()
    with stage.caller() as caller:
        assert caller.call("/", x_id="t21")[0] == 503
    stage.middle.meddle = honest
    with stage.caller() as caller:
        eventually(lambda: caller.call("/")[0] == 200, "without the attack the session comes about")
    assert stage.hits() == before


def test_t22_one_answer_for_all_that_is_not_authentic(stage: Stage) -> None:
    """A bad tag, a replay and a wrong session number are told apart by nobody outside."""
    with stage.caller() as caller:
        [frame, *_] = record(stage, RELAY, lambda: caller.call("/"))
    answers: list[tuple[bytes, bytes]] = []

    def hear(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        answers.append((headers, payload))

    forged = [
        frame,
        frame[:-1] + bytes([frame[-1] ^ 1]),
        frame[: HEADER.size] + bytes(len(frame) - HEADER.size),
        frame[: HEADER.size + 1],
    ]
    with Rogue(stage.bus.port, "busmesh.local.reply.rogue-0.>", hear) as rogue:
        for payload in forged:
            rogue.publish(RELAY, payload, reply=b"busmesh.local.reply.rogue-0.0._1")
        rogue.flush()
        time.sleep(0.3)
        assert answers == [], "silence, whatever is wrong with it"
        # Of a session that is not known an agent says so, unsealed: the answer would have been heard.
        version, kind, number, counter, stream = HEADER.unpack_from(frame)
        unknown = HEADER.pack(version, kind, number ^ 1, counter, stream) + frame[HEADER.size :]
        rogue.publish(RELAY, unknown, reply=b"busmesh.local.reply.rogue-0.0._1")
        rogue.flush()
        eventually(lambda: len(answers) == 1, "what is answered is heard")
