"""The actor that follows the trust log: live, by gossip, after every reconnect, and every 30 s.

The live message makes a revocation count within milliseconds; the log in JetStream is for who was away; the
copy on each disk is for a bus that has lost its own. What proves nothing is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from busmesh.actors.actor import Actor
from busmesh.bus.bus import Bus
from busmesh.bus.policylog import LogUnavailable, RevisionConflict, TrustLog
from busmesh.errors import BusmeshError, Denied
from busmesh.identity.trustlog import Taken, TrustState, entry_key
from busmesh.identity.verify import Verifier
from busmesh.names import Subjects
from busmesh.telemetry.tally import Tally
from busmesh.trust.store import TrustStore

log = logging.getLogger(__name__)

#: For what was missed in every other way.
REREAD_S = 30.0
#: A member that lies about what it holds makes us read the log no more often than this.
GOSSIP_S = 1.0
REFILL_TRIES = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the log, heard live."""

    entry: bytes


class Follow:
    """Read the log: the bus is back, or somebody holds what we do not."""


class TrustFollower(Actor[Entry | Follow]):
    """Owns what one process believes.

    Args:
        bus: a connection.
        subjects: of the mesh.
        verifier: whose roots and revocations follow the log.
        store: the copy on disk.
        changed: called after a bundle or revocations changed.
        rng: so that of many who find the log empty one gives it back.
    """

    interval = 1.0
    capacity = 1024

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        verifier: Verifier,
        store: TrustStore,
        changed: Callable[[Taken], None],
        rng: Random,
    ) -> None:
        super().__init__("trust")
        self._bus = bus
        self._subject = subjects.trust
        self._log = TrustLog(bus, subjects)
        self._store = store
        self._changed = changed
        self._rng = rng
        self._sequence = 0
        self._last: tuple[int, bytes] | None = None
        #: Hashes of what was seen in the log.
        self._seen: set[bytes] = set()
        self._read_at = self._asked_at = -REREAD_S
        #: Not where the bus is locked: there agents only read the log, and the authority mends it.
        self._may_refill = True
        self._subscription: int | None = None
        self.state = TrustState(verifier)
        self._refused = Tally(log, "entries of the trust log")

    @property
    def passed_over(self) -> int:
        """Entries that nobody with a right to them has signed, each time that one was heard or read."""
        return self._refused.count

    def load(self) -> None:
        """Begin with what is on disk."""
        for entry in self._store.read():
            self._take(entry, store=False)

    async def listen(self) -> None:
        """Hear live entries from now on."""
        if self._subscription is None:
            self._subscription = await self._bus.subscribe(self._subject, self._on_entry)

    def _on_entry(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self.mailbox.tell(Entry(payload), len(payload))

    def heard_of(self, version: int, digest: str) -> None:
        """Hear what a member holds; if that is not what is held here, the log is read."""
        verifier, now = self.state.verifier, time.monotonic()
        differs = version > verifier.bundle.version or digest not in ("", verifier.revocations.digest)
        if differs and now - self._asked_at > GOSSIP_S:
            self._asked_at = now
            self.mailbox.tell(Follow())

    async def started(self) -> None:
        await self.listen()
        await self._follow()

    async def receive(self, message: Entry | Follow) -> None:
        await asyncio.sleep(0)  # a flood of junk must not keep requests waiting
        if isinstance(message, Follow) or self._take(message.entry, store=True) is Taken.EARLY:
            await self._follow()

    async def tick(self) -> None:
        if self.state.expire(time.time()):
            self._store.replace(self.state.entries.values())
            self._changed(Taken.REVOCATION)
        if time.monotonic() - self._read_at > REREAD_S:
            await self._follow()

    async def _follow(self) -> None:
        """Read what is new in the log, and give back what it lacks."""
        if not self._bus.connected:
            return
        self._read_at = time.monotonic()
        try:
            await self._read_on()
            for _ in range(REFILL_TRIES):
                if not (self._may_refill and self._missing()):
                    break
                await asyncio.sleep(self._rng.uniform(0.0, 0.2))
                await self._read_on()
                await self._refill()
        except LogUnavailable as error:
            log.info("trust: %s", error)

    async def _read_on(self) -> None:
        last = await self._log.last()
        if last < self._sequence or not await self._same_log():
            self._sequence, self._last = 0, None
            self._seen.clear()
        again: list[bytes] = []
        async for batch in self._log.batches(self._sequence, last):
            for sequence, entry in batch:
                self._sequence, self._last = sequence, (sequence, entry)
                self._seen.add(entry_key(entry))
                if self._take(entry, store=True) is Taken.EARLY:
                    again.append(entry)
        for entry in again:  # two authorities may have written in another order
            self._take(entry, store=True)

    async def _same_log(self) -> bool:
        """Say whether the entry read last is where it was: a log made anew may be longer than the old one."""
        if self._last is None:
            return True
        with contextlib.suppress(LogUnavailable):
            return await self._log.read(self._last[0] - 1, 1) == [self._last]
        return False

    def _missing(self) -> list[bytes]:
        return [entry for key, entry in self.state.entries.items() if key not in self._seen]

    async def _refill(self) -> None:
        missing = self._missing()
        if not missing:
            return
        log.warning("the trust log lacks %d entries; giving them back", len(missing))
        try:
            await self._log.ensure()
            for sequence, entry in enumerate(missing, start=self._sequence + 1):
                await self._log.append(entry, sequence)
        except RevisionConflict:  # somebody else is doing it
            return
        except Denied:
            self._may_refill = False

    def _take(self, entry: bytes, *, store: bool) -> Taken:
        held = self.state.holds(entry)
        try:
            taken = self.state.take(entry, time.time())
        except BusmeshError as error:
            self._refused.add(error)
            return Taken.KNOWN
        if taken in (Taken.BUNDLE, Taken.REVOCATION):
            self._changed(taken)
        if store and not held and self.state.holds(entry):
            self._store.append(entry)
        return taken

    def statistics(self) -> dict[str, int]:
        verifier = self.state.verifier
        return {
            "version": verifier.bundle.version,
            "revocations": len(verifier.revocations),
            "passed_over": self.passed_over,
        }
