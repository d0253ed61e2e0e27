"""Waiting until the agents have said what they make of a revision."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection

from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError
from busmesh.identity.signed import open_signed
from busmesh.identity.verify import Verifier
from busmesh.members.acknowledgement import PURPOSE, Acknowledgement, decode
from busmesh.members.announcement import Announcement, Refused
from busmesh.names import ServiceName, Subjects
from busmesh.policy.revision import Revision

#: Older ones were recorded and are being replayed.
MAX_AGE_S = 15.0


class Acknowledgements:
    """What the expected agents say of one revision.

    An acknowledgement counts if the instance itself signed it: a forger cannot make a revision look applied.

    Attributes:
        applied: who has exactly this revision in force.
        rejected: who refused it, and why.
        dropped: acknowledgements that proved nothing.
    """

    def __init__(self, verifier: Verifier, revision: Revision, expected: Collection[Announcement]) -> None:
        self._verifier = verifier
        self._revision = revision
        self._awaited = {(member.name, member.instance) for member in expected}
        self._complete = asyncio.Event()
        self.applied: set[tuple[ServiceName, str]] = set()
        self.rejected: dict[tuple[ServiceName, str], Acknowledgement] = {}
        self.dropped = 0
        self._look()

    def __repr__(self) -> str:
        return (
            f"<Acknowledgements revision={self._revision.number} applied={len(self.applied)}"
            f" rejected={len(self.rejected)} awaited={len(self._awaited)} dropped={self.dropped}>"
        )

    @property
    def complete(self) -> bool:
        """Whether every expected agent has said something."""
        return self._complete.is_set()

    async def wait(self, timeout: float) -> bool:
        """Wait until all is said, at most ``timeout`` seconds; say whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._complete.wait()
        return self.complete

    def hear(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take one message from the bus."""
        self.take(payload, time.time())

    def take(self, payload: bytes, now: float) -> None:
        """Take one signed acknowledgement, from anybody; ``now`` in unix seconds."""
        try:
            signed = open_signed(payload, PURPOSE, self._verifier, now, max_age=MAX_AGE_S)
            said = decode(signed.body)
        except BusmeshError:
            self.dropped += 1
            return
        signer = signed.signer.id
        if signer.service is None:
            self.dropped += 1
            return
        who = (signer.service, signer.instance)
        if said.revision != self._revision.number or who not in self._awaited:
            return  # of an earlier revision, or of an agent that came meanwhile: true, and not asked for
        if said.state == "rejected":
            self.rejected[who] = said
        elif said.digest == self._revision.digest:
            self.applied.add(who)
            self.rejected.pop(who, None)  # it read the log again, and then it fitted
        self._look()

    def told(self, member: Announcement) -> Announcement:
        """Return what ``member`` would announce now, by what it has acknowledged since."""
        who = (member.name, member.instance)
        number, digest = self._revision.number, self._revision.digest
        if who in self.applied:
            return member.model_copy(update={"revision": number, "digest": digest, "refused": None})
        if who in self.rejected:
            said = self.rejected[who]
            refused = Refused(revision=number, code=said.code, reason=said.reason)
            return member.model_copy(update={"refused": refused})
        return member

    def _look(self) -> None:
        if self._awaited <= self.applied | self.rejected.keys():
            self._complete.set()


@contextlib.asynccontextmanager
async def listening(
    bus: Bus, subjects: Subjects, verifier: Verifier, revision: Revision, expected: Collection[Announcement]
) -> AsyncIterator[Acknowledgements]:
    """Hear acknowledgements of ``revision`` while the block lasts; begin before it is published."""
    heard = Acknowledgements(verifier, revision, expected)
    number = await bus.subscribe(subjects.acks, heard.hear)
    try:
        await bus.round_trip()  # the server knows of the subscription
        yield heard
    finally:
        await bus.unsubscribe(number)
