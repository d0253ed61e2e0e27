"""The actor that has the bus refuse the logins of who was revoked.

A server holds the claims of each account, signed by its operator's key, and in them the users whose logins
count no more: told of new claims it cuts off at once who is connected by such a login, and lets nobody in by
one, also after a restart. It is told by a login to its system account, and only the authority has one.

The trust log says who was revoked and the register which logins were signed for whom, so this actor keeps
nothing: it looks at what the servers know and adds what is missing. Two authorities add to each other's.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from busmesh.actors.actor import Actor
from busmesh.authority.bucket import TokenBucket
from busmesh.authority.keys import Keys
from busmesh.authority.logins import joined, newcomer, newcomers, shut_out
from busmesh.bus.bus import Bus
from busmesh.bus.jwt import claims_of
from busmesh.bus.permissions import UPDATE_ACCOUNT, account_lookup
from busmesh.errors import BusmeshError, BusUnavailable, Denied
from busmesh.identity.revocation import Revocation, Revocations
from busmesh.identity.shutout import Outcome, ShutOut, seal_answer
from busmesh.names import Subjects

log = logging.getLogger(__name__)

#: All servers are asked so often whether they know what they should: one of a cluster may have been away.
CHECK_S = 10.0
AFTER_TELLING_S = 0.5
#: For the answers of all servers of a cluster.
GATHER_S = 0.3
#: After a bus that could not be told.
RETRY_S = 1.0
CONNECT_S = 2.0
ANSWER_S = 2.0
#: Keys in an account's claims at once: 100 bytes each, and a message has at most 1 MiB.
MAX_SHUT_OUT = 8000
#: What has ended is left out when something else is told, or when there is so much of it.
STALE = 256
#: Questions that are answered in a second: each takes a signature.
ANSWERS_PER_S = 50.0
MAX_QUESTION = 2048
#: A bus that is away is told when it is back, and says itself in the log that it is.
_AWAY = frozenset(("BM3001", "BM3003"))
_USER = re.compile(r"U[A-Z2-7]{55}")


class Look:
    """Somebody was revoked, or the bus is back."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody asks what became of a revocation."""

    question: bytes
    reply: str


class ShutOuts(Actor[Look | Asked]):
    """Keeps the bus informed of the logins that count no more.

    Args:
        bus: where questions come from.
        subjects: of the mesh.
        keys: signs the account's claims, and knows revocations, join tokens and logins.
        inbox: says whether an answer may be sent to a reply subject.

    Attributes:
        system: a connection to the system account, not yet made; None if the bus asks nobody for a login.
    """

    interval = 1.0
    capacity = 256

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        keys: Keys,
        inbox: Callable[[bytes], bool],
    ) -> None:
        super().__init__("shut out")
        self._bus = bus
        self.system: Bus | None = None
        self._mesh = subjects.mesh
        self._keys = keys
        self._inbox = inbox
        self._bucket = TokenBucket(ANSWERS_PER_S, ANSWERS_PER_S, time.monotonic())
        #: What was asked last, by which it is known whether to work it out anew.
        self._basis: object = None
        self._wanted: dict[str, int] = {}
        self._told: set[str] = set()
        self._check_at = self._retry_at = 0.0
        self._claims_shown = False
        self._problem = ""

    def __repr__(self) -> str:
        return f"<ShutOuts {len(self._wanted)} logins, {len(self._told)} told {self._problem or 'ok'}>"

    def on_question(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Hear a question, to be answered at an inbox of this mesh only."""
        if len(payload) <= MAX_QUESTION and self._inbox(reply):
            self.mailbox.tell(Asked(payload, reply.decode()), len(payload))

    async def receive(self, message: Look | Asked) -> None:
        if isinstance(message, Look):
            self._retry_at = 0.0
            await self._inform()
        elif self._bucket.take(time.monotonic()):
            await self._reply(message)

    async def tick(self) -> None:
        now = time.monotonic()
        self._keys.register.logins.follow()
        if self._look() - self._told or now >= self._check_at:
            await self._inform(everybody=now >= self._check_at)

    async def stopped(self) -> None:
        if self.system is not None:
            await self.system.close()

    # -- who is shut out ---------------------------------------------------------------------------

    def _look(self) -> set[str]:
        """Work out, if anything has changed, whose logins count no more; return their keys."""
        keys, now = self._keys, time.time()
        logins, revocations = keys.register.logins, keys.verifier.revocations
        good = [grant for grant in keys.grants.values() if not grant.over(now)]
        if self.system is not None:
            for grant in good:
                if not logins.knows(newcomer(grant.token.id)):
                    logins.add(newcomers(grant, now))
        tokens = frozenset(grant.token.id for grant in good)
        basis = (logins.version, revocations.digest, tokens)
        if basis != self._basis:
            hit = [*logins.hit(revocations), *logins.without_token(tokens)]
            self._wanted = shut_out(hit, now)
            self._basis = basis
        keys.register.shut_out = self._wanted.keys()
        return set(self._wanted)

    async def _inform(self, *, everybody: bool = False) -> None:
        """Tell the bus what it lacks."""
        now = time.monotonic()
        if self.system is None or now < self._retry_at:
            return
        self._look()
        try:
            await self.system.connect(patience=CONNECT_S)
            told = await self._compare(self.system, everybody=everybody)
            # Another authority may have told it something else in the same moment, and only one is kept.
            self._check_at = now + (AFTER_TELLING_S if told else CHECK_S)
        except (BusUnavailable, Denied) as error:
            self._retry_at = now + RETRY_S
            self._failed(error)
        else:
            if self._problem:
                log.info("shut out: the bus can be told again")
            self._problem = ""

    async def _compare(self, system: Bus, *, everybody: bool) -> bool:
        """Have the servers know what they should; say whether there was anything to tell them."""
        accounts = self._keys.register.accounts
        if accounts is None:
            return False
        now, told_to, anything = time.time(), list[set[str]](), False
        for account, own in accounts.mesh_accounts(self._mesh, now).items():
            answers = await self._ask(system, account, everybody=everybody)
            held = [claims for answer in answers if (claims := claims_of(answer)).get("sub") == account]
            lists = [_revoked(claims) for claims in held]
            told: dict[str, int] = {}
            for known in lists:
                told = joined(told, known, now, MAX_SHUT_OUT)
            wanted = joined(told, self._wanted, now, MAX_SHUT_OUT)
            lacking = any(key not in known for known in lists for key in wanted)
            stale = any(sum(now >= until for until in known.values()) >= STALE for known in lists)
            changed = not self._claims_shown and any(
                _rest(claims) != _rest(claims_of(own)) for claims in held
            )
            if lacking or stale or changed or not held:
                latest = max((_issued(claims) for claims in held), default=0)
                issued = max(now, latest + 1)  # or a server that compares it with another's would not take it
                await self._tell(system, accounts.mesh_accounts(self._mesh, issued, wanted)[account])
                log.info("shut out: the bus refuses %d logins from now on", len(wanted))
                anything = True
            told_to.append(set(wanted))
        self._told = set.intersection(*told_to)
        self._claims_shown = True
        return anything

    async def _ask(self, system: Bus, account: str, *, everybody: bool) -> list[str]:
        """Return the claims of an account as the servers know them: the first, or all."""
        subject = account_lookup(account)
        if everybody:
            answers = await system.gather(subject, timeout=GATHER_S)
        else:
            answers = [await system.request(subject, timeout=ANSWER_S)]
        if not answers:
            raise BusUnavailable("no server answers for its accounts", code="BM3006")
        return [answer.payload.decode("ascii", "replace") for answer in answers]

    async def _tell(self, system: Bus, claims: str) -> None:
        answer = await system.request(UPDATE_ACCOUNT, claims.encode(), timeout=ANSWER_S)
        problem = refusal_of(answer.payload)
        if problem:
            raise BusUnavailable(f"the server does not take the claims: {problem}", code="BM3016")

    def _failed(self, error: BusmeshError) -> None:
        problem = error.message
        if error.code == "BM3006":
            problem = "its configuration was not written by this version: busmesh bus config"
        if problem != self._problem and error.code not in _AWAY:
            log.error("shut out: the bus cannot be told whose login counts no more: %s", problem)
        self._problem = problem

    # -- who asks ----------------------------------------------------------------------------------

    async def _reply(self, asked: Asked) -> None:
        keys = self._keys
        if not keys.issues:
            return
        try:
            revocation = Revocation.decode(asked.question, self._mesh)
        except BusmeshError:
            return
        keys.renew_own(time.time())
        found = await self._became(revocation)
        try:
            self._bus.publish(asked.reply, seal_answer(keys.svid, asked.question, found, time.time()))
        except BusmeshError as error:
            log.debug("shut out: the answer was not sent: %s", error)

    async def _became(self, revocation: Revocation) -> ShutOut:
        keys = self._keys
        if not keys.verifier.revocations.covers(revocation):
            return ShutOut(Outcome.UNDER_WAY)
        if self.system is None:
            return ShutOut(Outcome.OPEN)
        keys.register.logins.follow()
        alone, now = Revocations(), time.time()
        alone.add(revocation, now)
        meant = shut_out(keys.register.logins.hit(alone), now).keys()
        if not meant <= self._told:
            await self._inform()
        if meant <= self._told and not self._problem:
            return ShutOut(Outcome.SHUT_OUT, len(meant))
        return ShutOut(Outcome.FAILED if self._problem else Outcome.UNDER_WAY, len(meant), self._problem)


def refusal_of(answer: bytes) -> str:
    """Return why a server did not take an account's claims; empty if it did."""
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return "its answer cannot be read"
    error = said.get("error") if isinstance(said, dict) else None
    if error is None:
        return "" if isinstance(said, dict) and "data" in said else "its answer cannot be read"
    return str(error.get("description") if isinstance(error, dict) else error)[:200]


def _nats(claims: Mapping[str, object]) -> dict[str, object]:
    nats = claims.get("nats")
    return nats if isinstance(nats, dict) else {}


def _revoked(claims: Mapping[str, object]) -> dict[str, int]:
    """Return whose logins count no more by an account's claims, as far as it is what busmesh writes."""
    held = _nats(claims).get("revocations")
    if not isinstance(held, dict):
        return {}
    return {key: until for key, until in held.items() if isinstance(until, int) and _USER.fullmatch(str(key))}


def _rest(claims: Mapping[str, object]) -> dict[str, object]:
    """Return what an account's claims say besides."""
    return {name: value for name, value in _nats(claims).items() if name != "revocations"}


def _issued(claims: Mapping[str, object]) -> int:
    at = claims.get("iat")
    return at if isinstance(at, int) else 0
