"""The agent: identity, actors, request path and admin endpoint of one service instance, put together.

``start`` brings it up in the order in which things depend on each other; ``drain`` takes it out of
rotation and lets requests at work finish; ``close`` ends it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from random import Random
from secrets import randbits

from busmesh.actors.supervisor import Supervisor
from busmesh.agent import limits, memory
from busmesh.agent.admin import Admin
from busmesh.agent.definition import AgentDefinition, split_address
from busmesh.agent.dryrun import DryRuns
from busmesh.agent.ejections import Ejection, Ejections
from busmesh.agent.evidence import SharedEvidence
from busmesh.agent.expiry import register_identity
from busmesh.agent.health import HealthChecker, Unreachable
from busmesh.agent.identity import Enroller, Renewals, TrustChanged
from busmesh.agent.keys import TokenKeys
from busmesh.agent.limits import LimitSharing
from busmesh.agent.members import BusBack, Members
from busmesh.agent.namesake import Namesake
from busmesh.agent.observer import Observer
from busmesh.agent.pages import pages_of
from busmesh.agent.parts import (
    ACCESS_EVENTS_PER_S,
    MAX_SERVICES,
    MAX_TOKENS,
    divided,
    listener_limits,
    origin_of,
    resource_of,
)
from busmesh.agent.pipe import Message
from busmesh.agent.policies import Policies, Published, SeenElsewhere, Synchronise
from busmesh.agent.policystore import PolicyStore
from busmesh.agent.readiness import Readiness
from busmesh.agent.registrar import Drain, HealthChanged, Leave, PolicyInForce, Registrar, Renewed, Retire
from busmesh.agent.rekeying import RekeyAll, Rekeying
from busmesh.agent.telemetry import Telemetry
from busmesh.agent.witness import Witness
from busmesh.agent.workers import LocalLimits, Workers
from busmesh.bus.address import SubjectAddress
from busmesh.bus.bus import Bus
from busmesh.bus.policylog import PolicyLog
from busmesh.decide.ratelimit import RateLimiter
from busmesh.decide.records import Change
from busmesh.decide.sharing import Sharing
from busmesh.errors import BusmeshError, IdentityError, UsageError
from busmesh.identity.signed import seal_signed
from busmesh.identity.store import AgentHome
from busmesh.identity.ticket import JoinTicket
from busmesh.identity.tokens import JwtTokens
from busmesh.identity.trustlog import Taken
from busmesh.members import acknowledgement
from busmesh.members.acknowledgement import Acknowledgement
from busmesh.members.announcement import Announcement, Refused, State
from busmesh.members.load import STALE_S, Load, LoadMeter, read_report
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.policy.compile import Caller
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.accepting import Acceptor
from busmesh.relay.access import Access
from busmesh.relay.application import Application, PoolLimits
from busmesh.relay.destination import Destination
from busmesh.relay.inbound import Inbound
from busmesh.relay.listener import Listener
from busmesh.relay.opening import Sessions, open_session
from busmesh.relay.outbound import Beside, Outbound
from busmesh.relay.upstreams import Upstreams
from busmesh.telemetry.access import AccessLog
from busmesh.telemetry.events import EventLog
from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.process import register_process
from busmesh.telemetry.trace import Tracer
from busmesh.trust.follower import Follow, TrustFollower
from busmesh.trust.store import TrustStore
from busmesh.wire.frame import Session

log = logging.getLogger(__name__)

#: After "I am draining" callers need a moment to hear it; requests that come meanwhile are served.
DRAIN_NOTICE_S = 0.5
_SUPERSEDED = "another process has taken this instance's name; give each its own with --instance"
#: Why an instance takes no requests at first.
NOT_YET = "its application has not been checked yet"


class Agent:
    """One agent.

    Args:
        definition: what it is.
        mesh: the mesh's name.
        bus: not yet connected.
        home: where identity and policies are kept.
        ticket: reads the join ticket, if there is no valid SVID.
        instance: the instance's name.
    """

    def __init__(
        self,
        definition: AgentDefinition,
        *,
        mesh: str,
        bus: Bus,
        home: AgentHome,
        ticket: Callable[[], JoinTicket],
        instance: str,
    ) -> None:
        self.definition = definition
        self.instance = instance
        self.subjects = Subjects(mesh)
        self.id = SpiffeId.workload(mesh, definition.name, instance)
        self.bus = bus
        self._home = home
        self._enroller = Enroller(bus, self.subjects, self.id, home, ticket)
        self._rng = Random(randbits(64))  # balancing, not secrets
        self.supervisor = Supervisor(self._rng)
        self.readiness = Readiness()
        self.draining = False
        self.superseded = False
        self.outbound_address = ("", 0)
        self.admin_address = ("", 0)
        #: Set by POST /drain.
        self.drain_requested = asyncio.Event()
        self._up = False

    # -- start -------------------------------------------------------------------------------------

    async def start(self, *, patience: float | None = None) -> None:
        """Come up; afterwards requests are taken and the instance is announced.

        Args:
            patience: seconds to try for to connect to the bus; None: for ever.

        Raises:
            BusmeshError: an address is in use, or the authority refused the enrolment.
        """
        if self.definition.workers > 1 and not hasattr(socket, "SO_REUSEPORT"):
            raise UsageError(
                "this system cannot spread connections over processes", code="BM3208", hint="set workers: 1"
            )
        self.identity = await self._enroller.obtain(patience=patience)
        await self.bus.connect(patience=patience)
        await self._catch_up(patience)
        self._make_telemetry()
        self._make_control()
        self._make_request_path()
        self.policies.load()
        await self._subscribe()
        self._start_actors()
        await self._listen()
        for service in self.definition.upstreams:
            self.upstreams.upstream(ServiceName.parse(service))
        self._require()
        self._up = True
        self._trust_changed(Taken.KNOWN)
        memory.keep_blocks()
        memory.settle()

    async def _catch_up(self, patience: float | None) -> None:
        """Hear what the mesh believes by now, before anybody is talked to.

        Starting is when a person looks at an instance, so one that was revoked joins anew by its join token.
        """
        self.trust = TrustFollower(
            self.bus,
            self.subjects,
            self.identity.verifier,
            TrustStore(self._home.trust_log),
            self._trust_changed,
            self._rng,
        )
        self.trust.load()
        await self.trust.started()
        if not self.identity.usable(time.time()):
            await self._enroller.enrol_anew(self.identity, patience=patience)
            await self._enroller.show_login()

    def _make_telemetry(self) -> None:
        name = self.definition.name
        origin = {"namespace": name.namespace, "service": name.name, "instance": self.instance}
        self.registry = Registry(origin)
        register_process(self.registry)
        self.access = AccessLog(self.definition.telemetry.access_log, self._rng, ACCESS_EVENTS_PER_S)
        self.events = EventLog(str(name), self.instance, capacity=256)
        resource = resource_of(self.definition, self.instance)
        self.tracer = Tracer(resource, self._rng, ratio=self.definition.telemetry.tracing)

    def _make_control(self) -> None:
        definition, bus, subjects, identity = self.definition, self.bus, self.subjects, self.identity
        self.registrar = Registrar(bus, subjects, identity, definition, self.instance)
        self._meter = LoadMeter()
        self.namesake = Namesake(
            identity,
            lambda: self.registrar.announcement,
            lambda: self.registrar.sealed,
            self._superseded,
        )
        self.upstreams = Upstreams(
            self._rng,
            self._discover,
            MAX_SERVICES,
            origin_of(definition, self.instance),
        )
        self.members = Members(bus, subjects, identity, self.upstreams, self.instance, bus.inbox)
        self.sessions = self.members.sessions = Sessions(self._open_session, self.members.opened)
        self.members.on_revision = self._on_revision
        self.ejections = Ejections(self.upstreams, self._tell_ejection)
        now = time.monotonic()
        sharing = Sharing(born=self.registrar.announcement.incarnation, now=now)
        self.workers: Workers | None = None
        local: Sharing | None = None
        if definition.workers > 1:
            local = Sharing(born=self.registrar.announcement.incarnation, now=now)
            self.workers = Workers(
                definition.workers - 1,
                self._worker_setup,
                lambda: self.policies.entries,
                lambda: self.inbound.closed_because if self.inbound is not None else "",
                self.ejections.current,
                self._worker_said,
                self._workers_changed,
                self._rng,
            )
            workers = self.workers
            self.registrar.workers = lambda: workers.taking
            self.local_limits = LocalLimits(local, self.workers)
        self.limiter = RateLimiter(sharing, local=local)
        self.limits = LimitSharing(bus, subjects, identity, self.id, sharing, self.limiter)
        self.evidence = SharedEvidence(bus, subjects, identity, self.id, self.upstreams)
        self.upstreams.on_ejection = self._on_ejection
        caller = self.caller = Caller(definition.name, definition.labels, definition.name.namespace)
        self.members.on_trust = self.trust.heard_of
        self.policies = Policies(
            bus=bus,
            policy_log=PolicyLog(bus, subjects),
            store=PolicyStore(self._home.policies),
            verifier=identity.verifier,
            caller=caller,
            apply=self._apply,
            acknowledge=_Acknowledgements(self),
            rng=self._rng,
        )
        if self.workers is not None:
            tell = self.workers.tell
            self.policies.on_entry = lambda entry: tell("entry", entry)
        self.dryruns = DryRuns(
            bus,
            subjects,
            identity,
            caller,
            current=lambda: self.policies.set,
            upstreams=self.upstreams,
            install=self._look_on,
            rng=self._rng,
        )
        self.renewals = Renewals(
            bus,
            identity,
            self._enroller,
            renewed=self._renewed,
            warn=self._event,
            rng=self._rng,
        )
        register_identity(self.registry, identity, lambda: self.renewals.renewals)
        self.policies.on_synchronised = self._may_serve
        self.keys = TokenKeys(lambda: self.outbound_address, self._on_keys)
        self.tokens = JwtTokens(self.keys.sets, capacity=MAX_TOKENS)
        self.telemetry = Telemetry(
            bus,
            subjects,
            definition.name,
            self.instance,
            registry=self.registry,
            access=self.access,
            events=self.events,
            tracer=self.tracer,
        )

    def _make_request_path(self) -> None:
        self.witness = Witness(self.upstreams)
        self.observer = observer = Observer(
            self.registry, self.access, self.tracer, self.id, self.registrar.announcement, self.witness
        )
        self.outbound = Outbound(
            self.bus,
            namespace=self.definition.name.namespace,
            upstreams=self.upstreams,
            snapshot=self.policies.snapshot,
            observer=observer,
            renew_session=self.members.renew_session,
            gone=self.members.gone,
            rng=self._rng,
        )
        self.listener = Listener(
            self.outbound.handle, self.outbound.abandon, listener_limits(self.definition)
        )
        self.inbound: Inbound | None = None
        self.health: HealthChecker | None = None
        self.application: Application | None = None
        address = self.definition.app_address
        if address is not None:
            limits = self.definition.limits
            workers = self.definition.workers
            pool = PoolLimits(divided(limits.max_requests, workers), divided(limits.max_pending, workers))
            self.application = Application(*address, pool)
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
            self.inbound.closed_because = NOT_YET
            self.registrar.active = lambda: self.active
            self.registrar.load = self._load
            self.acceptor = Acceptor(self.bus, self.subjects, self.identity, self.inbound.add_session)
            if self.workers is not None:
                takes = self.workers.takes
                self.acceptor.mine = lambda identifier: not takes(identifier[0] % workers)
            self.health = HealthChecker(address, self.definition.health, self._health_changed)
            self.application.on_unreachable = self._unreachable

    async def _subscribe(self) -> None:
        bus, subjects, name = self.bus, self.subjects, self.definition.name
        await bus.subscribe(subjects.replies(self.instance, 0), self.outbound.on_reply)
        await bus.subscribe(subjects.revision, self._on_published)
        await bus.subscribe(subjects.dry_run, self.dryruns.on_dry_run)
        await bus.subscribe(subjects.roll_call, self.registrar.on_question)
        await bus.subscribe(subjects.member(name, self.instance), self.namesake.on_message)
        await bus.subscribe(subjects.drill, self.renewals.on_order)
        if self.inbound is not None:
            gone = f"{subjects.gone_prefix(self.instance)}*"
            self._relay = await bus.subscribe(subjects.relay(self.instance), self.inbound.on_relay)
            self._who = await bus.subscribe(subjects.who(name), self.registrar.on_question)
            self._serving = [
                self._relay,
                self._who,
                await bus.subscribe(subjects.session(self.instance), self.acceptor.on_message),
                await bus.subscribe(gone, self.inbound.on_gone),
            ]
        bus.on_connection(self._on_connection)

    def _start_actors(self) -> None:
        self.rekeying = Rekeying(self.upstreams, self.inbound, self.members.renew_session, self._rng)
        for actor in (
            self.trust,
            self.policies,
            self.members,
            self.registrar,
            self.namesake,
            self.renewals,
            self.rekeying,
            self.telemetry,
            self.limits,
            self.evidence,
            self.dryruns,
            self.keys,
        ):
            self.supervisor.start(actor)
        if self.workers is not None:
            self.supervisor.start(self.local_limits)
        if self.health is not None:
            self.supervisor.start(self.health)
        else:
            self.registrar.mailbox.tell(HealthChanged(True))

    async def _listen(self) -> None:
        host, port = split_address(self.definition.outbound)
        try:
            shared = self.workers is not None
            self.outbound_address = await self.listener.start(host, port, shared=shared)
        except OSError as error:
            raise _address_error("outbound", self.definition.outbound, error) from None
        host, port = split_address(self.definition.admin)
        self.admin = Admin(pages_of(self), host)
        try:
            self.admin_address = await self.admin.start(port)
        except OSError as error:
            raise _address_error("admin", self.definition.admin, error) from None

        if self.workers is not None:
            self.workers.start()

    def _require(self) -> None:
        self.readiness.require("bus", lambda: "" if self.bus.connected else "a connection to the bus")
        self.readiness.require(
            "policies",
            lambda: "" if self.policies.synchronised else f"the policy log: {self.policies.problem}",
        )
        if self.health is not None:
            health = self.health
            self.readiness.require(
                "application",
                lambda: "" if health.health.healthy else f"a healthy application: {health.last_error}",
            )
        if self.workers is not None:
            workers = self.workers
            self.readiness.require("workers", lambda: workers.awaited)
        self.readiness.require("name", lambda: "" if not self.superseded else _SUPERSEDED)
        self.readiness.require("draining", lambda: "the end: this agent is draining" if self.draining else "")

    # -- what the parts tell each other ------------------------------------------------------------

    def _discover(self, service: ServiceName) -> None:
        self.members.discover(service)

    async def _open_session(self, service: ServiceName, instance: str, shift: int) -> Session:
        own = (self.bus, self.subjects, self.identity)
        session = await open_session(*own, service, instance, shift=shift)
        if self.identity.ends(session.fingerprint):  # revoked while the last answer was on its way
            raise IdentityError(f"instance {instance} was revoked", code="BM4009")
        return session

    def _on_connection(self, standing: bool) -> None:
        if standing:
            self.members.mailbox.tell(BusBack())
            self.trust.mailbox.tell(Follow())
            self.policies.mailbox.tell(Synchronise())
            self.registrar.mailbox.tell(Renewed())
            self.limits.mailbox.tell(limits.BusBack())
            self._event("bus.connected", "the bus is connected again")
        else:
            self._event("bus.lost", "the connection to the bus was lost")

    def _on_published(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self.policies.mailbox.tell(Published(payload))

    def _look_on(self, beside: Beside | None) -> None:
        self.outbound.beside = beside

    def _on_revision(self, revision: int) -> None:
        if revision > self.policies.set.number:
            self.policies.mailbox.tell(SeenElsewhere(revision))

    def _apply(self, snapshot: Snapshot) -> None:
        """Route by a new snapshot, and follow what it may send requests to, before the first one comes."""
        self.dryruns.policies_changed()
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
        self.registrar.mailbox.tell(PolicyInForce(snapshot.number, snapshot.digest))
        self._event(
            "policy.applied", f"revision {snapshot.number} is in force", {"revision": snapshot.number}
        )

    def acknowledge(self, ack: Acknowledgement) -> bool:
        """Tell the operators what became of a revision."""
        if ack.state == "rejected":
            policies = self.policies
            refused = Refused(revision=ack.revision, code=ack.code, reason=ack.reason)
            self.registrar.mailbox.tell(PolicyInForce(policies.set.number, policies.set.digest, refused))
            self._event("policy.rejected", ack.reason, {"revision": ack.revision, "code": ack.code})
        address: SubjectAddress[Acknowledgement] = SubjectAddress(
            self.bus, self.subjects.ack(self.definition.name, self.instance), self._seal_acknowledgement
        )
        return address.tell(ack)

    def _seal_acknowledgement(self, ack: Acknowledgement) -> bytes:
        body = acknowledgement.encode(ack)
        return seal_signed(self.identity.svid, acknowledgement.PURPOSE, body, time.time())

    def _on_ejection(self, destination: Destination, change: Change) -> None:
        """Tell of an instance that leaves the rotation or returns, or would have."""
        self.ejections.found(destination, change)
        message = f"{change.instance} of {destination.target}: {change.action.value}, {change.cause.value}"
        self._event(
            f"outlier.{change.action.name.lower()}",
            message,
            {
                "instance": change.instance,
                "destination": destination.target.key,
                "cause": change.cause.value,
            },
        )

    def _tell_ejection(self, ejection: Ejection) -> None:
        if self.workers is not None:
            self.workers.tell("eject", *ejection)

    def _health_changed(self, healthy: bool) -> None:
        self._may_serve()
        state = "healthy" if healthy else "unhealthy"
        why = self.health.last_error if self.health is not None and not healthy else ""
        self._event(f"health.{state}", f"the application is {state}{': ' if why else ''}{why}")

    def _may_serve(self) -> None:
        """Take requests, or take none: without its policies an instance does not know what they forbid."""
        healthy = self.health.health.healthy if self.health is not None else None
        if self.inbound is None or healthy is None:
            return
        if not (self.policies.synchronised or self.superseded):
            self._close_inbound("its policies have not been read yet")
            return
        if not (self.draining or self.superseded):
            self._close_inbound("" if healthy else "its application is not healthy")
        self.registrar.mailbox.tell(HealthChanged(healthy))

    def _on_keys(self, uri: str, problem: str) -> None:
        kind = "keys.missing" if problem else "keys.found"
        self._event(kind, problem or f"the key set {uri} is there", {"uri": uri})

    def _unreachable(self) -> None:
        if self.health is not None:
            self.health.mailbox.tell(Unreachable())

    def _superseded(self, later: Announcement) -> None:
        """Step back: another process has this instance's name, its keys and its subjects."""
        self.superseded = True
        log.error(
            "another process has taken the name %s: it started %.1f s after this one, which serves no more",
            self.instance,
            (later.incarnation - self.registrar.announcement.incarnation) / 1000,
        )
        self._event("agent.superseded", _SUPERSEDED)
        self.registrar.mailbox.tell(Retire())
        if self.inbound is not None:
            self._close_inbound(_SUPERSEDED)
            self._stepping_back = asyncio.create_task(self._step_back())

    async def _step_back(self) -> None:
        """Hear no more of what is meant for the other process; it would be answered twice."""
        if self.workers is not None:
            await self.workers.close(0.0)
        for number in self._serving:
            await self.bus.unsubscribe(number)

    def _load(self, now: float) -> Load | None:
        """Return what this instance announces of its load; asked once a second."""
        if self.inbound is None or self.application is None:
            return None
        said, at = self.application.report
        report = read_report(said) if now - at < STALE_S else None
        served, failed = self.inbound.served, self.inbound.failed
        if self.workers is not None:
            served, failed = served + self.workers.served, failed + self.workers.failed
        return self._meter.measure(served, failed, report, now)

    def _renewed(self) -> None:
        if self.workers is not None:
            self.workers.tell("identity")
        self.registrar.mailbox.tell(Renewed())
        self.rekeying.mailbox.tell(RekeyAll())
        self._event("identity.renewed", "the SVID was renewed")

    def _trust_changed(self, taken: Taken) -> None:
        """End what rests on certificates that count no more, say what is believed now, and keep it."""
        if not self._up:
            return
        if taken is Taken.BUNDLE:
            self._home.save_trust(self.identity.bundle)
            self._event("identity.trust", f"trust bundle {self.identity.bundle.version} is in force")
        ends = self._session_ends
        closed = self.inbound.close_sessions(ends) if self.inbound is not None else 0
        for endpoint in list(self.upstreams.endpoints()):
            session = endpoint.session
            if session is None or not ends(session):
                continue
            closed += 1
            if taken is Taken.BUNDLE:  # the instance has a new SVID; the old session serves until it is shown
                self.members.renew_session(endpoint)
                continue
            endpoint.session = None
            self.outbound.fail_all(endpoint, "revoked", f"instance {endpoint.instance} was revoked")
            self.members.gone(endpoint)
        if closed:
            self._event("identity.sessions-ended", f"{closed} sessions rested on what counts no more")
        self.registrar.mailbox.tell(Renewed())
        self.renewals.mailbox.tell(TrustChanged())

    def _session_ends(self, session: Session) -> bool:
        return self.identity.ends(session.fingerprint)

    def _event(
        self, kind: str, message: str, detail: dict[str, str | int | float | bool | None] | None = None
    ) -> None:
        self.events.add(time.time(), kind, message, detail=detail)

    # -- workers -----------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Requests at work at the application, in all processes."""
        own = self.inbound.active if self.inbound is not None else 0
        return own + (self.workers.active if self.workers is not None else 0)

    @property
    def _at_work(self) -> bool:
        """Whether a request is at work in any process of an agent that drains."""
        own = self.inbound is not None and self.inbound.active > 0
        return own or (self.workers is not None and not self.workers.at_rest)

    def _close_inbound(self, reason: str) -> None:
        """Have all processes refuse requests; with an empty reason, take them again."""
        assert self.inbound is not None, "an agent that serves"
        self.inbound.closed_because = reason
        if self.workers is not None:
            self.workers.tell("closed", reason)

    def _workers_changed(self) -> None:
        """Say at once which processes take sessions."""
        self.registrar.mailbox.tell(Renewed())

    def _worker_setup(self, number: int) -> dict[str, object]:
        options = self.bus.options
        files = (options.credentials, options.nkey, options.tls_ca)
        return {
            "definition": self.definition.model_dump_json(by_alias=True, exclude_unset=True),
            "mesh": self.subjects.mesh,
            "instance": self.instance,
            "worker": number,
            "address": list(self.outbound_address),
            "servers": list(options.servers),
            "files": [str(file) if file is not None else None for file in files],
            "home": str(self._home.path),
            "born": int(time.time() * 1000),
        }

    def _worker_said(self, message: Message) -> None:
        match message:
            case ["counts", _, list(counted), list(counters)]:
                for labels, retries, outcomes in counted:
                    self.registry.add(labels, retries, outcomes)
                for name, text, names, more in counters:
                    self.registry.counter(name, text, names).add(more)
            case ["access", list(events)]:
                self.telemetry.forward("access", events)
            case ["spans", dict(spans)]:
                self.telemetry.forward_spans(spans)
            case ["unreachable"]:
                self._unreachable()
            case ["eject", str(key), str(instance), str(cause), float(seconds)]:
                self.ejections.heard(key, instance, cause, seconds)
            case ["limits", int(worker), plain]:
                self.local_limits.hear(worker, plain)

    # -- end ---------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Leave the rotation and finish what is at work, within the time that the definition grants.

        Outbound stays open: the application may need others to finish its own work.
        """
        if self.draining:
            return
        self.draining = True
        self._event("agent.draining", "no new requests, please")
        self.registrar.mailbox.tell(Drain())
        until = time.monotonic() + max(self.definition.drain_s, DRAIN_NOTICE_S)
        if self.inbound is not None:
            await asyncio.sleep(min(DRAIN_NOTICE_S, self.definition.drain_s))
            # What is at work may be probed for, so the subscription stays until all of it is done.
            self._close_inbound("it is draining")
            self.inbound.go_away()
            if self.workers is not None:
                self.workers.drain()
            while self._at_work and time.monotonic() < until:  # noqa: ASYNC110 - an event costs each request
                await asyncio.sleep(0.01)
            # From here on the bus answers in our place: "no responders", at once.
            await self.bus.unsubscribe(self._who)
            await self.bus.unsubscribe(self._relay)

    async def close(self) -> None:
        """End at once, with a good-bye if the bus is there."""
        if not self._up:
            await self.supervisor.stop()
            await self.bus.close()
            return
        until = 0.5 if self.draining else 0.0
        ends = [self.listener.close(grace=until)]
        if self.workers is not None:
            ends.append(self.workers.close(until))
        await asyncio.gather(*ends)
        self.registrar.mailbox.tell(Leave())
        for _ in range(20):
            if self.registrar.state is State.LEFT:
                break
            await asyncio.sleep(0.005)
        await self.sessions.stop()
        await self.supervisor.stop()
        if self.application is not None:
            self.application.close()
        await self.admin.close()
        await self.bus.close()


class _Acknowledgements:
    """The operators, as an address: told by subject."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def tell(self, message: Acknowledgement) -> bool:
        return self._agent.acknowledge(message)

    async def ask(self, message: Acknowledgement, timeout: float) -> None:
        raise UsageError("operators are told, not asked")


def _address_error(what: str, address: str, error: OSError) -> BusmeshError:
    return UsageError(
        f"{what} address {address} cannot be used: {error.strerror or error}",
        code="BM3201",
        hint=f"choose another with --{what}, for example --{what} 127.0.0.1:0",
    )
