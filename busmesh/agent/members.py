"""The member actor: follows the services that this agent calls, and keeps the request path informed.

An agent subscribes to the members of a service when it first calls it: what it costs grows with what it
uses, not with the mesh.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from busmesh.actors.actor import Actor
from busmesh.bus.bus import Bus
from busmesh.bus.messages import is_no_responders
from busmesh.errors import BusmeshError
from busmesh.identity.holder import Identity
from busmesh.identity.signed import may_be_envelope, open_signed
from busmesh.members.announcement import PURPOSE, Announcement, State, decode
from busmesh.members.table import Member, MemberTable
from busmesh.names import ServiceName, Subjects
from busmesh.relay.destination.upstream import Endpoint, Knowledge
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.session.handshakes import lot
from busmesh.relay.session.opening import Sessions
from busmesh.telemetry.tally import Tally
from busmesh.wire.frame import Session

log = logging.getLogger(__name__)

#: An announcement older than this proves nothing about now.
MAX_AGE_S = 30.0
#: After "who?" so long a service counts as known: until then a request that finds no instance of its subset
#: waits, because one may be about to answer.
ANSWER_S = 0.3
#: So often at most an instance that was called gone is asked whether it is.
ASK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True)
class Follow:
    """Somebody calls this service."""

    service: ServiceName


@dataclass(frozen=True, slots=True)
class Heard:
    """A message on a member subject, or an answer to "who?"."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class NobodyServes:
    """The bus said that nobody listens to "who serves this?"."""

    service: ServiceName


@dataclass(frozen=True, slots=True)
class Lost:
    """The bus said that nobody listens at this instance."""

    service: ServiceName
    instance: str


class BusBack:
    """The bus is connected again."""


class Members(Actor[Follow | Heard | NobodyServes | Lost | BusBack]):
    """Owns the member table."""

    interval = 0.25
    capacity = 8192

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        identity: Identity,
        upstreams: Upstreams,
        me: str,
        inbox: str,
        worker: int = 0,
    ) -> None:
        super().__init__("members")
        self._bus = bus
        self._subjects = subjects
        self._identity = identity
        self._upstreams = upstreams
        self._worker = worker
        self._notice_prefix = subjects.notice_prefix(me, worker)
        self._answers = f"{inbox}.who"
        self._asked: dict[str, ServiceName] = {}
        self._asked_at: dict[ServiceName, float] = {}
        self._asked_again: dict[ServiceName, float] = {}
        self._subscriptions: dict[ServiceName, int] = {}
        self._listening = False
        self.table = MemberTable()
        self.sessions: Sessions | None = None
        self._refused = Tally(log, "announcements")
        #: Told the highest revision that any member has in force: a later one means that we missed some.
        self.on_revision: Callable[[int], None] = lambda revision: None
        #: Told the trust version and the digest of the revocations of every member.
        self.on_trust: Callable[[int, str], None] = lambda version, digest: None

    @property
    def forged(self) -> int:
        """Announcements that proved nothing."""
        return self._refused.count

    # -- what the bus and the request path call ----------------------------------------------------

    def discover(self, service: ServiceName) -> None:
        self.mailbox.tell(Follow(service))

    def gone(self, endpoint: Endpoint, worker: int = 0) -> None:
        """Take an endpoint out at once, as nobody listens there or hears any more; the table follows.

        Anybody on the bus can write "no responders". So the instance is asked: if it lives, it is back within
        a round trip, with the session that it had.

        Args:
            endpoint: the instance.
            worker: which process of it that is about.
        """
        service, now = endpoint.service, time.monotonic()
        if worker:
            # The instance lives on without this worker of it; another one takes the next session.
            if endpoint.session is None or endpoint.session.worker != worker:
                return  # it has, or is about to
            endpoint.session = None
            if self.sessions is not None:
                self.sessions.want(service, endpoint.instance, shift=1)
        endpoint.ready = False
        self._upstreams.upstream(service).knowledge = Knowledge.ASKING
        self._upstreams.changed(service)
        self._asked_at[service] = now
        self.mailbox.tell(Lost(endpoint.service, endpoint.instance))

    def opened(self, service: ServiceName, instance: str, session: Session) -> None:
        """Hear that a session stands."""
        endpoint = self._upstreams.upstream(service).endpoints.get(instance)
        if endpoint is not None:
            subject = self._subjects.relay(instance, session.worker)
            session.head = f"PUB {subject} {self._notice_prefix}".encode()
            endpoint.session = session
            endpoint.unanswered = 0
            self._upstreams.changed(service)

    def renew_session(self, endpoint: Endpoint) -> None:
        if self.sessions is not None:
            self.sessions.want(endpoint.service, endpoint.instance)

    def _on_member(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self._take(payload)

    def _take(self, payload: bytes) -> None:
        if may_be_envelope(payload):
            self.mailbox.tell(Heard(payload), len(payload))
        else:
            self._refused.add("not a signed message")

    def _on_answer(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        if is_no_responders(headers):
            # The bus says so at the reply subject itself; below it, it is some agent that does.
            key = subject.decode("ascii", "replace").removeprefix(f"{self._answers}.")
            service = self._asked.get(key)
            if service is not None:
                self.mailbox.tell(NobodyServes(service))
        else:
            self._take(payload)

    # -- the actor ---------------------------------------------------------------------------------

    async def started(self) -> None:
        if not self._listening:
            await self._bus.subscribe(f"{self._answers}.>", self._on_answer)
            self._listening = True

    async def receive(self, message: Follow | Heard | NobodyServes | Lost | BusBack) -> None:
        match message:
            case Follow(service):
                await self._follow(service)
            case Heard(payload):
                await asyncio.sleep(0)  # a flood of forgeries must not keep requests waiting
                self._hear(payload)
            case NobodyServes(service):
                self._known(service)
            case Lost(service, instance):
                self.table.lost(service, instance, time.monotonic())
                self._ask_again(service)
            case BusBack():
                self.table.excuse(time.monotonic())
                for service in self._subscriptions:
                    self._ask(service)

    async def tick(self) -> None:
        now = time.monotonic()
        for service, asked in list(self._asked_at.items()):
            if now - asked > ANSWER_S:
                self._known(service)
        if not self._bus.connected:
            return
        for gone in self.table.expire(now):
            how = "is gone" if gone.state is State.LEFT else "has not been heard of for too long"
            log.info("instance %s of %s %s", gone.instance, gone.name, how)
            self._show(gone.name)

    async def _follow(self, service: ServiceName) -> None:
        if service in self._subscriptions:
            return
        self._subscriptions[service] = await self._bus.subscribe(
            self._subjects.members(service), self._on_member
        )
        self._ask(service)

    def _ask(self, service: ServiceName) -> None:
        key = f"{service.namespace}-{service.name}"
        self._asked[key] = service
        self._asked_at[service] = time.monotonic()
        try:
            self._bus.publish(self._subjects.who(service), b"", f"{self._answers}.{key}")
        except BusmeshError:
            return  # asked again when the bus is back

    def _ask_again(self, service: ServiceName) -> None:
        """Ask, unless that was done a moment ago: whoever forges signs must not make us flood the bus."""
        now = time.monotonic()
        if now - self._asked_again.get(service, 0.0) > ASK_AGAIN_S:
            self._asked_again[service] = now
            self._ask(service)

    def _known(self, service: ServiceName) -> None:
        self._asked_at.pop(service, None)
        upstream = self._upstreams.upstream(service)
        if upstream.knowledge is Knowledge.ASKING:
            upstream.knowledge, upstream.settled = Knowledge.KNOWN, True
            self._upstreams.changed(service)

    def _hear(self, payload: bytes) -> None:
        try:
            signed = open_signed(payload, PURPOSE, self._identity.verifier, time.time(), max_age=MAX_AGE_S)
            announcement = decode(signed.body)
        except BusmeshError as error:
            self._refused.add(error)
            return
        if announcement.name not in self._subscriptions:
            return
        if not self.table.is_news(announcement, signed.signer.id):
            return  # replayed, or not by whom it speaks of: nothing follows from it
        changed = self.table.apply(announcement, signed.signer.id, time.monotonic())
        self.on_revision(announcement.revision)
        self.on_trust(announcement.trust, announcement.revocations)
        self._revive(announcement)
        self._move(announcement)
        if changed:
            self._show(announcement.name)
        self._report(announcement)

    def _report(self, announcement: Announcement) -> None:
        """Let balancers know of an instance's load; it comes each second, nothing else follows from it."""
        endpoint = self._upstreams.upstream(announcement.name).endpoints.get(announcement.instance)
        load = announcement.load
        if endpoint is not None and load is not None:
            endpoint.figures.report(load.qps, load.eps, load.utilisation, time.monotonic())

    def _revive(self, announcement: Announcement) -> None:
        endpoint = self._upstreams.upstream(announcement.name).endpoints.get(announcement.instance)
        if endpoint is not None and (endpoint.suspect or endpoint.revoked):
            endpoint.suspect = endpoint.revoked = False
            self._upstreams.changed(announcement.name)

    def _move(self, announcement: Announcement) -> None:
        """Have the session be with the worker that is meant for it, or with the first if that takes none.

        Who died comes back without sessions: nobody would go to it again before sessions are due for other
        reasons.
        """
        takes = announcement.workers
        endpoint = self._upstreams.upstream(announcement.name).endpoints.get(announcement.instance)
        if not takes or endpoint is None or endpoint.session is None:
            return
        meant = lot(self._identity.id, announcement.instance, self._worker) % len(takes)
        if endpoint.session.worker != (meant if takes[meant] else 0):
            self.renew_session(endpoint)

    def _show(self, service: ServiceName) -> None:
        """Bring the request path's endpoints in line with the table."""
        endpoints = self._upstreams.upstream(service).endpoints
        present = set()
        for member in self.table.of(service):
            announcement = member.announcement
            if announcement.state is State.LEFT or not announcement.serves:
                continue
            present.add(announcement.instance)
            endpoint = endpoints.get(announcement.instance)
            if endpoint is None:
                endpoint = endpoints[announcement.instance] = self._endpoint(announcement)
            self._update(endpoint, member)
        for instance in [instance for instance in endpoints if instance not in present]:
            gone = endpoints.pop(instance)
            gone.ready = False
            gone.session = None
            if self.sessions is not None:
                self.sessions.unwant(service, instance)
        self._upstreams.changed(service)

    def _endpoint(self, announcement: Announcement) -> Endpoint:
        endpoint = Endpoint(announcement.name, announcement.instance)
        if self._upstreams.upstream(announcement.name).settled:
            endpoint.since = time.monotonic()
        return endpoint

    def _update(self, endpoint: Endpoint, member: Member) -> None:
        announcement = member.announcement
        if endpoint.incarnation != announcement.incarnation:
            endpoint.incarnation = announcement.incarnation
            endpoint.session = None  # another process: it knows nothing of the old one's keys
            endpoint.suspect = False
        endpoint.labels = announcement.labels
        endpoint.version = announcement.labels.get("version", "")
        endpoint.locality = announcement.locality
        endpoint.weight = announcement.weight
        endpoint.leaving = announcement.state is State.DRAINING
        endpoint.ready = member.ready
        if endpoint.ready and endpoint.session is None and self.sessions is not None:
            self.sessions.want(endpoint.service, endpoint.instance)
