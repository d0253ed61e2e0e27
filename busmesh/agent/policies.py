"""The policy actor: keeps this agent at the newest revision, on disk too, and says so.

A revision is heard of live, by gossip (a member has a later one), after every reconnect and every 30 s; it is
always the log that decides. What is not understood is refused whole and the last good set stays. The log on
disk serves twice: the agent starts with its policies when the bus does not have them, and it refills the
bus's log when that comes back empty.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random

from busmesh.actors.actor import Actor
from busmesh.agent.policystore import PolicyStore
from busmesh.bus.bus import Bus
from busmesh.bus.policylog import LogUnavailable, PolicyLog, RevisionConflict
from busmesh.errors import BusmeshError, Denied, InvalidDocument
from busmesh.identity.revisions import open_revision
from busmesh.identity.verify import Verifier
from busmesh.members.acknowledgement import Acknowledgement
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.revision import EMPTY, PolicySet, RevisionRefused, fold
from busmesh.policy.snapshot import Snapshot
from busmesh.telemetry.tally import Tally

log = logging.getLogger(__name__)

#: A published revision reaches an agent live; this is for one that was missed in every other way.
REREAD_S = 30.0
#: Whoever says that it has a later one is believed so far that the log is read, and not more often than this.
GOSSIP_S = 0.1
#: Agents that give back a lost log at once get into each other's way a few times.
REFILL_TRIES = 5


class Taken(Enum):
    """What became of an entry."""

    YES = "in force"
    REFUSED = "refused, and said so"
    NOT_NEXT = "does not follow from what is held"
    PASSED_OVER = "no revision, or one that is held"


@dataclass(frozen=True, slots=True)
class Published:
    """An entry of the log, heard live."""

    entry: bytes


@dataclass(frozen=True, slots=True)
class SeenElsewhere:
    """Somebody has this revision in force."""

    revision: int


class Synchronise:
    """Read the log again, and refill it if it was lost."""


class Policies(Actor[Published | SeenElsewhere | Synchronise]):
    """Owns the policy set of this agent.

    Args:
        bus: to know whether there is any point in asking.
        policy_log: the log on the bus.
        store: the log on disk.
        verifier: whose roots must vouch for the operators.
        caller: the instance whose requests the snapshot is for.
        apply: takes each new snapshot.
        rng: where splits begin, and the jitter of refilling.

    Attributes:
        acknowledge: told what became of each revision: applied or refused.
    """

    interval = REREAD_S

    def __init__(
        self,
        *,
        bus: Bus,
        policy_log: PolicyLog,
        store: PolicyStore,
        verifier: Verifier,
        caller: Caller,
        apply: Callable[[Snapshot], None],
        rng: Random,
    ) -> None:
        super().__init__("policies")
        self._bus = bus
        self._log = policy_log
        self._store = store
        self._verifier = verifier
        self._caller = caller
        self._apply = apply
        self.acknowledge: Callable[[Acknowledgement], None] = lambda ack: None
        self._rng = rng
        self._entries: list[bytes] = []
        #: Told each entry that was put in force.
        self.on_entry: Callable[[bytes], None] = lambda entry: None
        self._sequence = 0  # of the last entry of the log that was read
        self._matched = 0  # how many of our entries the log is known to hold
        self._may_refill = True
        self._forged = Tally(log, "entries of the policy log")
        #: Entries that changed nothing, each time that one was heard or read: what is no later than what is
        #: held, and what an operator has signed and this version does not understand.
        self.stale = self.rejected = 0
        self._anchor: tuple[int, bytes] | None = None  # the last of our entries that was seen in the log
        self._asked_at = -GOSSIP_S  # when we last read the log because of what a member said
        self._over_at = -REREAD_S  # when we last began to read the log anew because of a gap
        self._made_ms = 0  # when the revision in force was made
        self._author = self._reason = ""  # of the last one that came from the bus
        self._said = 0  # the last one that was logged
        self.set: PolicySet = EMPTY
        self.snapshot = compile_set(EMPTY, caller, rng=rng)
        self.refused: Acknowledgement | None = None
        #: True once the log was read, or found unreachable while there is a copy on disk.
        self.synchronised = False
        #: Called when that becomes true.
        self.on_synchronised: Callable[[], None] = lambda: None
        self.problem = "not read yet"

    @property
    def forged(self) -> int:
        """Entries that nobody with a right to them has signed, each time that one was heard or read."""
        return self._forged.count

    def load(self) -> None:
        """Begin with what is on disk."""
        for entry in self._store.read():
            if self._take(entry) is not Taken.YES:
                log.warning(
                    "the policies on disk end at revision %d; the rest comes from the bus", self.set.number
                )
                self._store.replace(self._entries)
                break
        if self.set.number:
            self._said = self.set.number
            log.info("revision %d is in force, from disk", self.set.number)

    @property
    def entries(self) -> list[bytes]:
        """The signed revisions that lead to the set in force, oldest first."""
        return list(self._entries)

    def follow(self, entry: bytes) -> None:
        """Put an entry in force that comes from another process of this agent."""
        self._take(entry)

    def heard_of(self, revision: int) -> None:
        """Hear what a member has in force; of a later revision than is held here, the log is asked."""
        now = time.monotonic()
        if revision > self.set.number and now - self._asked_at >= GOSSIP_S:
            self._asked_at = now
            self.mailbox.tell(SeenElsewhere(revision))

    async def started(self) -> None:
        await self._synchronise()

    async def tick(self) -> None:
        await self._synchronise()

    async def receive(self, message: Published | SeenElsewhere | Synchronise) -> None:
        match message:
            case Published(entry):
                await asyncio.sleep(0)  # a flood of junk must not keep requests waiting
                if self._take(entry, store=True) is Taken.NOT_NEXT:
                    await self._synchronise()
                    if self._take(entry, store=True) is Taken.NOT_NEXT:
                        await self._start_over()
                self._say()
            case SeenElsewhere(revision):
                if revision > self.set.number:
                    await self._synchronise()
                    if revision > self.set.number:
                        await self._start_over()
            case Synchronise():
                await self._synchronise()

    async def _synchronise(self) -> None:
        """Read what is new in the log, and give back what it lacks."""
        if not self._bus.connected:
            return
        try:
            await self._read_on()
            for _ in range(REFILL_TRIES):
                if self._matched == len(self._entries) or not self._may_refill:
                    break
                await self._refill()
                await self._read_on()
        except LogUnavailable as error:
            self.problem = str(error)
            log.warning("policies: %s", error)
            # An agent with policies on disk can do without the log for a while.
            if self.set.number > 0:
                self._synchronised()
            return
        self.problem = ""
        self._synchronised()

    def _synchronised(self) -> None:
        if not self.synchronised:
            self.synchronised = True
            self.on_synchronised()

    async def _start_over(self) -> None:
        """A revision is missing that others have: what we read may have been forged, so read all of it again.

        Not more often than the log is read anyway, because a member can lie about its revision.
        """
        now = time.monotonic()
        if now - self._over_at >= REREAD_S:
            self._over_at = now
            self._forget_place()
            await self._synchronise()

    def _forget_place(self) -> None:
        self._sequence = self._matched = 0
        self._anchor = None

    async def _read_on(self) -> None:
        """Go through the log from where we stopped; from its beginning if it is another one.

        Anybody with a login can append to the stream, so what is no revision is passed over.
        """
        last = await self._log.last()
        if last < self._sequence or not await self._same_log():
            self._forget_place()
        # Up to what was the end just now: who appends faster than we read must not keep us reading.
        async for batch in self._log.batches(self._sequence, last):
            for sequence, entry in batch:
                self._sequence = sequence
                if self._matched < len(self._entries) and entry == self._entries[self._matched]:
                    self._matched += 1
                    self._anchor = (sequence, entry)
                elif self._take(entry, store=True) is Taken.YES:
                    self._matched = len(self._entries)
                    self._anchor = (sequence, entry)
        self._say()

    def _say(self) -> None:
        """Log what is in force, if that is news: who joins late reads many revisions and runs the last."""
        if self.set.number != self._said:
            self._said = self.set.number
            reason = f": {self._reason}" if self._reason else ""
            log.info("revision %d by %s is in force%s", self.set.number, self._author, reason)

    async def _same_log(self) -> bool:
        """Say whether our last entry is where it was: a log made anew may be longer than the old one."""
        if self._anchor is None:
            return True
        sequence, _ = self._anchor
        try:
            return await self._log.read(sequence - 1, 1) == [self._anchor]
        except LogUnavailable:
            return False

    async def _refill(self) -> None:
        """The log lacks revisions that we hold: its store was lost, most likely. Give them back."""
        # A random while, so that one of many agents does the work and the others find it done.
        await asyncio.sleep(self._rng.uniform(0.0, 0.2))
        await self._read_on()
        missing = self._entries[self._matched :]
        if not missing:
            return
        log.warning("the policy log lacks %d revisions; giving them back", len(missing))
        try:
            await self._log.ensure()
            for sequence, entry in enumerate(missing, start=self._sequence + 1):
                await self._log.append(entry, sequence)
        except RevisionConflict:  # another agent is doing it
            return
        except Denied:
            # On a locked bus agents only read the log, and the authority mends it.
            self._may_refill = False

    def _take(self, entry: bytes, *, store: bool = False) -> Taken:
        """Fold one entry and put it in force; anything but YES changed nothing."""
        now, verifier = time.time(), self._verifier
        try:
            revision, author = open_revision(entry, verifier, now, previous_ms=self._made_ms)
        except InvalidDocument as error:  # by an operator, in words that this version does not know
            self._refuse(self.set.number + 1, error)
            return Taken.REFUSED
        except BusmeshError as error:
            self._forged.add(error)
            return Taken.PASSED_OVER
        try:
            after = fold(self.set, revision)
        except RevisionRefused as error:
            if error.cause != "stale":
                return Taken.NOT_NEXT
            self.stale += 1
            return Taken.PASSED_OVER
        try:
            snapshot = compile_set(after, self._caller, rng=self._rng)
        except BusmeshError as error:
            self._refuse(revision.number, error)
            return Taken.REFUSED
        self.set, self.snapshot, self.refused = after, snapshot, None
        self._made_ms = revision.time_ms
        self._entries.append(entry)
        if store:
            self._store.append(entry)
            self._author, self._reason = author, revision.reason
        self._apply(snapshot)
        self.on_entry(entry)
        self.acknowledge(Acknowledgement(revision=after.number, digest=after.digest, state="applied"))
        return Taken.YES

    def _refuse(self, number: int, error: BusmeshError) -> None:
        self.rejected += 1
        refusal = Acknowledgement(
            revision=number,
            digest=self.set.digest,
            state="rejected",
            code=error.code,
            reason=str(error.message)[:500],
        )
        log.error("revision %d is refused, %d stays in force: %s", number, self.set.number, error)
        if self.refused != refusal:
            self.refused = refusal
            self.acknowledge(refusal)
