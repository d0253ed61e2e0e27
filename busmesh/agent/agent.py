"""The agent of one service instance: its life, from the first connection to the bus to the last good-bye.

It is a data plane that carries requests (:mod:`busmesh.agent.dataplane`), what is decided once beside it
(:mod:`busmesh.agent.control`), and an admin endpoint. ``start`` brings them up in the order in which they
depend on each other; ``drain`` takes the instance out of rotation and lets requests at work finish; ``close``
ends it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random
from secrets import randbits

from busmesh.actors.supervisor import Supervisor
from busmesh.agent import memory
from busmesh.agent.admin import Admin
from busmesh.agent.control import Control
from busmesh.agent.dataplane import DataPlane
from busmesh.agent.definition import AgentDefinition, split_address
from busmesh.agent.identity import Enroller, has_login, show_login
from busmesh.agent.pages import pages_of
from busmesh.agent.process import Process
from busmesh.agent.readiness import Readiness
from busmesh.agent.registrar import Leave
from busmesh.agent.serving import SUPERSEDED
from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError, Denied, UsageError
from busmesh.identity.holder import Identity
from busmesh.identity.store import AgentHome
from busmesh.identity.ticket import JoinTicket
from busmesh.members.announcement import State
from busmesh.names import SpiffeId, Subjects
from busmesh.relay.client.listener import bind
from busmesh.telemetry.metrics import Registry

log = logging.getLogger(__name__)

#: A person has to look first; starting it is what says that somebody did.
REVOKED = "a new identity: this instance was revoked; start it again with a join token"


class Agent:
    """One agent.

    Args:
        definition: what it is.
        mesh: the mesh's name.
        bus: not yet connected.
        home: where identity and policies are kept.
        ticket: reads the join ticket, if there is no valid SVID.
        instance: the instance's name.

    Attributes:
        readiness: what is awaited until this agent is ready.
        drain_requested: set by ``POST /drain``.
        plane, control: what it is made of, once it has begun to start.
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
        self._subjects = Subjects(mesh)
        self._bus = bus
        self._home = home
        me = SpiffeId.workload(mesh, definition.name, instance)
        self._enroller = Enroller(bus, self._subjects, me, home, ticket)
        self._rng = Random(randbits(64))  # balancing, not secrets
        self._supervisor = Supervisor(self._rng)
        self._ends = AsyncExitStack()
        self.readiness = Readiness()
        self.admin_address = ("", 0)
        self.drain_requested = asyncio.Event()

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
        # First of all: a port that is taken must cost neither an enrolment nor a wait for the bus.
        outbound = self._take_address(
            "outbound", self.definition.outbound, shared=self.definition.workers > 1
        )
        admin = self._take_address("admin", self.definition.admin)
        self._ends.push_async_callback(self._bus.close)
        await self._make_plane(patience)
        self._ends.push_async_callback(self.plane.close)
        self._ends.push_async_callback(self._supervisor.stop)
        self.control = Control(self.plane, self._enroller)
        self.plane.policies.load()
        await self.plane.start(self._supervisor)
        await self.control.start(self._supervisor)
        await self._listen(outbound, admin)
        self._require()
        self._ends.push_async_callback(self._say_good_bye)
        memory.keep_blocks()
        memory.settle()

    async def _make_plane(self, patience: float | None) -> None:
        """Make the data plane of an instance that others believe to be who it is.

        Starting is when a person looks at an instance, so one that was revoked joins anew by its join token.
        """
        identity = await self._enroller.obtain(patience=patience)
        await self._connect(identity, patience)
        name = self.definition.name
        registry = Registry({"namespace": name.namespace, "service": name.name, "instance": self.instance})
        process = Process(self.definition, self._subjects, identity, self._bus, self._home, self._rng)
        self.plane = DataPlane(process, registry)
        await self.plane.catch_up()
        if not identity.usable(time.time()):
            await self._enroller.enrol_anew(identity, patience=patience)
            await show_login(self._bus)

    async def _connect(self, identity: Identity, patience: float | None) -> None:
        """Connect by the login held; if the bus refuses it, by one that the join token brings.

        The login of who was revoked ends at once, so this is the first that such an instance hears of it.
        """
        try:
            await self._bus.connect(patience=patience)
        except Denied as error:
            if not has_login(self._bus):
                raise
            log.warning("%s; joining anew", error)
            await self._enroller.enrol_anew(identity, patience=patience)
            await self._bus.connect(patience=patience)

    def _take_address(self, what: str, address: str, *, shared: bool = False) -> socket.socket:
        try:
            bound = bind(*split_address(address), shared=shared)
        except OSError as error:
            raise _address_error(what, address, error) from None
        self._ends.callback(bound.close)
        return bound

    async def _listen(self, outbound: socket.socket, admin_socket: socket.socket) -> None:
        try:
            await self.plane.listen(outbound)
        except OSError as error:
            raise _address_error("outbound", self.definition.outbound, error) from None
        host, _ = split_address(self.definition.admin)
        pages = pages_of(self.plane, self.control, self._supervisor, self.readiness, self.drain_requested.set)
        admin = Admin(pages, host)
        try:
            self.admin_address = await admin.serve(admin_socket)
        except OSError as error:
            raise _address_error("admin", self.definition.admin, error) from None
        self._ends.push_async_callback(admin.close)
        self.control.workers.start()

    def _require(self) -> None:
        policies, workers, serving = self.plane.policies, self.control.workers, self.control.serving
        require = self.readiness.require
        require("bus", lambda: "" if self._bus.connected else "a connection to the bus")
        require("policies", lambda: "" if policies.synchronised else f"the policy log: {policies.problem}")
        if serving.health is not None:
            health = serving.health
            require(
                "application",
                lambda: "" if health.health.healthy else f"a healthy application: {health.last_error}",
            )
        require("workers", lambda: workers.awaited)
        identity = self.plane.process.identity
        require("identity", lambda: REVOKED if identity.revoked else "")
        require("name", lambda: SUPERSEDED if serving.superseded else "")
        require("draining", lambda: "the end: this agent is draining" if serving.draining else "")

    @property
    def outbound_address(self) -> tuple[str, int]:
        """Where the application sends its requests."""
        return self.plane.outbound_address

    @property
    def application_checked(self) -> bool:
        """Whether the application was asked how it is; never without one."""
        return self.control.serving.checked

    # -- end ---------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        return self.control.serving.draining

    async def drain(self) -> None:
        """Leave the rotation and finish what is at work; the application may still call others."""
        await self.control.serving.drain()

    async def close(self) -> None:
        """End at once what has begun, the last first; with a good-bye if the bus is there."""
        await self._ends.aclose()

    async def _say_good_bye(self) -> None:
        until = 0.5 if self.draining else 0.0
        await asyncio.gather(self.plane.listener.close(grace=until), self.control.workers.close(until))
        registrar = self.control.registrar
        registrar.mailbox.tell(Leave())
        for _ in range(20):
            if registrar.state is State.LEFT:
                break
            await asyncio.sleep(0.005)


def _address_error(what: str, address: str, error: OSError) -> BusmeshError:
    return UsageError(
        f"{what} address {address} cannot be used: {error.strerror or error}",
        code="BM3201",
        hint=f"choose another with --{what}, for example --{what} 127.0.0.1:0",
    )
