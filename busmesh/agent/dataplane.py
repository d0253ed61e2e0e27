"""The data plane of one process: the request path, and what keeps it informed.

The first process of an agent and its workers each have one, made alike. It believes, routes, limits and
authorizes by itself; what is decided once per instance it is told, by :mod:`busmesh.agent.control` in the
first process and by that process in a worker.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from busmesh.actors.supervisor import Supervisor
from busmesh.agent import limits
from busmesh.agent.ejections import Ejections
from busmesh.agent.evidence import SharedEvidence
from busmesh.agent.keys import TokenKeys
from busmesh.agent.limits import LimitSharing
from busmesh.agent.members import BusBack, Members
from busmesh.agent.observer import Observer
from busmesh.agent.policies import Policies
from busmesh.agent.policystore import PolicyStore
from busmesh.agent.process import Process
from busmesh.agent.rekeying import Rekeying
from busmesh.agent.witness import Witness
from busmesh.bus.policylog import PolicyLog
from busmesh.decide.ratelimit import RateLimiter
from busmesh.decide.sharing import Sharing
from busmesh.errors import IdentityError
from busmesh.identity.tokens import JwtTokens
from busmesh.identity.trustlog import Taken
from busmesh.names import ServiceName, SpiffeId
from busmesh.policy.compile import Caller
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.application.pool import Application
from busmesh.relay.client.listener import Listener
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.inbound.access import Access
from busmesh.relay.inbound.inbound import Inbound
from busmesh.relay.outbound.outbound import Outbound
from busmesh.relay.session.accepting import Acceptor
from busmesh.relay.session.opening import Sessions, open_session
from busmesh.telemetry.access import AccessLog
from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.trace import Tracer
from busmesh.trust.follower import Follow, TrustFollower
from busmesh.trust.store import TrustStore
from busmesh.wire.frame import Session

ACCESS_EVENTS_PER_S = 100
#: Services that requests may name.
MAX_SERVICES = 2048
#: End users' tokens that are remembered as verified: about 2 KiB each.
MAX_TOKENS = 2048
#: So long a revocation may be the reason why nobody is there.
REVOKED_LATELY_S = 3600.0
#: Why an instance takes no requests at first.
NOT_YET = "its application has not been checked yet"


class DataPlane:
    """Carries the requests of one process, in both directions.

    Args:
        process: which one.
        registry: counts what happens.

    Attributes:
        application, inbound, acceptor: the side that is called; None where the agent only calls others.
        local_sharing: the part of this process in limits of its instance; None if it is the only process.
        outbound_address: where the application sends its requests, once this listens.
        on_snapshot: called with each policy snapshot that requests are routed by from now on.
        on_trust: called after trust changed, with what did and how many sessions ended for it.
    """

    def __init__(self, process: Process, registry: Registry) -> None:
        self.process = process
        self.registry = registry
        self.outbound_address = ("", 0)
        self.on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None
        self.on_trust: Callable[[Taken, int], None] = lambda taken, ended: None
        self._make_membership()
        self._make_limits()
        self._make_policies()
        self._make_telemetry()
        self._make_request_path()
        self.rekeying = Rekeying(self.upstreams, self.inbound, self.members.renew_session, process.rng)

    def _make_membership(self) -> None:
        """Make what knows whom to believe, and whom there is to call."""
        bus, subjects, identity = self.process.bus, self.process.subjects, self.process.identity
        rng, instance = self.process.rng, self.process.instance
        trusted = TrustStore(self.process.trust_log)
        self.trust = TrustFollower(bus, subjects, identity.verifier, trusted, self._trust_changed, rng)
        self.upstreams = Upstreams(rng, self._discover, MAX_SERVICES, self.process.origin)
        self.members = Members(
            bus, subjects, identity, self.upstreams, instance, bus.inbox, self.process.worker
        )
        self.members.on_trust = self.trust.heard_of
        self.sessions = self.members.sessions = Sessions(self._open_session, self.members.opened)

    def _make_limits(self) -> None:
        """Make what is shared with others: limits with other instances, evidence with other callers."""
        bus, subjects, identity = self.process.bus, self.process.subjects, self.process.identity
        me, worker = self.process.id, self.process.worker
        born, now = int(time.time() * 1000), time.monotonic()
        self._sharing = Sharing(born=born, now=now)
        self.local_sharing = Sharing(born=born, now=now) if self.process.shared else None
        self.limiter = RateLimiter(self._sharing, local=self.local_sharing)
        self.limits = LimitSharing(bus, subjects, identity, me, self._sharing, self.limiter, worker)
        self.ejections = Ejections(self.upstreams)
        self.upstreams.on_ejection = self.ejections.found
        self.evidence = SharedEvidence(bus, subjects, identity, me, self.upstreams, tells=worker == 0)

    def _make_policies(self) -> None:
        """Make what knows the policies in force, and the keys that they name."""
        process, definition = self.process, self.process.definition
        self.caller = Caller(definition.name, definition.labels, definition.name.namespace)
        self.policies = Policies(
            bus=process.bus,
            policy_log=PolicyLog(process.bus, process.subjects),
            store=PolicyStore(process.home.policies),
            verifier=process.identity.verifier,
            caller=self.caller,
            apply=self._apply,
            rng=process.rng,
        )
        self.keys = TokenKeys(lambda: self.outbound_address)
        self.tokens = JwtTokens(self.keys.sets, capacity=MAX_TOKENS)

    def _make_telemetry(self) -> None:
        """Make what is told of each request."""
        process, told = self.process, self.process.definition.telemetry
        self.access_log = AccessLog(told.access_log, process.rng, ACCESS_EVENTS_PER_S)
        self.tracer = Tracer(process.resource, process.rng, ratio=told.tracing)
        self.witness = Witness(self.upstreams)
        self.observer = Observer(
            self.registry, self.access_log, self.tracer, process.id, process.version, self.witness
        )

    def _make_request_path(self) -> None:
        process = self.process
        self.outbound = Outbound(
            process.bus,
            namespace=process.definition.name.namespace,
            upstreams=self.upstreams,
            snapshot=self.policies.snapshot,
            observer=self.observer,
            renew_session=self.members.renew_session,
            gone=self.members.gone,
            rng=process.rng,
        )
        self.outbound.revoked = self._revoked
        self.listener = Listener(self.outbound.handle, self.outbound.abandon, process.listener_limits)
        self.application: Application | None = None
        self.inbound: Inbound | None = None
        self.acceptor: Acceptor | None = None
        if process.definition.app_address is None:
            return
        self.application = Application(*process.definition.app_address, process.pool_limits)
        self.inbound = Inbound(
            process.bus,
            subjects=process.subjects,
            me=process.id,
            application=self.application,
            observer=self.observer,
            limiter=self.limiter,
            contexts=self.outbound.contexts,
            max_active=process.max_active,
        )
        self.inbound.closed_because = NOT_YET
        self.acceptor = Acceptor(
            process.bus, process.subjects, process.identity, self.inbound.add_session, process.worker
        )

    # -- life --------------------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Hear what the mesh believes by now, before anybody is talked to; the bus is connected."""
        self.trust.load()
        await self.trust.started()

    async def start(self, supervisor: Supervisor) -> None:
        """Hear what comes over the bus, and begin to follow the members of known upstreams."""
        bus, subjects = self.process.bus, self.process.subjects
        instance, worker = self.process.instance, self.process.worker
        for sharing in (self._sharing, self.local_sharing):
            if sharing is not None:
                sharing.begin(time.monotonic())  # from now on the others can be heard
        await bus.subscribe(subjects.replies(instance, worker), self.outbound.on_reply)
        if self.inbound is not None and self.acceptor is not None:
            gone = f"{subjects.gone_prefix(instance)}*"
            self._requests = await bus.subscribe(subjects.relay(instance, worker), self.inbound.on_relay)
            self._callers = [
                await bus.subscribe(subjects.session(instance), self.acceptor.on_message),
                await bus.subscribe(gone, self.inbound.on_gone),
            ]
        bus.on_connection(self._on_connection)
        for actor in (self.trust, self.members, self.rekeying, self.limits, self.evidence, self.keys):
            supervisor.start(actor)
        for service in self.process.definition.upstreams:
            self.upstreams.upstream(ServiceName.parse(service))

    async def listen(self, bound: socket.socket) -> None:
        """Take requests of the application at an address that was bound before.

        Raises:
            OSError: somebody else has begun to listen there since.
        """
        self.outbound_address = await self.listener.serve(bound)

    async def leave(self) -> None:
        """Hear no more requests: from here on the bus answers in this process's place, at once."""
        await self.process.bus.unsubscribe(self._requests)

    async def step_back(self) -> None:
        """Hear nothing more that is meant for this instance."""
        await self.leave()
        for number in self._callers:
            await self.process.bus.unsubscribe(number)

    async def close(self) -> None:
        """Give up handshakes and the connections to the application; the actors have ended before."""
        await self.sessions.stop()
        if self.application is not None:
            self.application.close()

    # -- what the parts tell each other ------------------------------------------------------------

    def _discover(self, service: ServiceName) -> None:
        self.members.discover(service)

    async def _open_session(self, service: ServiceName, instance: str, shift: int) -> Session:
        process = self.process
        own = (process.bus, process.subjects, process.identity)
        session = await open_session(*own, service, instance, process.worker, shift=shift)
        if self._ends(session):  # revoked while the last answer was on its way
            raise IdentityError(f"instance {instance} was revoked", code="BM4009")
        return session

    def _on_connection(self, standing: bool) -> None:
        if standing:
            self.members.mailbox.tell(BusBack())
            self.limits.mailbox.tell(limits.BusBack())
            self.trust.mailbox.tell(Follow())

    def _apply(self, snapshot: Snapshot) -> None:
        """Go by a new snapshot, and follow what it may send requests to, before the first one comes."""
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
        self.on_snapshot(snapshot)

    def _trust_changed(self, taken: Taken) -> None:
        """End what rests on certificates that count no more."""
        ended = self.inbound.close_sessions(self._ends) if self.inbound is not None else 0
        for endpoint in list(self.upstreams.endpoints()):
            if endpoint.session is None or not self._ends(endpoint.session):
                continue
            ended += 1
            if taken is Taken.BUNDLE:  # the instance has a new SVID; the old session serves until it is shown
                self.members.renew_session(endpoint)
                continue
            endpoint.session, endpoint.revoked = None, True
            self.outbound.fail_all(endpoint, "revoked", f"instance {endpoint.instance} was revoked")
            self.members.gone(endpoint)
        self.on_trust(taken, ended)

    def _revoked(self, service: ServiceName | None) -> str:
        """Say what revocations have to do with it that ``service``, or the bus, cannot be reached."""
        identity = self.process.identity
        if identity.revoked:
            return "this instance was revoked"
        if service is None:
            return ""
        principal = SpiffeId.workload(self.process.subjects.mesh, service, "any").principal
        known = self.upstreams.upstream(service).endpoints
        now = time.time()
        for each in identity.verifier.revocations.of(principal):
            ago = max(0.0, now - each.at_ms / 1000)
            if ago > REVOKED_LATELY_S:
                break
            instance = each.target.partition("/i/")[2]
            back = known.get(instance)
            if back is None or back.revoked:
                return f"{instance or service} was revoked {ago:.0f} s ago"
        return ""

    def _ends(self, session: Session) -> bool:
        return self.process.identity.ends(session.fingerprint)

    def statistics(self) -> dict[str, object]:
        found: dict[str, object] = {
            "outbound": self.outbound.statistics(),
            "listener": self.listener.statistics(),
            "sessions": self.sessions.statistics(),
        }
        if self.inbound is not None and self.application is not None and self.acceptor is not None:
            found["inbound"] = self.inbound.statistics()
            found["application"] = self.application.statistics()
            found["handshakes"] = self.acceptor.statistics()
        return found

    def __repr__(self) -> str:
        return f"<DataPlane {self.outbound!r} {self.inbound!r}>"
