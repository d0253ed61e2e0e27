"""What an agent decides once, in its first process: its announcement, identity, policies, and what it tells.

Its actors follow the mesh for all processes of the agent. They tell the data plane beside them by the hooks
that are set here, and the workers by their pipes.
"""

from __future__ import annotations

import asyncio
import time

from busmesh.actors.actor import Address
from busmesh.actors.supervisor import Supervisor
from busmesh.agent.dataplane import DataPlane
from busmesh.agent.dryrun import DryRuns
from busmesh.agent.expiry import register_identity
from busmesh.agent.identity import Enroller, Renewals, TrustChanged
from busmesh.agent.pipe import Message
from busmesh.agent.policies import Published, Synchronise
from busmesh.agent.registrar import PolicyInForce, Registrar, Renewed
from busmesh.agent.rekeying import RekeyAll
from busmesh.agent.serving import Serving
from busmesh.agent.setup import Setup
from busmesh.agent.telemetry import Telemetry
from busmesh.agent.workers import LocalLimits, Workers
from busmesh.bus.address import SubjectAddress
from busmesh.decide.records import Change
from busmesh.identity.signed import seal_signed
from busmesh.identity.trustlog import Taken
from busmesh.members import acknowledgement
from busmesh.members.acknowledgement import Acknowledgement
from busmesh.members.announcement import Refused
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.destination.destination import Destination
from busmesh.relay.outbound.outbound import Beside
from busmesh.telemetry.events import Detail, EventLog
from busmesh.telemetry.process import register_process

#: Events between two reports of telemetry.
MAX_EVENTS = 256


class Control:
    """What is decided once for an instance.

    Args:
        plane: of the first process.
        enroller: renews the identity.

    Attributes:
        workers: the processes beside this one; none by default.
        serving: whether requests are taken.
    """

    def __init__(self, plane: DataPlane, enroller: Enroller) -> None:
        self._plane = plane
        process = self._process = plane.process
        bus, subjects, identity = process.bus, process.subjects, process.identity
        name, instance = process.definition.name, process.instance
        self.events = EventLog(str(name), instance, capacity=MAX_EVENTS)
        self.registrar = Registrar(bus, subjects, identity, process.definition, instance)
        self.workers = Workers(
            process.definition.workers - 1,
            lambda worker: Setup.of(process, worker, plane.outbound_address).to_plain(),
            lambda: plane.policies.entries,
            lambda: plane.inbound.closed_because if plane.inbound is not None else "",
            plane.ejections.current,
            self._worker_said,
            self._workers_changed,
            process.rng,
        )
        self.local_limits: LocalLimits | None = None
        if plane.local_sharing is not None:
            self.registrar.workers = lambda: self.workers.taking
            self.local_limits = LocalLimits(plane.local_sharing, self.workers)
        self.serving = Serving(plane, self.workers, self.registrar, self.event)
        self.renewals = Renewals(
            bus, identity, enroller, renewed=self._renewed, warn=self.event, rng=process.rng
        )
        self.dryruns = DryRuns(
            bus,
            subjects,
            identity,
            plane.caller,
            current=lambda: plane.policies.set,
            upstreams=plane.upstreams,
            install=self._look_on,
            rng=process.rng,
        )
        self.telemetry = Telemetry(
            bus,
            subjects,
            name,
            instance,
            registry=plane.registry,
            access=plane.access_log,
            events=self.events,
            tracer=plane.tracer,
        )
        self._operators: Address[Acknowledgement] = SubjectAddress(
            bus, subjects.ack(name, instance), self._seal_acknowledgement
        )
        register_process(plane.registry)
        plane.registry.gauge(
            "busmesh_tasks", "Tasks of the event loop; requests have none.", lambda: len(asyncio.all_tasks())
        )
        register_identity(plane.registry, identity, lambda: self.renewals.renewals)
        self._hear(plane)

    def _hear(self, plane: DataPlane) -> None:
        """Have the data plane tell what concerns others than itself."""
        plane.on_snapshot = self._in_force
        plane.on_trust = self._trust_changed
        plane.upstreams.on_ejection = self._on_ejection
        plane.ejections.on_found = lambda ejection: self.workers.tell("eject", *ejection)
        plane.members.on_revision = plane.policies.heard_of
        plane.policies.acknowledge = self._acknowledge
        plane.policies.on_entry = lambda entry: self.workers.tell("entry", entry)
        plane.keys.on_problem = self._on_keys
        if plane.acceptor is not None and self._process.shared:
            workers = self._process.definition.workers
            plane.acceptor.mine = lambda identifier: not self.workers.takes(identifier[0] % workers)

    async def start(self, supervisor: Supervisor) -> None:
        """Announce this instance and follow the mesh; the data plane has been started before."""
        bus, subjects = self._process.bus, self._process.subjects
        await bus.subscribe(subjects.revision, self._on_published)
        await bus.subscribe(subjects.dry_run, self.dryruns.on_dry_run)
        await bus.subscribe(subjects.roll_call, self.registrar.on_question)
        await bus.subscribe(subjects.drill, self.renewals.on_order)
        bus.on_connection(self._on_connection)
        for actor in (self._plane.policies, self.registrar, self.renewals, self.telemetry, self.dryruns):
            supervisor.start(actor)
        if self.local_limits is not None:
            supervisor.start(self.local_limits)
        await self.serving.start(supervisor)
        self._trust_changed(Taken.KNOWN, 0)  # what was heard before anybody looked

    def event(self, kind: str, message: str, detail: Detail | None = None) -> None:
        """Tell operators what happened to this agent."""
        self.events.add(time.time(), kind, message, detail=detail)

    def _on_connection(self, standing: bool) -> None:
        if standing:
            self._plane.policies.mailbox.tell(Synchronise())
            self.registrar.mailbox.tell(Renewed())
            self.event("bus.connected", "the bus is connected again")
        else:
            self.event("bus.lost", "the connection to the bus was lost")

    # -- policies ----------------------------------------------------------------------------------

    def _on_published(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self._plane.policies.mailbox.tell(Published(payload), len(payload))

    def _in_force(self, snapshot: Snapshot) -> None:
        self.dryruns.policies_changed()
        self.registrar.mailbox.tell(PolicyInForce(snapshot.number, snapshot.digest))
        self.event("policy.applied", f"revision {snapshot.number} is in force", {"revision": snapshot.number})

    def _acknowledge(self, ack: Acknowledgement) -> None:
        """Tell the operators what became of a revision."""
        if ack.state == "rejected":
            in_force = self._plane.policies.set
            refused = Refused(revision=ack.revision, code=ack.code, reason=ack.reason)
            self.registrar.mailbox.tell(PolicyInForce(in_force.number, in_force.digest, refused))
            self.event("policy.rejected", ack.reason, {"revision": ack.revision, "code": ack.code})
        self._operators.tell(ack)

    def _seal_acknowledgement(self, ack: Acknowledgement) -> bytes:
        body = acknowledgement.encode(ack)
        return seal_signed(self._process.identity.svid, acknowledgement.PURPOSE, body, time.time())

    def _look_on(self, beside: Beside | None) -> None:
        self._plane.outbound.beside = beside

    # -- identity ----------------------------------------------------------------------------------

    def _renewed(self) -> None:
        self.workers.tell("identity")
        self.registrar.mailbox.tell(Renewed())
        self._plane.rekeying.mailbox.tell(RekeyAll())
        self.event("identity.renewed", "the SVID was renewed")

    def _trust_changed(self, taken: Taken, ended: int) -> None:
        """Say what is believed now, and keep it."""
        if taken is Taken.BUNDLE:
            bundle = self._process.identity.bundle
            self._process.home.save_trust(bundle)
            self.event("identity.trust", f"trust bundle {bundle.version} is in force")
        if ended:
            self.event("identity.sessions-ended", f"{ended} sessions rested on what counts no more")
        self.registrar.mailbox.tell(Renewed())
        self.renewals.mailbox.tell(TrustChanged())

    def _on_keys(self, uri: str, problem: str) -> None:
        kind = "keys.missing" if problem else "keys.found"
        self.event(kind, problem or f"the key set {uri} is there", {"uri": uri})

    # -- instances called, and workers -------------------------------------------------------------

    def _on_ejection(self, destination: Destination, change: Change) -> None:
        """Tell of an instance that leaves the rotation or returns, or would have."""
        self._plane.ejections.found(destination, change)
        self.event(
            f"outlier.{change.action.name.lower()}",
            f"{change.instance} of {destination.target}: {change.action.value}, {change.cause.value}",
            {
                "instance": change.instance,
                "destination": destination.target.key,
                "cause": change.cause.value,
            },
        )

    def _workers_changed(self) -> None:
        """Say at once which processes take sessions."""
        self.registrar.mailbox.tell(Renewed())

    def _worker_said(self, message: Message) -> None:
        match message:
            case ["counts", _, list(counted), list(counters)]:
                for labels, retries, outcomes in counted:
                    self._plane.registry.add(labels, retries, outcomes)
                for name, text, names, more in counters:
                    self._plane.registry.counter(name, text, names).add(more)
            case ["access", list(events)]:
                self.telemetry.forward("access", events)
            case ["spans", dict(spans)]:
                self.telemetry.forward_spans(spans)
            case ["unreachable"]:
                self.serving.unreachable()
            case ["eject", str(key), str(instance), str(cause), float(seconds)]:
                self._plane.ejections.heard(key, instance, cause, seconds)
            case ["limits", int(worker), plain] if self.local_limits is not None:
                self.local_limits.hear(worker, plain)

    def __repr__(self) -> str:
        return f"<Control of {self._process.id} {self.serving!r}>"
