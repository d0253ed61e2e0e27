"""The demo's operator: publishes policies and hears telemetry, with the key that ``busmesh up`` has made."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from busmesh.bus.bus import Bus
from busmesh.bus.login import Login
from busmesh.bus.options import BusOptions
from busmesh.demo.cast import shipped
from busmesh.demo.heard import Heard
from busmesh.demo.mesh import DemoMesh
from busmesh.errors import BusmeshError
from busmesh.identity.store import Home, operator_login
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.names import Subjects
from busmesh.operator.publish import Publisher, View, draft_revision, look
from busmesh.operator.status import Sync
from busmesh.policy.load import load_documents
from busmesh.policy.revision import Revision

CONNECT_S = 10.0
#: For the last acknowledgement; on a machine that breathes it takes milliseconds.
ACKNOWLEDGED_S = 5.0
#: A roll call lasts 0.4 s; a machine that is out of breath gets more than one.
ROLL_CALLS = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """A revision that is ready to be published, and what it was drafted on."""

    name: str
    view: View
    revision: Revision


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a revision.

    Attributes:
        name: the file.
        number: of the revision.
        agents: who was there.
        in_force: at how many of them it is.
        after_ms: when the last of them had said so.
    """

    name: str
    number: int
    agents: int
    in_force: int
    after_ms: float


class Desk:
    """Where the operator sits."""

    def __init__(self, bus: Bus, subjects: Subjects, verifier: Verifier, svid: Svid, logs: Bus) -> None:
        self._bus, self._subjects, self._verifier = bus, subjects, verifier
        self._publisher = Publisher(bus, subjects, verifier, svid, logs=logs)

    async def draft(self, name: str, reason: str, *, agents: int) -> Plan:
        """Make a revision of the document ``name``.

        Args:
            name: a file that is shipped.
            reason: for the history.
            agents: how many there are.

        Raises:
            BusmeshError: the document is refused, or published already.
        """
        for _ in range(ROLL_CALLS):
            view = await look(self._bus, self._subjects, self._verifier)
            if len(view.roll.members) >= agents:
                break
        documents = load_documents([shipped(name)])
        author = self._publisher.author
        draft = draft_revision(view, documents, author=author, reason=reason, now=time.time())
        if draft.revision is None:
            raise BusmeshError(f"{name} is published already", code="BM7004")
        return Plan(name, view, draft.revision)

    async def publish(self, plan: Plan) -> Published:
        """Publish, and return when the agents have said what they make of it."""
        outcome = await self._publisher.publish(plan.view, plan.revision, wait=ACKNOWLEDGED_S)
        in_force = sum(1 for status in outcome.statuses if status.state is Sync.SYNCED)
        agents = len(outcome.statuses)
        return Published(plan.name, outcome.revision.number, agents, in_force, outcome.waited * 1000)


@contextlib.asynccontextmanager
async def at_desk(mesh: DemoMesh, heard: Heard) -> AsyncIterator[Desk]:
    """Connect as the operator of ``mesh``, with ``heard`` listening to its metrics."""
    home = Home(mesh.home)
    context = home.context()
    subjects = Subjects(context.mesh)
    name = f"demo-{secrets.token_hex(4)}"
    held = operator_login(home)
    own = held.inbox_prefix(subjects.root) if held is not None else None
    inbox = subjects.inbox_prefix(name) if own is None else f"{own}.{name}"
    options = BusOptions((mesh.bus_url,), f"busmesh {name}", inbox, login=Login(held))
    bus = logs = Bus(options)
    if held is not None and held.writing is not None:
        logs = Bus(dataclasses.replace(options, login=Login(held.writing)))
    try:
        await bus.connect(patience=CONNECT_S)
        await logs.connect(patience=CONNECT_S)
        await bus.subscribe(subjects.signals("metrics"), heard.hear)
        operator = home.operator(home.operators()[0])
        yield Desk(bus, subjects, Verifier(home.trust(context.mesh)), operator, logs)
    finally:
        for connection in {bus, logs}:
            await connection.close()
