"""Which authorities are there: one question on the bus, and a signed answer of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError, IdentityError
from busmesh.identity.profile import Kind, kind_of
from busmesh.identity.signed import UNTIMELY, open_signed
from busmesh.identity.verify import Verifier
from busmesh.members.presence import PURPOSE, Presence, decode
from busmesh.names import Subjects

#: An authority signs anew each second. What is older was recorded and is being replayed.
MAX_AGE_S = 5.0
#: Seconds in which answers are taken, as for the roll call.
ASK_S = 0.4


@dataclass(frozen=True, slots=True)
class Attending:
    """One authority that answered.

    Attributes:
        name: its own, the last part of its SPIFFE ID.
        presence: what it says of itself.
        told: when it signed that, by its own clock, in unix seconds.
    """

    name: str
    presence: Presence
    told: float


@dataclass(frozen=True, slots=True)
class Attended:
    """Who answered.

    Attributes:
        authorities: by name.
        dropped: answers that proved nothing.
        astray: how many of those were dropped for their time: replayed, or of a clock that is off.
    """

    authorities: tuple[Attending, ...] = ()
    dropped: int = 0
    astray: int = 0


async def ask_authorities(bus: Bus, subjects: Subjects, *, timeout: float = ASK_S) -> list[bytes]:
    """Ask who is there, and return what came within ``timeout`` seconds, believed in nothing yet.

    Raises:
        BusUnavailable: the bus was lost meanwhile.
        Denied: the login is one of a kind that may not ask.
    """
    return [answer.payload for answer in await bus.gather(subjects.attendance, timeout=timeout)]


def read_presences(answers: Iterable[bytes], verifier: Verifier, now: float) -> Attended:
    """Return what ``answers`` prove; of two by one authority the later counts.

    Args:
        answers: from the bus; believed in nothing.
        verifier: holds the roots of the mesh.
        now: unix seconds.
    """
    found: dict[str, Attending] = {}
    dropped = astray = 0
    for answer in answers:
        try:
            signed = open_signed(answer, PURPOSE, verifier, now, max_age=MAX_AGE_S)
            if kind_of(signed.signer.id) is not Kind.AUTHORITY:
                raise IdentityError(f"{signed.signer.id} is no authority", code="BM4204")
            said = Attending(signed.signer.id.authority, decode(signed.body), signed.time_ms / 1000)
        except BusmeshError as error:
            dropped += 1
            astray += error.code == UNTIMELY
            continue
        known = found.get(said.name)
        if known is None or known.told < said.told:
            found[said.name] = said
    return Attended(tuple(found[name] for name in sorted(found)), dropped, astray)
