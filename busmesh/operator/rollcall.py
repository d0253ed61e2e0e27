"""The roll call: one question on the bus, and every agent's signed announcement as the answer.

So an operator needs no registry: what is shown is what answered just now, and each answer proves who gave it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError
from busmesh.identity.signed import UNTIMELY, open_signed
from busmesh.identity.verify import Verified, Verifier
from busmesh.members.announcement import PURPOSE, Announcement, State, decode
from busmesh.names import ServiceName, Subjects

#: Seconds in which answers are taken. An agent answers with what it has signed already, so most come within
#: milliseconds; more is for a bus that is far away, less risks calling an agent missing.
ROLL_CALL_S = 0.4
#: An agent signs anew each second. What is older was recorded and is being replayed.
MAX_AGE_S = 15.0


@dataclass(frozen=True, slots=True)
class RollCall:
    """Who answered.

    Attributes:
        members: one announcement for each instance, by service and instance.
        dropped: answers that proved nothing: forged, of others, malformed, too old, revoked.
        certificates: what each of them proved itself by.
        told: when each of them signed its answer, by its own clock (unix seconds); at most an announcement's
            interval before it was asked.
        astray: how many of those dropped were so for their time: replayed, or of a clock that is off.
    """

    members: tuple[Announcement, ...]
    dropped: int = 0
    certificates: Mapping[tuple[ServiceName, str], Verified] = field(default_factory=dict, repr=False)
    told: Mapping[tuple[ServiceName, str], float] = field(default_factory=dict, repr=False)
    astray: int = 0

    def services(self) -> dict[ServiceName, list[Announcement]]:
        """Return the members by service."""
        found: dict[ServiceName, list[Announcement]] = {}
        for member in self.members:
            found.setdefault(member.name, []).append(member)
        return found

    def live(self) -> dict[ServiceName, list[Mapping[str, str]]]:
        """Return the labels of every instance that serves, for checking what policies refer to."""
        found: dict[ServiceName, list[Mapping[str, str]]] = {}
        for member in self.members:
            if member.serves:
                found.setdefault(member.name, []).append(member.labels)
        return found


async def call_roll(
    bus: Bus, subjects: Subjects, verifier: Verifier, *, timeout: float = ROLL_CALL_S
) -> RollCall:
    """Ask every agent who it is, and take answers for ``timeout`` seconds.

    Raises:
        BusUnavailable: the bus was lost meanwhile.
    """
    answers = await bus.gather(subjects.roll_call, timeout=timeout)
    return read_answers((answer.payload for answer in answers), verifier, time.time())


def read_answers(answers: Iterable[bytes], verifier: Verifier, now: float) -> RollCall:
    """Return what ``answers`` prove; of two for one instance the later counts.

    Args:
        answers: from the bus; believed in nothing.
        verifier: holds the roots of the mesh.
        now: unix seconds.
    """
    newest: dict[tuple[ServiceName, str], Announcement] = {}
    certificates: dict[tuple[ServiceName, str], Verified] = {}
    told: dict[tuple[ServiceName, str], float] = {}
    dropped = astray = 0
    for answer in answers:
        try:
            signed = open_signed(answer, PURPOSE, verifier, now, max_age=MAX_AGE_S)
            announced = decode(signed.body)
        except BusmeshError as error:
            dropped += 1
            astray += error.code == UNTIMELY
            continue
        if not announced.is_by(signed.signer.id):
            dropped += 1
            continue
        key = (announced.name, announced.instance)
        known = newest.get(key)
        if known is None or _age(known) < _age(announced):
            newest[key] = announced
            certificates[key] = signed.signer
            told[key] = signed.time_ms / 1000
    present = (member for _, member in sorted(newest.items()) if member.state is not State.LEFT)
    return RollCall(tuple(present), dropped, certificates, told, astray)


def _age(announced: Announcement) -> tuple[int, int]:
    return announced.incarnation, announced.sequence
