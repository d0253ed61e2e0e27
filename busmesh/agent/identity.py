"""How an agent gets its identity: from disk if it is still good, else from the authority by join token."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TypeVar

from busmesh.actors.actor import Actor
from busmesh.bus.bus import Bus
from busmesh.bus.login import Credentials, Login
from busmesh.bus.nkeys import KeyPair, Role
from busmesh.errors import BusmeshError, BusUnavailable, IdentityError, NotFound, RemoteProtocolError
from busmesh.identity.alarms import Alarms
from busmesh.identity.drill import open_drill
from busmesh.identity.enrol import Enrolment, Membership
from busmesh.identity.holder import Identity
from busmesh.identity.jointoken import JoinToken
from busmesh.identity.renew import Renewal
from busmesh.identity.store import AgentHome
from busmesh.identity.svid import new_key, renewal_time
from busmesh.identity.ticket import JoinTicket
from busmesh.identity.trust import TrustBundle, key_identifier, newest
from busmesh.identity.verify import verify_certificate
from busmesh.names import SpiffeId, Subjects

log = logging.getLogger(__name__)

#: An SVID on disk with less than this left is not worth starting with.
ENOUGH_LEFT_S = 60.0
#: A plain "denied", an answer by no authority or by one that counts no more: the first few are not believed.
_FORGEABLE = frozenset(("BM4101", "BM4102", "BM4103", "BM4203", "BM4204", "BM4207"))
DOUBTS = 4
#: Seconds in which all answers are taken, after a first one that proved nothing.
EVERYBODY_S = 1.0
#: Renewals for the sake of another root are spread over so long: one authority does 500 a second.
SPREAD_S = 5.0
#: Between two renewals that brought an SVID of the old root.
AGAIN_S = 15.0
#: After a renewal that failed.
RETRY_MAX_S = 30.0
#: Failed renewals in a row that somebody should hear of.
ALARM_FAILURES = 3
#: Orders to renew are looked at so seldom, because anybody can send what looks like one.
ORDERS_S = 0.1
#: For a newcomer's connection to stand, when an instance that runs enrols anew.
CONNECT_S = 5.0
_T = TypeVar("_T")


class Enroller:
    """Gets an instance its identity, and its login to the bus if that is locked.

    Args:
        bus: the agent's own, connected or not; what it logs in with is put in place here.
        subjects: of the mesh.
        wanted: whom to become.
        home: where both are kept.
        ticket: reads the join ticket; asked only if what is on disk is not enough.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        wanted: SpiffeId,
        home: AgentHome,
        ticket: Callable[[], JoinTicket],
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._wanted = wanted
        self._home = home
        self._ticket = ticket

    def __repr__(self) -> str:
        return f"<Enroller of {self._wanted}>"

    async def obtain(self, *, patience: float | None = None) -> Identity:
        """Return a valid identity, waiting for the authority as long as it takes.

        Args:
            patience: seconds to try for to connect to the bus; None: for ever.

        Raises:
            IdentityError: the authority refused; trying again would not help.
            Denied: the bus refused the newcomer's login.
            BusUnavailable: no bus within ``patience``.
            NotFound: no join token.
        """
        stored = _stored(self._wanted, self._home)
        if stored is not None and self._take_stored_login():
            return stored
        granted, key = await self._join(_held(self._home, self._wanted.mesh), patience)
        identity = Identity(granted.svid, granted.bundle)
        self._take(identity, granted, key)
        return identity

    def _take_stored_login(self) -> bool:
        """Use the login on disk; False if there is none that is good, and the bus wants one."""
        login = self._bus.options.login
        if login is None:
            return True
        held = self._home.credentials()
        if held is not None and (held.expires is None or held.expires > time.time() + ENOUGH_LEFT_S):
            login.use(held)
            return True
        try:
            return not self._ticket().login
        except NotFound:  # without a token there is no other way than to try
            return True

    async def enrol_anew(self, identity: Identity, *, patience: float | None = None) -> None:
        """Join by the join token in place of an identity that nobody believes, however long it takes.

        Raises:
            As `obtain` does.
        """
        self._take(identity, *await self._join(identity.bundle, patience))

    async def try_to_enrol(self, identity: Identity, *, everybody: bool) -> None:
        """Do the same in one try, beside which the instance goes on.

        Args:
            identity: replaced inside.
            everybody: listen to all answers, as the last one proved nothing.

        Raises:
            BusmeshError: it failed, for whatever reason.
        """
        ticket, key = self._ticket(), KeyPair.generate(Role.USER)
        async with self._newcomers_bus(ticket, CONNECT_S) as bus:
            granted = await self._ask(bus, ticket.token, key, identity.bundle, everybody=everybody)
        self._take(identity, granted, key)

    async def renew(self, identity: Identity, *, everybody: bool) -> None:
        """Replace an SVID that is believed still, and the login, in one try.

        Raises:
            BusmeshError: it failed, for whatever reason.
        """
        key = KeyPair.generate(Role.USER)
        renewal = Renewal(identity.svid, new_key(), time.time(), bus_key=key)
        answers = await _answers(self._bus, self._subjects.renew, renewal.request(), everybody=everybody)
        read = partial(renewal.finish, verifier=identity.verifier, now=time.time())
        self._take(identity, _first_true(answers, read), key)

    def _take(self, identity: Identity, granted: Membership, key: KeyPair) -> None:
        """Use what the authority granted and put it on disk; the login is for the next connection."""
        identity.renew(granted.svid, granted.bundle)
        self._home.save_trust(identity.bundle)
        self._home.save_svid(identity.svid)
        credentials = Credentials(key, granted.login) if granted.login else None
        self._home.save_credentials(credentials)
        if self._bus.options.login is not None:
            self._bus.options.login.use(credentials)

    async def _join(self, held: TrustBundle | None, patience: float | None) -> tuple[Membership, KeyPair]:
        ticket, key = self._ticket(), KeyPair.generate(Role.USER)
        async with self._newcomers_bus(ticket, patience) as bus:
            granted = await self._ask_on(bus, ticket.token, key, held)
        log.info("enrolled as %s", granted.svid.id)
        return granted, key

    @contextlib.asynccontextmanager
    async def _newcomers_bus(self, ticket: JoinTicket, patience: float | None) -> AsyncIterator[Bus]:
        """Connect with the newcomer's login, which may ask to be enrolled and nothing else."""
        options = self._bus.options
        if not ticket.login or options.login is None:
            await self._bus.connect(patience=patience)
            yield self._bus
            return
        inbox = self._subjects.role_inbox("join", ticket.token.id)
        login = Login(ticket.credentials)
        bus = Bus(dataclasses.replace(options, inbox_prefix=inbox, login=login))
        try:
            await bus.connect(patience=patience)
            yield bus
        finally:
            await bus.close()

    async def _ask_on(self, bus: Bus, token: JoinToken, key: KeyPair, held: TrustBundle | None) -> Membership:
        pause = 0.1
        doubts = DOUBTS
        while True:
            try:
                return await self._ask(bus, token, key, held, everybody=doubts < DOUBTS)
            except BusUnavailable as error:
                log.warning(
                    "no authority to enrol with yet (%s); is `busmesh up` or `busmesh authority run` up?",
                    error,
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            except (IdentityError, RemoteProtocolError) as error:
                # Anybody on the bus can say "denied" in the authority's place; a true refusal is repeated.
                doubts -= error.code in _FORGEABLE
                if error.code not in _FORGEABLE or doubts <= 0:
                    raise
                await asyncio.sleep(pause)

    async def _ask(
        self, bus: Bus, token: JoinToken, key: KeyPair, held: TrustBundle | None, *, everybody: bool
    ) -> Membership:
        enrolment = Enrolment(token, self._wanted, new_key(), time.time(), bus_key=key)
        answers = await _answers(bus, self._subjects.enrol, enrolment.request(), everybody=everybody)
        return _first_true(answers, partial(_joined, enrolment, held))


def has_login(bus: Bus) -> bool:
    """Say whether there is a login to show: it ends with the SVID."""
    login = bus.options.login
    return login is not None and login.held() is not None


async def show_login(bus: Bus) -> None:
    """Go over to a connection with the login of now; a bus that asks for none notices nothing."""
    if has_login(bus) and not await bus.renew_login():
        log.warning("the bus was not shown the renewed login; it will be when the connection ends")


def _joined(enrolment: Enrolment, held: TrustBundle | None, answer: bytes) -> Membership:
    granted = enrolment.finish(answer, now=time.time())
    return granted._replace(bundle=newest(held, granted.bundle, granted.svid.issuer))


def _held(home: AgentHome, mesh: str) -> TrustBundle | None:
    try:
        return home.trust(mesh)
    except (NotFound, IdentityError):  # whatever stands there, joining replaces it
        return None


async def _answers(bus: Bus, subject: str, request: bytes, *, everybody: bool) -> list[bytes]:
    """Return the first answer; with ``everybody`` all that come, since a forger is always the faster.

    Raises:
        BusUnavailable: nobody answered.
    """
    if not everybody:
        return [(await bus.request(subject, request, timeout=2.0)).payload]
    answers = [message.payload for message in await bus.gather(subject, request, timeout=EVERYBODY_S)]
    if not answers:
        raise BusUnavailable(f"no answer on {subject} within {EVERYBODY_S:g} s", code="BM3007")
    return answers


def _first_true(answers: list[bytes], read: Callable[[bytes], _T]) -> _T:
    """Return what ``read`` makes of the first answer that proves something.

    Raises:
        IdentityError, RemoteProtocolError: none does; a reason that the authority gave comes before those
            that anybody can write.
    """
    errors: list[BusmeshError] = []
    for answer in answers:
        try:
            return read(answer)
        except (IdentityError, RemoteProtocolError) as error:
            errors.append(error)
    raise min(errors, key=lambda error: error.code in _FORGEABLE)


def _stored(wanted: SpiffeId, home: AgentHome) -> Identity | None:
    try:
        svid, bundle = home.svid(), home.trust(wanted.mesh)
        if svid.id != wanted:
            return None
        verify_certificate(svid.der, bundle, time.time() + ENOUGH_LEFT_S)
    except NotFound:
        return None
    except IdentityError as error:
        if error.code == "BM4502":  # a key that others can read must be looked at by a person
            raise
        log.info("the SVID on disk is of no use (%s); enrolling anew", error)
        return None
    return Identity(svid, bundle)


@dataclass(frozen=True, slots=True)
class TrustChanged:
    """The trust bundle or the revocations are others: the SVID may be due for reasons other than its age."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """What came as an order to renew now; believed in nothing yet."""

    order: bytes


#: Seconds between two looks at the time, unless a renewal is due before: with an SVID of 10 s, half a second
#: late would be as much as the spread.
TICK_S, _SHORTEST_S = 0.5, 0.01


class Renewals(Actor[TrustChanged | Ordered]):
    """Renews the SVID at half of its life; traffic notices nothing, since sessions outlive certificates.

    It renews early when the mesh issues under another root. An SVID that nobody believes any more, because
    the authority was away for too long or its root was removed meanwhile, is replaced by enrolling anew. One
    that was revoked is not: whoever revoked it wants a person to look at it.

    Args:
        bus: a connection; what is due waits until it stands, unless the login has ended with the SVID.
        identity: replaced inside.
        enroller: renews it, and enrols anew.
        renewed: called after each renewal.
        warn: told what may go wrong soon: kind of event, message, and facts.
    """

    interval = TICK_S
    capacity = 4

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        enroller: Enroller,
        *,
        renewed: Callable[[], None],
        warn: Callable[[str, str, dict[str, str | int | float | bool | None]], None],
        rng: Random,
    ) -> None:
        super().__init__("renewals")
        self._bus = bus
        self._identity = identity
        self._enroller = enroller
        self._renewed = renewed
        self._warn = warn
        self._rng = rng
        self._due = self._next_due()
        #: The last answer proved nothing: listen to all of them the next time.
        self._doubtful = False
        self._alarms = Alarms()
        self._revoked = False
        self._order_at = -math.inf
        self._last_order_ms = 0
        self.renewals = 0
        self.failures = 0

    def _next_due(self) -> float:
        svid = self._identity.svid
        return renewal_time(svid.issued, svid.not_after, self._rng)

    def on_order(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Hear an order to renew now."""
        now = time.monotonic()
        if now - self._order_at >= ORDERS_S:
            self._order_at = now
            self.mailbox.tell(Ordered(payload), len(payload))

    async def receive(self, message: TrustChanged | Ordered) -> None:
        """Renew soon: by order, or because that brings an SVID of another root; spread, as all hear of it."""
        if isinstance(message, Ordered):
            self._heed(message.order)
        elif self._identity.outdated:
            self._due = min(self._due, time.time() + self._rng.uniform(0.0, SPREAD_S))

    def _heed(self, order: bytes) -> None:
        now = time.time()
        try:
            drill = open_drill(order, self._identity.verifier, now, after_ms=self._last_order_ms)
        except BusmeshError as error:
            log.info("an order to renew counts for nothing: %s", error)
            return
        self._last_order_ms = drill.time_ms
        self._due = min(self._due, now + self._rng.uniform(0.0, drill.spread_s))
        message = f"operator {drill.operator} ordered a drill: the SVID is renewed now"
        self._warn("identity.drill", message, {"operator": drill.operator})

    async def tick(self) -> None:
        now = time.time()
        await self._renew_if_due(now)
        left = self._due - now  # none, if the renewal waits for the bus
        self.interval = max(left, _SHORTEST_S) if 0 < left < TICK_S else TICK_S

    async def _renew_if_due(self, now: float) -> None:
        self._look_ahead(now)
        if now < self._due or self._identity.revoked or not (self._bus.connected or self._shut_out(now)):
            return
        try:
            if self._bus.connected and self._identity.usable(now):
                await self._enroller.renew(self._identity, everybody=self._doubtful)
            else:
                log.warning("nobody believes the present SVID any more: enrolling anew")
                await self._enroller.try_to_enrol(self._identity, everybody=self._doubtful)
        except BusmeshError as error:
            self._failed(error, now)
            return
        self._doubtful = False
        self._due = self._next_due()
        if self._identity.outdated:  # this authority still issues under the old root
            self._due = min(self._due, now + AGAIN_S)
        self.renewals += 1
        self.failures = 0
        self._renewed()
        log.info("the SVID was renewed")
        await show_login(self._bus)

    def _shut_out(self, now: float) -> bool:
        """Say whether the login has ended with the SVID, so that no connection will come back by itself."""
        return has_login(self._bus) and now > self._identity.svid.not_after

    def _failed(self, error: BusmeshError, now: float) -> None:
        left = self._identity.svid.not_after - now
        log.warning("the SVID could not be renewed, %.0f s are left: %s", left, error)
        longest = AGAIN_S if self._identity.outdated else RETRY_MAX_S  # a root that retires waits for nobody
        self._due = now + max(1.0, min(longest, left / 20))
        self._doubtful = not isinstance(error, BusUnavailable)
        self.failures += 1
        if self.failures == ALARM_FAILURES:
            self._warn(
                "identity.renewal-missed",
                f"the SVID could not be renewed {self.failures} times; it ends in {max(0.0, left):.0f} s",
                {"failures": self.failures, "seconds_left": round(left), "code": error.code},
            )

    def _look_ahead(self, now: float) -> None:
        """Say long before what will end, and once if this very instance was revoked."""
        for root, days in self._alarms.due(self._identity.bundle, now):
            left = root.not_valid_after_utc.timestamp() - now
            self._warn(
                "identity.root-expires",
                f"a root of the mesh ends in {left / 86400:.1f} days: busmesh identity rotate",
                {"root": key_identifier(root).hex(), "seconds_left": round(left), "threshold_days": days},
            )
        if self._alarms.newly_late(self._identity.svid, now):
            left = max(0.0, self._identity.svid.not_after - now)
            log.error("the SVID was not renewed in time and ends in %.0f s: is an authority up?", left)
            self._warn(
                "identity.svid-expires",
                f"the SVID was not renewed in time and ends in {left:.0f} s: is an authority up?",
                {"seconds_left": round(left)},
            )
        if self._identity.revoked and not self._revoked:
            log.error(
                "this instance was revoked: nobody takes its requests; start it again with a join token"
            )
            self._warn("identity.revoked", "this instance was revoked", {})
        self._revoked = self._identity.revoked
