"""What a thief does, and the proof that it did it without effect."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import msgpack

from busmesh.identity.fields import pack
from busmesh.members.announcement import State, encode
from tests.support.mesh import eventually
from tests.threats.stolen import CALLS, RELAY, ROOT, Calls, Heard, Stolen

HEADER = struct.Struct("!BBQQQ")
TIMES = 200

#: Where what came is counted when it is refused.
FORGED = "shop/members:statistics.forged"
STALE = "shop/members:statistics.stale"
FRAMES = "orders/members:statistics.inbound.bad_frames"
ANSWERS = "shop/members:statistics.outbound.bad_frames shop/members:statistics.outbound.late_replies"
HANDSHAKES = "orders/members:statistics.handshakes.refused"


@dataclass(frozen=True)
class Attack:
    """One thing that the thief does.

    Attributes:
        name: what that is.
        act: does it, and returns how many messages are to be refused.
        counted: where they are.
        meanwhile: whether the caller can go on while it is done.
    """

    name: str
    act: Callable[[Stolen], int]
    counted: str
    meanwhile: bool = True


def repeat(subject: str, payload: Callable[[Stolen], bytes], **more: bytes) -> Callable[[Stolen], int]:
    """Send the same message many times."""

    def act(stage: Stolen) -> int:
        made = payload(stage)
        for _ in range(TIMES):
            stage.thief.publish(subject, made, **more)
        return TIMES

    return act


def junk(stage: Stolen) -> bytes:
    return msgpack.packb([1, b"certificate", 1, b"body", b"signature"])  # type: ignore[no-any-return]


def genuine(stage: Stolen) -> bytes:
    return stage.announced()[0]


def altered(stage: Stolen) -> bytes:
    """The service's own certificate, under words of another."""
    sealed, said = stage.announced()
    certificate, signature = msgpack.unpackb(sealed)[1::3]
    worse = said.model_copy(update={"sequence": said.sequence + 10**6, "weight": 0, "state": State.LEFT})
    return pack(certificate, int(time.time() * 1000), encode(worse), signature)


def inbox_of(stage: Stolen, service: str) -> str:
    """Return where the caller hears who serves ``service``; it has asked the thief's agent as well."""
    asked = f"{ROOT}.who.default.parcel"
    known = stage.recorded(asked, "shop-0")[-1].reply
    return f"{known.removesuffix('default-parcel')}default-{service}"


def at_once(make: Callable[[int, int, int], list[tuple[str, bytes, bytes]]]) -> Callable[[Stolen], int]:
    """Answer each request of the caller, on the bus, before its own answer is there.

    Args:
        make: returns (subject, header block, payload) of what is sent, by session, counter and stream.
    """

    def act(stage: Stolen) -> int:
        sent = 0

        def watch(heard: Heard) -> None:
            nonlocal sent
            if heard.subject == RELAY and "shop-0" in heard.reply and len(heard.payload) > HEADER.size:
                _, _, session, counter, stream = HEADER.unpack_from(heard.payload)
                for subject, headers, payload in make(session, counter, stream):
                    stage.thief.publish(subject, payload, headers=headers)
                    sent += 1

        with stage.watching(watch), stage.calling() as calls:
            pass
        assert calls.wrong == []
        assert sent >= 100
        return sent

    return act


def attempt(stage: Stolen, attack: Attack, *, besides: tuple[str, ...] = ()) -> None:
    """Attack while the caller's client goes on, and compare everything before and after.

    Args:
        stage: what stands.
        attack: what is done.
        besides: parts of the view that change rightly.
    """
    before, counted = stage.view(), stage.counted(attack.counted)
    with stage.calling() if attack.meanwhile else nullcontext(Calls()) as calls:
        refused = attack.act(stage)
        if not stage.thief.closed:
            stage.thief.flush()
    eventually(lambda: stage.counted(attack.counted) - counted >= refused, f"{refused} were refused")
    with stage.calling() as after:
        pass
    assert (calls.wrong, after.wrong) == ([], [])
    assert len(calls.names) == CALLS or not attack.meanwhile
    assert len(after.names) == CALLS
    now = stage.view()
    assert {what: now[what] for what in now if what not in besides} == {
        what: before[what] for what in before if what not in besides
    }
    assert stage.hits() == stage.legal
