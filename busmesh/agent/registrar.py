"""The registrar: says who this instance is and how it is, once a second and at each change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from busmesh import __version__
from busmesh.actors.actor import Actor
from busmesh.agent.definition import AgentDefinition
from busmesh.bus.bus import Bus
from busmesh.errors import BusUnavailable
from busmesh.identity.holder import Identity
from busmesh.identity.signed import seal_signed
from busmesh.members.announcement import PURPOSE, Announcement, Refused, State, encode
from busmesh.members.load import Load
from busmesh.names import Subjects
from busmesh.relay.replies import Replies

#: Seconds between two announcements.
INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """The application was found healthy, or not."""

    healthy: bool


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """A revision was applied; or a later one was refused and ``revision`` stays."""

    revision: int
    digest: str
    refused: Refused | None = None


class Drain:
    """No new requests, please."""


class Leave:
    """Good-bye."""


class Retire:
    """Another process has this name: say nothing any more, not even good-bye."""


class Renewed:
    """SVID, trust, revocations or the workers that serve changed: say so, signed by the SVID of now."""


Said = HealthChanged | PolicyInForce | Drain | Leave | Renewed | Retire


class Registrar(Actor[Said]):
    """Owns this instance's announcement.

    Questions ("who serves this?", the roll call) are answered with the announcement signed last, on the bus's
    own callback: a flood of questions costs no signature.
    """

    interval = INTERVAL_S

    def __init__(
        self, bus: Bus, subjects: Subjects, identity: Identity, definition: AgentDefinition, instance: str
    ) -> None:
        super().__init__("registrar")
        self._bus = bus
        self._subjects = subjects
        self._identity = identity
        name = definition.name
        serves = definition.app is not None
        self.announcement = Announcement(
            namespace=name.namespace,
            service=name.name,
            instance=instance,
            incarnation=int(time.time() * 1000),
            sequence=0,
            interval=INTERVAL_S,
            state=State.STARTING,
            serves=serves,
            labels=definition.labels,
            weight=definition.weight,
            locality=definition.locality,
            software=__version__,
        )
        self.sealed = b""
        self._retired = False
        self._subject = subjects.member(name, instance)
        self._inboxes = Replies(subjects.root, "inbox", instance)
        self.active: Callable[[], int] = lambda: 0
        self.load: Callable[[float], Load | None] = lambda now: None
        self.workers: Callable[[], tuple[bool, ...]] = tuple

    @property
    def state(self) -> State:
        return self.announcement.state

    async def receive(self, message: Said) -> None:
        if self._retired:
            return
        match message:
            case HealthChanged(healthy):
                if self.state in (State.DRAINING, State.LEFT):
                    return
                self._say(state=State.HEALTHY if healthy else State.UNHEALTHY)
            case PolicyInForce(revision, digest, refused):
                self._say(revision=revision, digest=digest, refused=refused)
            case Drain():
                if self.state is not State.LEFT:
                    self._say(state=State.DRAINING)
            case Leave():
                self._say(state=State.LEFT)
            case Renewed():
                self._say()
            case Retire():
                self._retired = True
                self.announcement = self.announcement.model_copy(update={"state": State.LEFT})

    async def tick(self) -> None:
        if not self._retired:
            self._say(load=self.load(time.monotonic()))

    def _say(self, **changes: object) -> None:
        old, verifier = self.announcement, self._identity.verifier
        self.announcement = old.model_copy(
            update={
                "trust": verifier.bundle.version,
                "revocations": verifier.revocations.digest,
                **changes,
                "sequence": old.sequence + 1,
                "active": self.active(),
                "workers": self.workers(),
            }
        )
        self.sealed = seal_signed(self._identity.svid, PURPOSE, encode(self.announcement), time.time())
        try:
            self._bus.publish(self._subject, self.sealed)
        except BusUnavailable:
            return  # said again when the bus is back

    def on_question(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Answer "who?" or the roll call, to an inbox of this mesh only."""
        answer = self._inboxes.to(reply)
        if answer is not None and self.sealed and self.state is not State.LEFT:
            self._bus.publish(answer.decode("ascii"), self.sealed)
