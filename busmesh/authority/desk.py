"""A desk: takes requests from one subject, has each answered, and keeps strangers from overrunning it.

Anybody on the bus can send here, so the order is by cost: size, reply subject and a bounded mailbox on the
bus's callback; then, in the actor, age, rate, and only after these the work with public keys.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from busmesh.actors.actor import Actor
from busmesh.authority.bucket import TokenBucket
from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError
from busmesh.identity.enrol import Answer, Refusal
from busmesh.names import Subjects

log = logging.getLogger(__name__)

#: No request to the authority is larger.
MAX_REQUEST = 8192
#: Who asked has given up by then, so the work would be for nobody.
STALE_S = 2.0
#: An SVID costs about 0.3 ms of processor (measured): this is 15 % of a core, and twice as much at once.
RATE_PER_S = 500.0
_LOG_RATE_PER_S, _LOG_BURST = 2.0, 20
_INBOX_REST = rb"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
MAX_REPLY_SUBJECT = 256

#: What a refusal costs of the work that an SVID is. An unproven enrolment costs one MAC, so a flood of junk
#: takes nothing from who holds a token; an unproven renewal may cost the check of a signature.
ENROL_COSTS: Mapping[Refusal, float] = {refusal: 0.0 for refusal in Refusal if refusal is not Refusal.INVALID}
RENEW_COSTS: Mapping[Refusal, float] = {Refusal.DENIED: 0.2}


def inbox_pattern(subjects: Subjects) -> re.Pattern[bytes]:
    """Return what a reply subject must match as a whole: answers go to inboxes and nowhere else."""
    return re.compile(re.escape(f"{subjects.root}.inbox.".encode()) + _INBOX_REST)


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its bytes, where the answer goes, and when it came (monotonic seconds)."""

    payload: bytes
    reply: str
    received: float


class Desk(Actor[Request]):
    """Answers the requests of one subject.

    Args:
        name: what it does to whom ("enrol"), for the log.
        bus: where the answers go.
        subjects: of the mesh; answers go to its inboxes and nowhere else.
        answer: answers a request at a time in unix seconds; never raises over what is in it. None leaves it
            to another authority.
        costs: of each refusal, as a part of the work that an SVID is; 1 where none is given.
        rate: SVIDs a second, on average; at once twice as many.
    """

    interval = 5.0
    capacity = 1024

    def __init__(
        self,
        name: str,
        bus: Bus,
        subjects: Subjects,
        answer: Callable[[bytes, float], Answer | None],
        *,
        costs: Mapping[Refusal, float],
        rate: float = RATE_PER_S,
    ) -> None:
        super().__init__(name)
        self._bus = bus
        self._inbox = inbox_pattern(subjects)
        self._reply_to = answer
        self._costs = costs
        self._bucket = TokenBucket(rate, max(1.0, 2 * rate), time.monotonic())
        self._log_bucket = TokenBucket(_LOG_RATE_PER_S, _LOG_BURST, time.monotonic())
        self._unlogged = 0
        self.counts: Counter[str] = Counter()

    def on_message(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a request from the bus, or drop it: too large, nowhere to answer to, too many waiting."""
        if len(payload) > MAX_REQUEST:
            self.counts["too large"] += 1
        elif not self.answers_at(reply):
            self.counts["no inbox"] += 1
        elif not self.mailbox.tell(Request(payload, reply.decode(), time.monotonic()), len(payload)):
            self.counts["overrun"] += 1

    def answers_at(self, reply: bytes) -> bool:
        """Say whether ``reply`` is an inbox of this mesh."""
        return len(reply) <= MAX_REPLY_SUBJECT and self._inbox.fullmatch(reply) is not None

    async def receive(self, message: Request) -> None:
        await asyncio.sleep(0)  # a full mailbox must not keep the bus's watchdog waiting
        now = time.monotonic()
        if now - message.received > STALE_S:
            self.counts["stale"] += 1
            return
        if not self._bucket.take(now):
            self.counts["limited"] += 1
            return
        answer = self._reply_to(message.payload, time.time())
        if answer is None:
            self._bucket.give_back(1)
            self.counts["left to others"] += 1
            return
        if answer.refusal is not None:
            self._bucket.give_back(1 - self._costs.get(answer.refusal, 1.0))
        self.counts[str(answer.refusal or "granted")] += 1
        self._note(answer, now)
        try:
            self._bus.publish(message.reply, answer.reply)
        except BusmeshError as error:  # who asked will ask again
            self.counts["not sent"] += 1
            log.debug("%s: the answer was not sent: %s", self.name, error)

    async def tick(self) -> None:
        if self._unlogged:
            log.warning("%s: %d more refusals; %r", self.name, self._unlogged, self)
            self._unlogged = 0

    def statistics(self) -> dict[str, int]:
        """Return the count of each outcome: "granted", each refusal, and why requests were dropped."""
        return dict(self.counts)

    def __repr__(self) -> str:
        return f"<Desk {self.name} {self.statistics()}>"

    def _note(self, answer: Answer, now: float) -> None:
        if answer.refusal is None:
            log.info("%s: granted to %s", self.name, answer.id)
        elif self._log_bucket.take(now):
            who = answer.id or "somebody who proved nothing"
            log.warning("%s: refused to %s: %s", self.name, who, answer.refusal)
        else:
            self._unlogged += 1
