"""The trust log as an operator reads and writes it, and what the agents made of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from busmesh.bus.bus import Bus
from busmesh.bus.policylog import LogUnavailable, RevisionConflict, TrustLog
from busmesh.errors import BusmeshError
from busmesh.identity.trustlog import TrustState, open_entry
from busmesh.identity.verify import Verified, Verifier
from busmesh.members.announcement import Announcement
from busmesh.names import Subjects
from busmesh.operator.rollcall import call_roll

#: Somebody else may append at the same moment; an entry does not care where it stands.
APPEND_TRIES = 20
TELL_EVERY_S = 5.0
#: Is told a member and what it proved itself by; says whether it is as it should be.
Claim = Callable[[Announcement, Verified], bool]


@dataclass(frozen=True, slots=True)
class Heard:
    """Who has what was published.

    Attributes:
        agents: how many answered the last roll call.
        lacking: those of them that do not have it.
        waited: seconds until all had it, or until patience ended.
    """

    agents: int
    lacking: tuple[Announcement, ...]
    waited: float


@dataclass(frozen=True, slots=True)
class TrustView:
    """The log as read: what is believed, and which bundles stand in it."""

    state: TrustState
    versions: frozenset[int]


async def read_trust(bus: Bus, subjects: Subjects, verifier: Verifier) -> TrustView:
    """Let ``verifier`` believe what the log says; what proves nothing is passed over.

    Raises:
        LogUnavailable: no JetStream, or it stopped answering.
    """
    state, versions, trust_log = TrustState(verifier), set(), TrustLog(bus, subjects)
    async for batch in trust_log.batches(0, await trust_log.last()):
        for _, entry in batch:
            with contextlib.suppress(BusmeshError):
                opened = open_entry(entry, verifier, time.time())
                state.take(entry, time.time())
                if opened.bundle is not None:
                    versions.add(opened.bundle.version)
    return TrustView(state, frozenset(versions))


async def publish_entry(bus: Bus, subjects: Subjects, entry: bytes) -> None:
    """Append ``entry`` to the log; agents hear it live as well.

    Raises:
        LogUnavailable: nobody stored it. Agents that are there have heard it all the same, and give it to the
            log when that is back.
    """
    trust_log = TrustLog(bus, subjects)
    try:
        await trust_log.ensure()
        for _ in range(APPEND_TRIES):
            with contextlib.suppress(RevisionConflict):
                await trust_log.append(entry, await trust_log.last() + 1)
                return
    except LogUnavailable:
        bus.publish(subjects.trust, entry)
        raise
    raise LogUnavailable("others append to the trust log without a pause", code="BM3102")


async def confirmed(
    bus: Bus,
    subjects: Subjects,
    verifier: Verifier,
    claim: Claim,
    *,
    wait: float,
    agents: int = 0,
    waiting: Callable[[Heard], None] = lambda heard: None,
) -> Heard:
    """Call the roll until every agent that answers is as ``claim`` says, at most ``wait`` seconds.

    Args:
        agents: so many must answer at least, so that one that is out of reach is not taken for gone.
        waiting: told every 5 s who it is that still lacks it.

    Raises:
        BusUnavailable: the bus was lost meanwhile.
    """
    began = time.monotonic()
    told = 0.0
    while True:
        roll = await call_roll(bus, subjects, verifier)
        lacking = tuple(
            member
            for member in roll.members
            if not claim(member, roll.certificates[member.name, member.instance])
        )
        waited = time.monotonic() - began
        heard = Heard(len(roll.members), lacking, waited)
        if (not lacking and len(roll.members) >= agents) or waited >= wait:
            return heard
        if waited - told >= TELL_EVERY_S:
            told = waited
            waiting(heard)
