"""A mesh for tests of the operator's side: a real bus, real signatures, and doubles for the agents only."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from busmesh.bus.bus import Bus
from busmesh.bus.options import BusOptions
from busmesh.bus.policylog import PolicyLog
from busmesh.errors import BusmeshError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.revisions import open_revision
from busmesh.identity.signed import seal_signed
from busmesh.identity.store import Context, Home
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.members import acknowledgement, announcement
from busmesh.members.acknowledgement import Acknowledgement
from busmesh.members.announcement import Announcement, Refused, State
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.operator.publish import Publisher, View, draft_revision, look
from busmesh.policy.documents import Document, parse_documents
from busmesh.policy.revision import EMPTY, PolicySet, Revision, fold
from tests.support.bus import NatsServer

MESH = "local"


def route(name: str = "orders", **weights: int) -> Document:
    """A Route to subsets of ``name``: ``route("orders", v1=80, v2=20)``; without weights to all of it."""
    targets = "".join(
        f"\n        - {{destination: {{host: {name}, subset: {subset}}}, weight: {weight}}}"
        for subset, weight in weights.items()
    )
    text = f"""
apiVersion: busmesh/v1
kind: Route
metadata: {{name: {name}}}
spec:
  hosts: [{name}]
  http:
    - route:{targets or f" [{{destination: {{host: {name}}}}}]"}
"""
    return parse_documents(text.encode(), f"{name}.yaml")[0]


class FakeAgent:
    """Answers the roll call, follows the revisions that it hears live, and acknowledges them.

    Attributes:
        refuses: code and reason with which it refuses every revision, None to apply them.
        silent: it follows and does not acknowledge.
        deaf: it does not hear of revisions.
        frozen: it neither follows nor answers.
    """

    def __init__(self, mesh: FakeMesh, service: str, instance: str, labels: dict[str, str]) -> None:
        self.mesh = mesh
        self.name = ServiceName.parse(service)
        self.instance = instance
        self.labels = labels
        self.state = State.HEALTHY
        self.refuses: tuple[str, str] | None = None
        self.silent = self.deaf = self.frozen = False
        self.set: PolicySet = EMPTY
        self.revision: int | None = None
        self.refused: Refused | None = None
        self.svid = mesh.ca.issue_svid(SpiffeId.workload(MESH, self.name, instance), time.time())

    def announcement(self) -> Announcement:
        return Announcement(
            namespace=self.name.namespace,
            service=self.name.name,
            instance=self.instance,
            incarnation=1_700_000_000_000,
            sequence=1,
            interval=1.0,
            state=self.state,
            labels=self.labels,
            revision=self.set.number if self.revision is None else self.revision,
            digest=self.set.digest,
            refused=self.refused,
        )

    def signed_announcement(self) -> bytes:
        body = announcement.encode(self.announcement())
        return seal_signed(self.svid, announcement.PURPOSE, body, time.time())

    def acknowledge(self, said: Acknowledgement, svid: Svid | None = None) -> None:
        """Publish ``said`` on this agent's subject, signed by it or, forged, by ``svid``."""
        body = acknowledgement.encode(said)
        sealed = seal_signed(svid or self.svid, acknowledgement.PURPOSE, body, time.time())
        self.mesh.bus.publish(self.mesh.subjects.ack(self.name, self.instance), sealed)

    def on_roll_call(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        if not self.frozen:
            self.mesh.bus.publish(reply.decode(), self.signed_announcement())

    def on_revision(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        if self.frozen or self.deaf:
            return
        try:
            revision, _ = open_revision(payload, self.mesh.verifier, time.time())
            after = fold(self.set, revision)
        except BusmeshError:
            return
        if self.refuses is not None:
            code, reason = self.refuses
            self.refused = Refused(revision=revision.number, code=code, reason=reason)
            said = Acknowledgement(
                revision=revision.number, digest=self.set.digest, state="rejected", code=code, reason=reason
            )
        else:
            self.set = after
            said = Acknowledgement(revision=after.number, digest=after.digest, state="applied")
        if not self.silent:
            self.acknowledge(said)


class FakeMesh:
    """A CA, an operator ``ann``, a connection to the bus, and agents that are only doubles."""

    def __init__(self, server: NatsServer, ca: CertificateAuthority) -> None:
        self.server = server
        self.ca = ca
        self.verifier = Verifier(ca.bundle)
        self.subjects = Subjects(MESH)
        self.bus = self.connection("agents")
        self.log = PolicyLog(self.bus, self.subjects)
        self.ann = self.operator("ann")

    def connection(self, name: str) -> Bus:
        return Bus(BusOptions((self.server.url,), name, self.subjects.inbox_prefix(name)))

    def operator(self, name: str, **options: float) -> Svid:
        return self.ca.issue_svid(SpiffeId(MESH, operator=name), time.time(), **options)

    async def agent(self, service: str, instance: str, **labels: str) -> FakeAgent:
        """Start a double."""
        agent = FakeAgent(self, service, instance, labels)
        await self.bus.subscribe(self.subjects.roll_call, agent.on_roll_call)
        await self.bus.subscribe(self.subjects.revision, agent.on_revision)
        await self.bus.round_trip()
        return agent

    def publisher(self, svid: Svid | None = None, bus: Bus | None = None) -> Publisher:
        return Publisher(bus or self.bus, self.subjects, self.verifier, svid or self.ann)

    async def look(self) -> View:
        return await look(self.bus, self.subjects, self.verifier)

    async def publish(self, *documents: Document, wait: float = 2.0) -> Revision:
        """Publish as ``ann`` does, and return the revision."""
        view = await self.look()
        draft = draft_revision(
            view, documents, author="ann", reason="test", now=time.time(), allow_dangling=True
        )
        assert draft.revision is not None
        await self.publisher().publish(view, draft.revision, wait=wait)
        return draft.revision

    def fill_home(self, path: Path, *operators: str) -> Home:
        """Write what ``busmesh up`` leaves in a home: context, roots, operators' keys."""
        home = Home(path)
        home.save_context(Context(self.server.url, MESH))
        home.save_trust(self.ca.bundle)
        for name in operators:
            home.save_operator(self.ann if name == "ann" else self.operator(name))
        return home


@asynccontextmanager
async def fake_mesh(server: NatsServer, ca: CertificateAuthority) -> AsyncIterator[FakeMesh]:
    """Connect a mesh without agents, as yet."""
    mesh = FakeMesh(server, ca)
    await mesh.bus.connect(patience=5)
    try:
        yield mesh
    finally:
        await mesh.bus.close()
