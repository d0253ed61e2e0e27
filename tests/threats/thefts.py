"""What may be tried with the bus login of another service and nothing else."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import suppress

import msgpack

from busmesh.identity.fields import pack
from busmesh.wire.frame import Kind
from tests.security.rogue import NO_RESPONDERS
from tests.support.mesh import eventually
from tests.threats.stolen import ANSWER, INBOX, OWN, RELAY, ROOT, SESSION, Stolen
from tests.threats.thief import (
    HEADER,
    TIMES,
    altered,
    at_once,
    genuine,
    inbox_of,
)


def told_to_the_caller(stage: Stolen) -> int:
    made = altered(stage)
    for _ in range(TIMES):
        stage.thief.publish(f"{inbox_of(stage, 'orders')}.parcel-0", made)
    return TIMES


def answers_of_before(stage: Stolen) -> int:
    old = stage.recorded(f"{ROOT}.reply.shop-0.0.orders-0")[-TIMES:]
    for heard in old:
        stage.thief.publish(ANSWER, heard.payload)
    return len(old)


def frames_of_before(stage: Stolen) -> int:
    old = stage.recorded(RELAY, "shop-0")[-TIMES:]
    for heard in old:
        stage.thief.publish(RELAY, heard.payload, reply=heard.reply.encode())
    return len(old)


def another_answer(session: int, counter: int, stream: int) -> list[tuple[str, bytes, bytes]]:
    head = HEADER.pack(1, Kind.RESPONSE, session, counter, stream)
    return [(ANSWER, b"", head + bytes(40)), (ANSWER, b"", head + b"HTTP/1.1 200 OK\r\n\r\n" * 4)]


def restarted(session: int, counter: int, stream: int) -> list[tuple[str, bytes, bytes]]:
    frame = HEADER.pack(1, Kind.UNKNOWN_SESSION, session, 0, stream)
    return [(ANSWER, b"", frame), (f"{ROOT}.reply.shop-0.0._{stream}.parcel-0", b"", frame)]


def ended(session: int, counter: int, stream: int) -> list[tuple[str, bytes, bytes]]:
    """Frames for the very stream that is under way, to the service."""
    return [
        (RELAY, b"", HEADER.pack(1, kind, session, counter + 10**6, stream) + bytes(40))
        for kind in (Kind.RESET, Kind.END, Kind.CREDIT, Kind.DATA, Kind.PROBE)
    ]


def nobody_there(stage: Stolen) -> int:
    """ "Nobody listens", as the bus says it, for each request under way."""
    before = len(stage.recorded(ANSWER))
    act = at_once(
        lambda session, counter, stream: [
            (ANSWER, NO_RESPONDERS, b""),
            (f"{ROOT}.reply.shop-0.0._{stream}.parcel-0", NO_RESPONDERS, b""),
            (f"{inbox_of(stage, 'orders')}.parcel-0", NO_RESPONDERS, b""),
        ]
    )
    act(stage)
    eventually(lambda: len(stage.recorded(ANSWER)) - before >= 100, "what is sent has passed")
    return 0


def opening_of_before(stage: Stolen) -> int:
    """Both messages of a handshake that the caller has made."""
    old = stage.recorded(SESSION, "shop-0")
    assert len(old) >= 2
    for heard in old * 10:
        stage.thief.publish(SESSION, heard.payload, reply=INBOX.encode())
    eventually(lambda: bool(stage.recorded(f"{INBOX}.orders-0")), "it is answered as another's would be")
    return 10


def opening_answered_elsewhere(stage: Stolen) -> int:
    """The service answers a handshake that nobody began where the caller hears answers."""
    [first, *_] = stage.recorded(SESSION, "shop-0")
    to = inbox_of(stage, "orders").replace("who.default-orders", "0123456789abcdef")
    for _ in range(20):
        _, identifier, data = msgpack.unpackb(first.payload)
        hello = msgpack.packb([1, identifier[:8] + struct.pack("!Q", time.monotonic_ns()), data])
        stage.thief.publish(SESSION, hello, reply=to.encode())
    eventually(lambda: len(stage.recorded(f"{to}.orders-0")) >= 20, "the service has answered")
    return 0


def answers_that_it_may_not_give(stage: Stolen) -> int:
    """The service is asked to answer where the server does not let it."""
    for _ in range(TIMES):
        for subject in (f"{ROOT}.who.default.orders", RELAY):
            stage.thief.publish(subject, bytes(HEADER.size), reply=f"{ROOT}.inbox.shop-0".encode())
    eventually(lambda: "inbox.shop-0.orders-0" in stage.orders.agent.stderr, "the server denies it")
    return 0


def notice_to_the_caller(stage: Stolen) -> int:
    """The service says "unknown session" to whom the thief names."""
    for number in range(20):
        frame = HEADER.pack(1, Kind.REQUEST, 17 + number, 0, number) + bytes(20)
        stage.thief.publish(RELAY, frame, reply=f"{ROOT}.reply.shop-0.0._{number}".encode())
    return 20


def asked_for_the_caller(stage: Stolen) -> int:
    """The service answers "who?" to the caller's own inbox, again and again."""
    inbox = inbox_of(stage, "orders").encode()
    for _ in range(TIMES):
        stage.thief.publish(f"{ROOT}.who.default.orders", reply=inbox)
    return TIMES - 2  # one may come as news, as the announcement of this second


def through_the_log(*targets: str) -> Callable[[Stolen], int]:
    """JetStream answers wherever it is told to, also where the thief may not publish."""

    def act(stage: Stolen) -> int:
        for target in targets:
            for stream in ("POLICY", "TRUST"):
                for verb, question in (("INFO", b""), ("MSG.GET", b'{"seq":1}'), ("MSG.GET", b"{")):
                    for _ in range(5):
                        api = f"{ROOT}.logs.STREAM.{verb}.BUSMESH_local_{stream}"
                        stage.thief.publish(api, question, reply=target.encode())
        count = 30 * len(targets)
        eventually(lambda: arrived(stage, targets) >= count, "JetStream has answered there")
        return count

    return act


def arrived(stage: Stolen, targets: tuple[str, ...]) -> int:
    return sum(h.subject in targets and b"io.nats.jetstream.api" in h.payload for h in list(stage.wire))


def unheeded(act: Callable[[Stolen], int]) -> Callable[[Stolen], int]:
    """Do it where nobody counts: that it arrived is shown by ``act`` itself."""

    def quiet(stage: Stolen) -> int:
        act(stage)
        return 0

    return quiet


def flood(stage: Stolen) -> int:
    frame = HEADER.pack(1, Kind.REQUEST, 1, 0, 1) + bytes(40)
    for _ in range(2000):
        stage.thief.publish(RELAY, frame)
        stage.thief.publish(SESSION, b"junk", reply=INBOX.encode())
        stage.thief.publish(OWN, b"junk")
        stage.thief.publish(f"{ROOT}.who.default.orders", reply=INBOX.encode())
    return 2000


def odd_subjects(stage: Stolen) -> int:
    """Names that are wildcards, have dots or blanks, or make the server close the connection."""
    long = "orders-0." + "x" * 5000
    for name in ("*", ">", "orders-0.*", "orders-0.99", "orders-0 x", "a..b", "ORDERS-0", long):
        with stage.another() as other:
            for kind in ("relay", "session", "who.default", "evidence.default"):
                with suppress(OSError):  # it was cut off
                    other.publish(f"{ROOT}.{kind}.{name}", b"x")
            eventually(lambda: bool(other.errors), f"{name[:20]!r} is refused in part at least")
    return 0


def stand_between(stage: Stolen) -> int:
    """Listen in the service's place, by a group of which the bus serves one, to what may be heard."""
    for subject in ("member.*.*.*", "evidence.*.*.*", "policy.revision", "trust.entry", "roll"):
        stage.thief.subscribe(f"{ROOT}.{subject}", "orders")

    def said() -> int:
        [sequence] = [
            m["sequence"] for m in stage.shop.page("/members")["members"] if m["service"] == "orders"
        ]
        return int(sequence)

    before = said()
    eventually(lambda: said() > before, "what the service announces is heard")
    return 0


def renewed_in_its_name(stage: Stolen) -> int:
    """Its certificate, taken from the bus, over a request that it has not signed."""
    certificate = msgpack.unpackb(genuine(stage))[1]
    for _ in range(20):
        request = pack(certificate, int(time.time() * 1000), pack(b"csr", b""), b"signature")
        stage.thief.publish(f"{ROOT}.authority.renew", request, reply=f"{INBOX}.renewed".encode())

    def answers() -> list[bytes]:
        return [heard.payload for heard in stage.recorded(f"{INBOX}.renewed")]

    eventually(lambda: len(answers()) >= 20, "the authority answers")
    assert set(answers()) == {pack(b"")}, "denied, each of them"
    return 0
