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

from busmesh.actors.supervisor import Supervisor
from busmesh.agent import memory
from busmesh.agent.dataplane import DataPlane
from busmesh.agent.identity import show_login
from busmesh.agent.pipe import Message, Pipe
from busmesh.agent.process import Process
from busmesh.agent.rekeying import RekeyAll
from busmesh.agent.setup import Setup
from busmesh.decide.share import PERIOD_S
from busmesh.decide.sharereport import parse_report
from busmesh.errors import BusmeshError
from busmesh.relay.client.listener import bind
from busmesh.telemetry.metrics import Registry

log = logging.getLogger(__name__)

#: Between two reports to the first process; while it drains that waits for the end of what is at work.
REPORT_S = 1.0
DRAIN_REPORT_S = 0.02


class Worker:
    """One worker.

    Args:
        process: what it is.
        address: where it takes the application's requests, as the first process does.
        pipe: the way to the first process.
    """

    def __init__(self, process: Process, address: tuple[str, int], pipe: Pipe) -> None:
        self._process = process
        self._address = address
        self._pipe = pipe
        self._supervisor = Supervisor(process.rng)
        self._draining = False
        #: Set when the first process has told all that is to be known before a request is taken.
        self._told = asyncio.Event()
        self._connected = asyncio.Event()
        self._login_shown: asyncio.Task[None] | None = None
        plane = self._plane = DataPlane(process, Registry({}))
        assert plane.local_sharing is not None, "an agent of several processes"
        self._sharing = plane.local_sharing
        plane.outbound_address = address  # until it listens there itself, others do
        plane.ejections.on_found = lambda ejection: self._tell("eject", *ejection)
        if plane.application is not None and plane.acceptor is not None:
            plane.application.on_unreachable = lambda: self._tell("unreachable")
            number, workers = process.worker, process.definition.workers
            plane.acceptor.mine = lambda identifier: identifier[0] % workers == number

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
        bus = self._process.bus
        await bus.connect()
        self._connected.set()
        await self._plane.catch_up()
        await self._plane.start(self._supervisor)
        bus.on_connection(lambda standing: self._tell("bus", standing))
        await bus.settled()
        await self._told.wait()
        await self._plane.listen(bind(*self._address, shared=True))
        memory.keep_blocks()
        memory.settle()
        self._report()
        self._tell("ready")

    async def _end(self) -> None:
        await self._supervisor.stop()
        await self._plane.close()
        await self._process.bus.close()
        self._pipe.close()

    # -- what it tells the first process -----------------------------------------------------------

    def _tell(self, kind: str, *what: object) -> None:
        self._pipe.send(kind, *what)

    async def _report_until(self, listening: asyncio.Task[None]) -> None:
        reported = 0.0
        while not listening.done():
            pause = DRAIN_REPORT_S if self._draining else PERIOD_S
            await asyncio.wait([listening], timeout=pause)
            now = time.monotonic()
            self._sharing.tick(now)
            report = self._sharing.report(now)
            if report is not None:
                self._tell("limits", self._process.worker, report.to_plain())
            if now - reported >= (DRAIN_REPORT_S if self._draining else REPORT_S):
                reported = now
                self._report()

    def _report(self) -> None:
        plane, inbound = self._plane, self._plane.inbound
        counts = {
            "active": inbound.active if inbound is not None else 0,
            "served": inbound.served if inbound is not None else 0,
            "failed": inbound.failed if inbound is not None else 0,
            "sent": plane.outbound.active,
            "connections": len(plane.listener.connections),
            "cpu_s": round(time.process_time(), 3),
            "tasks": len(asyncio.all_tasks()),
            "revision": plane.policies.set.number,
            "sessions": inbound.statistics()["sessions"] if inbound is not None else 0,
            "svid": f"{self._process.identity.svid.certificate.serial_number:x}",
            "draining": self._draining,
        }
        self._tell("counts", counts, plane.registry.take(), plane.registry.take_counters())
        if access := plane.access_log.drain():
            self._tell("access", access)
        if spans := plane.tracer.drain():
            self._tell("spans", spans)

    # -- what the first process says ---------------------------------------------------------------

    async def _listen_to_first(self) -> None:
        while (message := await self._pipe.receive()) is not None:
            if message[0] == "close":
                await self._plane.listener.close(grace=message[1])
                self._report()
                return
            self._hear(message)
        # The first process is dead: nobody answers for this instance any more.
        os._exit(1)

    def _hear(self, message: Message) -> None:
        plane = self._plane
        match message:
            case ["entry", bytes(entry)]:
                plane.policies.follow(entry)
            case ["closed", str(reason)]:
                if plane.inbound is not None:
                    plane.inbound.closed_because = reason
                self._told.set()
            case ["drain"]:
                self._draining = True
                if plane.inbound is not None:
                    plane.inbound.go_away()
                self._report()
            case ["identity"]:
                self._renew()
            case ["eject", str(key), str(instance), str(cause), float(seconds)]:
                plane.ejections.heard(key, instance, cause, seconds)
            case ["limits", int(who), plain]:
                self._sharing.hear(str(who), parse_report(plain), time.monotonic())

    def _renew(self) -> None:
        """Use the identity and the login that the first process has put on disk."""
        home = self._process.home
        try:
            self._process.identity.renew(home.svid(), home.trust(self._process.subjects.mesh))
        except BusmeshError as error:  # the next renewal will tell; until then there is the old one
            log.error("the renewed identity cannot be read: %s", error)
            return
        self._plane.rekeying.mailbox.tell(RekeyAll())
        self._login_shown = asyncio.create_task(self._show_login(self._login_shown))

    async def _show_login(self, before: asyncio.Task[None] | None) -> None:
        """Show the bus the login of now, after the ones that were to be shown before."""
        await self._connected.wait()
        if before is not None:
            await before
        await show_login(self._process.bus)


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
    setup = Setup.from_plain(message[1])
    worker = Worker(setup.process(), setup.address, pipe)
    with contextlib.suppress(asyncio.CancelledError):
        await worker.run()
