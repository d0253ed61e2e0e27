"""A worker: one more process of an agent, which carries requests and decides nothing of its own.

It has its own connection to the bus, its own sessions and its own members; the agent's first process tells
it the policies, the identity and whether requests are taken, and hears once a second what happened. Without
the first process it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from secrets import randbits
from typing import Any

from busmesh.actors.supervisor import Supervisor
from busmesh.agent import memory
from busmesh.agent.definition import AgentDefinition
from busmesh.agent.ejections import Ejections
from busmesh.agent.evidence import SharedEvidence
from busmesh.agent.keys import TokenKeys
from busmesh.agent.limits import BusBack as LimitsBusBack
from busmesh.agent.limits import LimitSharing
from busmesh.agent.members import BusBack, Members
from busmesh.agent.observer import Observer
from busmesh.agent.parts import (
    ACCESS_EVENTS_PER_S,
    MAX_SERVICES,
    MAX_TOKENS,
    divided,
    listener_limits,
    origin_of,
    resource_of,
)
from busmesh.agent.pipe import Message, Pipe
from busmesh.agent.policies import Policies
from busmesh.agent.policystore import PolicyStore
from busmesh.agent.registrar import Registrar
from busmesh.agent.rekeying import RekeyAll, Rekeying
from busmesh.agent.witness import Witness
from busmesh.bus.bus import Bus
from busmesh.bus.login import Login
from busmesh.bus.options import BusOptions
from busmesh.bus.policylog import PolicyLog
from busmesh.decide.ratelimit import RateLimiter
from busmesh.decide.share import PERIOD_S
from busmesh.decide.sharereport import parse_report
from busmesh.decide.sharing import Sharing
from busmesh.errors import BusmeshError, IdentityError, UsageError
from busmesh.identity.holder import Identity
from busmesh.identity.store import AgentHome
from busmesh.identity.tokens import JwtTokens
from busmesh.identity.trustlog import Taken
from busmesh.members.acknowledgement import Acknowledgement
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.policy.compile import Caller
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.accepting import Acceptor
from busmesh.relay.access import Access
from busmesh.relay.application import Application, PoolLimits
from busmesh.relay.inbound import Inbound
from busmesh.relay.listener import Listener
from busmesh.relay.opening import Sessions, open_session
from busmesh.relay.outbound import Outbound
from busmesh.relay.upstreams import Upstreams
from busmesh.telemetry.access import AccessLog
from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.trace import Tracer
from busmesh.trust.follower import Follow, TrustFollower
from busmesh.trust.store import TrustStore
from busmesh.wire.frame import Session

log = logging.getLogger(__name__)

#: Between two reports to the first process; while it drains that waits for the end of what is at work.
REPORT_S = 1.0
DRAIN_REPORT_S = 0.02


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a worker is told at its beginning."""

    definition: str
    mesh: str
    instance: str
    worker: int
    address: list[Any]
    servers: list[str]
    files: list[str | None]
    home: str
    born: int

    @property
    def bus_options(self) -> BusOptions:
        credentials, nkey, tls_ca = (Path(file) if file else None for file in self.files)
        inbox = Subjects(self.mesh).inbox_prefix(self.instance)
        name = f"busmesh agent {self.instance} worker {self.worker}"
        # The first process renews the login and puts it on disk.
        login = Login(read=AgentHome(Path(self.home)).credentials)
        return BusOptions(tuple(self.servers), name, inbox, credentials, nkey, tls_ca, login)


class _Nobody:
    """The first process tells the operators; a worker has nobody to tell."""

    def tell(self, message: Acknowledgement) -> bool:
        return True

    async def ask(self, message: Acknowledgement, timeout: float) -> None:
        raise UsageError("a worker asks no operator")


class Worker:
    """One worker.

    Args:
        setup: what it is told at its beginning.
        pipe: the way to the first process.
    """

    def __init__(self, setup: Setup, pipe: Pipe) -> None:
        self._setup = setup
        self._pipe = pipe
        self.definition = AgentDefinition.model_validate_json(setup.definition)
        self.subjects = Subjects(setup.mesh)
        self.instance, self.number = setup.instance, setup.worker
        self.id = SpiffeId.workload(setup.mesh, self.definition.name, self.instance)
        self._home = AgentHome(Path(setup.home))
        self._rng = Random(randbits(64))  # balancing, not secrets
        self.bus = Bus(setup.bus_options)
        self.supervisor = Supervisor(self._rng)
        self._draining = False
        #: Set when the first process has told all that is to be known before a request is taken.
        self._told = asyncio.Event()
        self._connected = asyncio.Event()
        self._login_shown: asyncio.Task[None] | None = None
        self._make()

    def _make(self) -> None:
        definition, bus, subjects, number = self.definition, self.bus, self.subjects, self.number
        identity = self.identity = Identity(self._home.svid(), self._home.trust(self._setup.mesh))
        self.registry = Registry({})
        self.access = AccessLog(definition.telemetry.access_log, self._rng, ACCESS_EVENTS_PER_S)
        self.tracer = Tracer(
            resource_of(definition, self.instance), self._rng, ratio=definition.telemetry.tracing
        )
        # Its own copy: two processes must not write to one log.
        self.trust = TrustFollower(
            bus,
            subjects,
            identity.verifier,
            TrustStore(self._home.trust_log.with_name(f"worker-{number}-{self._home.trust_log.name}")),
            self._trust_changed,
            self._rng,
        )
        self.keys = TokenKeys(lambda: (self._setup.address[0], self._setup.address[1]), _no_event)
        self.tokens = JwtTokens(self.keys.sets, capacity=MAX_TOKENS)
        announcement = Registrar(bus, subjects, identity, definition, self.instance).announcement
        self.upstreams = Upstreams(
            self._rng,
            self._discover,
            MAX_SERVICES,
            origin_of(definition, self.instance),
        )
        self.members = Members(bus, subjects, identity, self.upstreams, self.instance, bus.inbox, number)
        self.members.on_trust = self.trust.heard_of
        self.sessions = self.members.sessions = Sessions(self._open_session, self.members.opened)
        self.ejections = Ejections(self.upstreams, lambda ejection: self._tell("eject", *ejection))
        self.upstreams.on_ejection = self.ejections.found
        now = time.monotonic()
        sharing = Sharing(born=self._setup.born, now=now)
        self.local = Sharing(born=self._setup.born, now=now)
        self.limiter = RateLimiter(sharing, local=self.local)
        self.limits = LimitSharing(bus, subjects, identity, self.id, sharing, self.limiter, number)
        self.evidence = SharedEvidence(bus, subjects, identity, self.id, self.upstreams, tells=False)
        self.policies = Policies(
            bus=bus,
            policy_log=PolicyLog(bus, subjects),
            store=PolicyStore(self._home.policies),
            verifier=identity.verifier,
            caller=Caller(definition.name, definition.labels, definition.name.namespace),
            apply=self._apply,
            acknowledge=_Nobody(),
            rng=self._rng,
        )
        observer = self.observer = Observer(
            self.registry, self.access, self.tracer, self.id, announcement, Witness(self.upstreams)
        )
        self.outbound = Outbound(
            bus,
            namespace=definition.name.namespace,
            upstreams=self.upstreams,
            snapshot=self.policies.snapshot,
            observer=observer,
            renew_session=self.members.renew_session,
            gone=self.members.gone,
            rng=self._rng,
        )
        self.listener = Listener(self.outbound.handle, self.outbound.abandon, listener_limits(definition))
        self.inbound: Inbound | None = None
        if definition.app_address is not None:
            self._make_inbound(definition.app_address, observer)
        self.rekeying = Rekeying(self.upstreams, self.inbound, self.members.renew_session, self._rng)

    def _make_inbound(self, address: tuple[str, int], observer: Observer) -> None:
        limits, workers = self.definition.limits, self.definition.workers
        pool = PoolLimits(divided(limits.max_requests, workers), divided(limits.max_pending, workers))
        self.application = Application(*address, pool)
        self.application.on_unreachable = lambda: self._tell("unreachable")
        self.inbound = Inbound(
            self.bus,
            subjects=self.subjects,
            me=self.id,
            application=self.application,
            observer=observer,
            limiter=self.limiter,
            contexts=self.outbound.contexts,
            max_active=divided(limits.max_requests + limits.max_pending, workers),
        )
        self.inbound.closed_because = "its policies have not been read yet"
        self.acceptor = Acceptor(
            self.bus, self.subjects, self.identity, self.inbound.add_session, self.number
        )
        number, workers = self.number, self.definition.workers
        self.acceptor.mine = lambda identifier: identifier[0] % workers == number

    def _discover(self, service: ServiceName) -> None:
        self.members.discover(service)

    async def _open_session(self, service: ServiceName, instance: str, shift: int) -> Session:
        own = (self.bus, self.subjects, self.identity)
        session = await open_session(*own, service, instance, self.number, shift=shift)
        if self.identity.ends(session.fingerprint):  # revoked while the last answer was on its way
            raise IdentityError(f"instance {instance} was revoked", code="BM4009")
        return session

    def _tell(self, kind: str, *what: object) -> None:
        self._pipe.send(kind, *what)

    # -- life --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry requests until the first process says that it is enough, or is gone."""
        listening = asyncio.create_task(self._listen_to_first())
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.wait([listening, starting], return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                await starting
                await self._report_until(listening)
            await listening
        finally:
            starting.cancel()
            listening.cancel()
            await self._end()

    async def _start(self) -> None:
        bus, subjects, instance, number = self.bus, self.subjects, self.instance, self.number
        await bus.connect()
        self._connected.set()
        self.trust.load()
        await self.trust.started()
        await bus.subscribe(subjects.replies(instance, number), self.outbound.on_reply)
        if self.inbound is not None:
            await bus.subscribe(subjects.relay(instance, number), self.inbound.on_relay)
            await bus.subscribe(f"{subjects.gone_prefix(instance)}*", self.inbound.on_gone)
            await bus.subscribe(subjects.session(instance), self.acceptor.on_message)
        bus.on_connection(self._on_connection)
        for actor in (self.members, self.rekeying, self.limits, self.evidence, self.trust, self.keys):
            self.supervisor.start(actor)
        for service in self.definition.upstreams:
            self.upstreams.upstream(ServiceName.parse(service))
        await bus.settled()
        await self._told.wait()
        host, port = self._setup.address
        await self.listener.start(host, port, shared=True)
        memory.keep_blocks()
        memory.settle()
        self._report()
        self._tell("ready")

    def _on_connection(self, standing: bool) -> None:
        if standing:
            self.members.mailbox.tell(BusBack())
            self.limits.mailbox.tell(LimitsBusBack())
            self.trust.mailbox.tell(Follow())
        self._tell("bus", standing)

    async def _report_until(self, listening: asyncio.Task[None]) -> None:
        reported = 0.0
        while not listening.done():
            pause = DRAIN_REPORT_S if self._draining else PERIOD_S
            await asyncio.wait([listening], timeout=pause)
            now = time.monotonic()
            self.local.tick(now)
            report = self.local.report(now)
            if report is not None:
                self._tell("limits", self.number, report.to_plain())
            if now - reported >= (DRAIN_REPORT_S if self._draining else REPORT_S):
                reported = now
                self._report()

    def _report(self) -> None:
        inbound = self.inbound
        active = inbound.active if inbound is not None else 0
        counts = {
            "active": active,
            "served": inbound.served if inbound is not None else 0,
            "failed": inbound.failed if inbound is not None else 0,
            "sent": self.outbound.active,
            "connections": len(self.listener.connections),
            "cpu_s": round(time.process_time(), 3),
            "revision": self.policies.set.number,
            "sessions": inbound.statistics()["sessions"] if inbound is not None else 0,
            "svid": f"{self.identity.svid.certificate.serial_number:x}",
            "draining": self._draining,
        }
        self._tell("counts", counts, self.registry.take(), self.registry.take_counters())
        if access := self.access.drain():
            self._tell("access", access)
        if spans := self.tracer.drain():
            self._tell("spans", spans)

    async def _end(self) -> None:
        await self.sessions.stop()
        await self.supervisor.stop()
        if self.inbound is not None:
            self.application.close()
        await self.bus.close()
        self._pipe.close()

    # -- what the first process says ---------------------------------------------------------------

    async def _listen_to_first(self) -> None:
        while (message := await self._pipe.receive()) is not None:
            if message[0] == "close":
                await self.listener.close(grace=message[1])
                self._report()
                return
            self._hear(message)
        # The first process is dead: nobody answers for this instance any more.
        os._exit(1)

    def _hear(self, message: Message) -> None:
        match message:
            case ["entry", bytes(entry)]:
                self.policies.follow(entry)
            case ["closed", str(reason)]:
                if self.inbound is not None:
                    self.inbound.closed_because = reason
                self._told.set()
            case ["drain"]:
                self._draining = True
                if self.inbound is not None:
                    self.inbound.go_away()
                self._report()
            case ["identity"]:
                self._renew()
            case ["eject", str(key), str(instance), str(cause), float(seconds)]:
                self.ejections.heard(key, instance, cause, seconds)
            case ["limits", int(who), plain]:
                self.local.hear(str(who), parse_report(plain), time.monotonic())

    def _renew(self) -> None:
        """Use the identity and the login that the first process has put on disk."""
        try:
            self.identity.renew(self._home.svid(), self._home.trust(self._setup.mesh))
        except BusmeshError as error:  # the next renewal will tell; until then there is the old one
            log.error("the renewed identity cannot be read: %s", error)
            return
        self.rekeying.mailbox.tell(RekeyAll())
        self._login_shown = asyncio.create_task(self._show_login(self._login_shown))

    async def _show_login(self, before: asyncio.Task[None] | None) -> None:
        """Go over to a connection with the login of now, if the bus asks for one."""
        await self._connected.wait()
        if before is not None:
            await before
        login = self.bus.options.login
        if login is not None and login.held() is not None and not await self.bus.renew_login():
            log.warning("the bus was not shown the renewed login; it will be when the connection ends")

    def _apply(self, snapshot: Snapshot) -> None:
        self.outbound.use(snapshot)
        self.limiter.apply(snapshot.limits, time.monotonic())
        authorizer = snapshot.authorizer
        authenticator = authorizer.authenticator if authorizer is not None else None
        self.keys.use(authenticator.jwks_uris if authenticator is not None else {})
        if self.inbound is not None:
            access = Access(authorizer, self.tokens, self.observer) if authorizer is not None else None
            self.inbound.access = access
        for service in self.upstreams.services():
            for referenced in snapshot.referenced(service):
                self.upstreams.upstream(referenced)

    def _trust_changed(self, taken: Taken) -> None:
        """End what rests on certificates that count no more."""
        if self.inbound is not None:
            self.inbound.close_sessions(self._session_ends)
        for endpoint in list(self.upstreams.endpoints()):
            session = endpoint.session
            if session is None or not self._session_ends(session):
                continue
            if taken is Taken.BUNDLE:
                self.members.renew_session(endpoint)
                continue
            endpoint.session = None
            self.outbound.fail_all(endpoint, "revoked", f"instance {endpoint.instance} was revoked")
            self.members.gone(endpoint)

    def _session_ends(self, session: Session) -> bool:
        return self.identity.ends(session.fingerprint)


def _no_event(uri: str, problem: str) -> None:
    """The first process, which asks for the same keys, tells of it."""


async def serve(descriptor: int) -> None:
    """Be the worker whose first process holds the other end of ``descriptor``.

    A service manager that ends an agent sends SIGTERM to all of its processes at once. What is to end when,
    the first one says.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pipe = await Pipe.over(socket.socket(fileno=descriptor))
    message = await pipe.receive()
    if message is None:
        return
    setup = Setup(**message[1])
    worker = Worker(setup, pipe)
    with contextlib.suppress(asyncio.CancelledError):
        await worker.run()
