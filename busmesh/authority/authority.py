"""The authority put together: keys, a desk for newcomers, a desk for members, under one supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from random import Random
from typing import Any

from busmesh.actors.actor import Actor
from busmesh.actors.supervisor import Supervisor
from busmesh.authority.attendance import Attendance
from busmesh.authority.desk import ENROL_COSTS, RATE_PER_S, RENEW_COSTS, Desk
from busmesh.authority.hearing import HEAR_S, Hearing
from busmesh.authority.keys import KeyKeeper, Keys
from busmesh.authority.shutout import Look, ShutOuts
from busmesh.bus.bus import Bus
from busmesh.bus.client import Handler
from busmesh.errors import BusUnavailable
from busmesh.identity.enrol import Answer, SeenNonces, answer
from busmesh.identity.renew import answer_renewal
from busmesh.identity.store import Home
from busmesh.identity.trustlog import Taken
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId, Subjects, token
from busmesh.trust.follower import Follow, TrustFollower
from busmesh.trust.store import TrustStore

log = logging.getLogger(__name__)


class Authority:
    """One authority. Several of one mesh may run, each with a copy of the root: the first answer counts.

    One whose root is not the one that issues, because it was replaced and nobody has brought it the next,
    stays silent and leaves the answer to the others.

    Args:
        bus: a connection; whether it stands yet does not matter.
        home: with root, trust bundle and grants.
        mesh: the mesh's name.
        name: the authority's own name, the last part of its SPIFFE ID.
        lifetime_s: of the SVIDs of workloads; None: 1 h. Shorter limits what a stolen key is good for; longer
            outlives a longer absence of the authority.
        logs: the connection by which it follows the trust log, if that is not ``bus``: on a locked bus the
            logs have an account of their own.
        rate: SVIDs a second that each desk issues at most, on average. Higher lets a large mesh start faster;
            lower leaves more of the processor to others when somebody with a token goes wild.
        rng: jitter.

    Raises:
        NotFound, IdentityError: as `Keys` does.
        InvalidName: ``mesh`` or ``name`` is not a name.
    """

    def __init__(
        self,
        bus: Bus,
        home: Home,
        mesh: str,
        *,
        name: str = "authority",
        lifetime_s: float | None = None,
        logs: Bus | None = None,
        rate: float = RATE_PER_S,
        rng: Random | None = None,
    ) -> None:
        rng = rng or Random()
        self.id = SpiffeId(token(mesh, "mesh"), authority=token(name, "authority"))
        self._bus = bus
        self._logs = logs = logs if logs is not None else bus
        self._subjects = Subjects(mesh)
        self._lifetime_s = lifetime_s
        self._keys = Keys(home, self.id, time.time(), rng)
        self.trust = TrustFollower(
            logs, self._subjects, self._keys.verifier, TrustStore(home.trust_log), self._trust_changed, rng
        )
        self._seen = SeenNonces()
        self._supervisor = Supervisor(rng)
        self._also: list[Actor[Any]] = []
        self._subscriptions: list[int] = []
        self.keeper = KeyKeeper(self._keys)
        self.attendance = Attendance(bus, self._subjects, self._keys)
        self.enrolments = Desk(
            "enrol",
            bus,
            self._subjects,
            self._enrol,
            costs=ENROL_COSTS,
            rate=rate,
        )
        self.names = Hearing(self._keys.register, self._keys.verifier)
        self.renewals = Desk("renew", bus, self._subjects, self._renew, costs=RENEW_COSTS, rate=rate)
        self.shut_outs = ShutOuts(bus, self._subjects, self._keys, self.renewals.answers_at)

    def __repr__(self) -> str:
        return f"<Authority {self.id} {self.statistics()}>"

    async def start(self) -> None:
        """Start the actors and listen; the bus carries the subscriptions over every reconnect."""
        self.trust.load()
        await self.trust.started()  # nobody gets a certificate of a root that was removed meanwhile
        self._logs.on_connection(self._on_connection)
        desks = (self.enrolments, self.renewals)
        actors: list[Actor[Any]] = [self.trust, self.keeper, self.names, *desks, self.shut_outs]
        for actor in [*actors, *self._also]:
            self._supervisor.start(actor)
        await self._listen(self._subjects.all_members, self.names.on_message)
        await self._listen(self._subjects.renew, self.renewals.on_message)
        await self._listen(self._subjects.shut_out, self.shut_outs.on_question)
        if not self._keys.register.empty:
            # Another authority may have granted names since this one knew all of them.
            await asyncio.sleep(HEAR_S)
        await self._listen(self._subjects.enrol, self.enrolments.on_message)
        await self._listen(self._subjects.attendance, self.attendance.on_question)
        log.info("%s answers on the bus", self.id)

    async def _listen(self, subject: str, handler: Handler) -> None:
        self._subscriptions.append(await self._bus.subscribe(subject, handler))
        with contextlib.suppress(BusUnavailable):  # a bus that comes back gets the subscriptions then
            await self._bus.round_trip()  # by the time of the answer the server has them

    async def stop(self) -> None:
        """Stop listening and end the actors."""
        while self._subscriptions:
            await self._bus.unsubscribe(self._subscriptions.pop())
        await self._supervisor.stop()
        self._keys.register.save()

    @property
    def verifier(self) -> Verifier:
        """Whom this authority believes; it follows the home's trust bundle."""
        return self._keys.verifier

    def accompany(self, actor: Actor[Any]) -> None:
        """Have ``actor`` start and end with this authority, which has not started yet."""
        self._also.append(actor)

    def reload(self) -> None:
        """Read roots and grants again soon, not at the next look."""
        self.keeper.mailbox.tell(None)

    def _on_connection(self, standing: bool) -> None:
        if standing:
            self.trust.mailbox.tell(Follow())
            self.shut_outs.mailbox.tell(Look())

    def _trust_changed(self, taken: Taken) -> None:
        if taken is Taken.BUNDLE:
            self._keys.keep_trust()
            self.reload()
        else:
            self.shut_outs.mailbox.tell(Look())
            self._keys.look_at_operators()
            self.reload()

    def statistics(self) -> dict[str, dict[str, int]]:
        return {desk.name: desk.statistics() for desk in (self.enrolments, self.renewals)}

    def _enrol(self, request: bytes, now: float) -> Answer | None:
        keys = self._keys
        if not keys.issues:
            return None
        return answer(
            request,
            keys.grants,
            keys.ca,
            now,
            self._seen,
            verifier=keys.verifier,
            lifetime_s=self._lifetime_s,
            register=keys.register,
        )

    def _renew(self, request: bytes, now: float) -> Answer | None:
        keys = self._keys
        if not keys.issues:
            return None
        keys.renew_own(now)
        return answer_renewal(
            request,
            keys.ca,
            keys.svid,
            keys.verifier,
            now,
            lifetime_s=self._lifetime_s,
            register=keys.register,
        )
