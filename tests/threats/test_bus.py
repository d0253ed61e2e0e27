"""Threats from whoever has all rights on the bus: registrations, policies, answers, replays, changes."""

from __future__ import annotations

import time
from itertools import count

import msgpack

from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.store import Home
from busmesh.identity.verify import Verifier
from busmesh.members import announcement
from tests.security.rogue import Rogue
from tests.support.damage import bombs
from tests.support.mesh import eventually
from tests.threats.middle import Passing
from tests.threats.stage import HEADER, MEMBER, MESH, RELAY, REPLY, Stage

NUMBERS = count()


def identifier() -> str:
    return f"threat-{next(NUMBERS)}"


def test_t01_fake_registration(stage: Stage) -> None:
    [genuine, *_] = stage.record(MEMBER, lambda: None)
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
    eventually(lambda: len(stage.record(MEMBER, lambda: None)) > 0, "the instance has spoken again")

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


def test_t03_fake_or_swapped_response(stage: Stage) -> None:
    with stage.caller() as caller:
        [old, *_] = stage.record(REPLY, lambda: caller.call("/", x_id="old"))

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


SHARED = """\
apiVersion: busmesh/v1
kind: RateLimit
metadata: {name: orders}
spec:
  host: orders
  limits: [{name: all, requests: 1000000, scope: mesh}]
"""
EVIDENCE = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 5, sharedEvidence: {quorumPercent: 50}}
"""


def counted(stage: Stage) -> dict[str, int]:
    """Return how many messages were refused, by the subject on which they came."""
    orders, shop = stage.orders.page("/members")["statistics"], stage.shop.page("/members")["statistics"]
    policies, breakers = stage.shop.page("/policies"), stage.shop.page("/breakers")
    return {
        "member.default.orders.orders-0": shop["forged"],
        "policy.revision": policies["forged"],
        "policy.dryrun": policies["dry_run"]["forged"],
        "session.orders-0": orders["handshakes"]["refused"],
        "relay.orders-0": orders["inbound"]["bad_frames"] + orders["inbound"]["unknown_sessions"],
        "reply.shop-0.0.orders-0": shop["outbound"]["bad_frames"] + shop["outbound"]["late_replies"],
        "limits.default.orders.orders-1": stage.orders.page("/breakers")["sharing"]["forged"],
        "evidence.default.orders.evil-0": breakers["evidence"]["forged"],
    }


def test_t18_msgpack_bombs(stage: Stage) -> None:
    """Each is refused and counted where it came; what each costs is in tests/proofs/proof_bombs.py."""
    stage.mesh.publish(SHARED, EVIDENCE)
    with stage.caller() as caller:
        eventually(lambda: caller.call("/")[0] == 200 and listens(stage), "reports are listened to")
        for size in (48, 8000, 65_000):
            before, sent = counted(stage), bombs(size)
            for subject in before:
                for bomb in sent:
                    stage.rogue.publish(
                        f"busmesh.local.{subject}", bomb, reply=b"busmesh.local.inbox.rogue.1"
                    )
            stage.rogue.flush()
            least = {subject: count + len(sent) for subject, count in before.items()}
            eventually(lambda least=least: reached(counted(stage), least), f"all of {size} bytes are counted")
        for bomb in bombs(1_000_000):  # what the bus carries at most
            stage.rogue.publish(RELAY, bomb)
            stage.rogue.flush()
        assert caller.call("/")[0] == 200
    assert stage.orders.agent.running
    assert stage.shop.agent.running


def reached(now: dict[str, int], least: dict[str, int]) -> bool:
    return all(now[name] >= count for name, count in least.items())


def listens(stage: Stage) -> bool:
    """Say whether both agents hear of shared limits and of evidence."""
    heard = {each["subject"] for each in stage.bus.monitor("subsz?subs=1&limit=10000")["subscriptions_list"]}
    return {f"busmesh.local.{kind}.default.orders.*" for kind in ("limits", "evidence")} <= heard


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
