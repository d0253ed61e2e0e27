"""Whether this instance takes requests: decided once, and carried out in every process of its agent.

It takes them when its policies are known and its application is healthy, and no more when it drains or when
another process has its name. What is decided is announced as well, so that callers go elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from busmesh.actors.supervisor import Supervisor
from busmesh.agent.dataplane import DataPlane
from busmesh.agent.health import HealthChecker, Unreachable
from busmesh.agent.namesake import Namesake
from busmesh.agent.registrar import Drain, HealthChanged, Registrar, Retire
from busmesh.agent.workers import Workers
from busmesh.members.announcement import Announcement
from busmesh.members.load import STALE_S, Load, LoadMeter, read_report

log = logging.getLogger(__name__)

#: After "I am draining" callers need a moment to hear it; requests that come meanwhile are served.
DRAIN_NOTICE_S = 0.5
SUPERSEDED = "another process has taken this instance's name; give each its own with --instance"


class Serving:
    """Opens and closes an instance to requests; one that only calls others has nothing to open.

    Args:
        plane: of the first process.
        workers: the other processes.
        registrar: announces what is decided.
        event: tells operators: kind and message.

    Attributes:
        health: what is believed of the application; None without one.
        draining: for good.
        superseded: a process that started later has this instance's name; for good.
    """

    def __init__(
        self, plane: DataPlane, workers: Workers, registrar: Registrar, event: Callable[[str, str], None]
    ) -> None:
        self._plane = plane
        self._inbound = plane.inbound
        self._workers = workers
        self._registrar = registrar
        self._event = event
        self._meter = LoadMeter()
        self.draining = self.superseded = False
        self.namesake = Namesake(
            plane.process.identity,
            lambda: registrar.announcement,
            lambda: registrar.sealed,
            self._supersede,
        )
        registrar.active = lambda: self.active
        registrar.load = self._load
        plane.policies.on_synchronised = self._decide
        self.health: HealthChecker | None = None
        definition = plane.process.definition
        if definition.app_address is not None:
            self.health = HealthChecker(definition.app_address, definition.health, self._health_changed)
        if plane.application is not None:
            plane.application.on_unreachable = self.unreachable

    async def start(self, supervisor: Supervisor) -> None:
        """Check the application and hear who asks for it; announce that, or that there is none."""
        process = self._plane.process
        name, subjects = process.definition.name, process.subjects
        await process.bus.subscribe(subjects.member(name, process.instance), self.namesake.on_message)
        supervisor.start(self.namesake)
        if self.health is not None:
            self._who = await process.bus.subscribe(subjects.who(name), self._registrar.on_question)
            supervisor.start(self.health)
        else:
            self._registrar.mailbox.tell(HealthChanged(True))

    @property
    def checked(self) -> bool:
        """Whether the application was asked how it is."""
        return self.health is not None and self.health.health.healthy is not None

    @property
    def active(self) -> int:
        """Requests at work at the application, in all processes."""
        return (self._inbound.active if self._inbound is not None else 0) + self._workers.active

    @property
    def _at_work(self) -> bool:
        """Whether a request is at work in any process of an agent that drains."""
        return (self._inbound is not None and self._inbound.active > 0) or not self._workers.at_rest

    def _load(self, now: float) -> Load | None:
        """Return what this instance announces of its load; asked once a second."""
        inbound, application = self._inbound, self._plane.application
        if inbound is None or application is None:
            return None
        said, at = application.report
        report = read_report(said) if now - at < STALE_S else None
        served, failed = inbound.served + self._workers.served, inbound.failed + self._workers.failed
        return self._meter.measure(served, failed, report, now)

    # -- what it depends on ------------------------------------------------------------------------

    def unreachable(self) -> None:
        """Hear that a request found nobody listening."""
        if self.health is not None:
            self.health.mailbox.tell(Unreachable())

    def _health_changed(self, healthy: bool) -> None:
        self._decide()
        state = "healthy" if healthy else "unhealthy"
        why = self.health.last_error if self.health is not None and not healthy else ""
        self._event(f"health.{state}", f"the application is {state}{': ' if why else ''}{why}")

    def _decide(self) -> None:
        """Take requests, or take none: without its policies an instance does not know what they forbid."""
        healthy = self.health.health.healthy if self.health is not None else None
        if healthy is None:
            return
        if not (self._plane.policies.synchronised or self.superseded):
            self._close("its policies have not been read yet")
            return
        if not (self.draining or self.superseded):
            self._close("" if healthy else "its application is not healthy")
        self._registrar.mailbox.tell(HealthChanged(healthy))

    def _close(self, reason: str) -> None:
        """Have all processes refuse requests; with an empty reason, take them again."""
        if self._inbound is not None:
            self._inbound.closed_because = reason
            self._workers.tell("closed", reason)

    # -- its ends ----------------------------------------------------------------------------------

    def _supersede(self, later: Announcement) -> None:
        """Step back: another process has this instance's name, its keys and its subjects."""
        self.superseded = True
        mine = self._registrar.announcement
        log.error(
            "another process has taken the name %s: it started %.1f s after this one, which serves no more",
            mine.instance,
            (later.incarnation - mine.incarnation) / 1000,
        )
        self._event("agent.superseded", SUPERSEDED)
        self._registrar.mailbox.tell(Retire())
        if self._inbound is not None:
            self._close(SUPERSEDED)
            self._stepping_back = asyncio.create_task(self._step_back())

    async def _step_back(self) -> None:
        """Hear no more of what is meant for the other process; it would be answered twice."""
        await self._workers.close(0.0)
        await self._plane.process.bus.unsubscribe(self._who)
        await self._plane.step_back()

    async def drain(self) -> None:
        """Leave the rotation and finish what is at work, within the time that the definition grants.

        Outbound stays open: the application may need others to finish its own work.
        """
        if self.draining:
            return
        self.draining = True
        self._event("agent.draining", "no new requests, please")
        self._registrar.mailbox.tell(Drain())
        granted = self._plane.process.definition.drain_s
        until = time.monotonic() + max(granted, DRAIN_NOTICE_S)
        if self._inbound is None:
            return
        await asyncio.sleep(min(DRAIN_NOTICE_S, granted))
        # What is at work may be probed for, so the subscription stays until all of it is done.
        self._close("it is draining")
        self._inbound.go_away()
        self._workers.drain()
        while self._at_work and time.monotonic() < until:  # noqa: ASYNC110 - an event costs each request
            await asyncio.sleep(0.01)
        await self._plane.process.bus.unsubscribe(self._who)
        await self._plane.leave()

    def __repr__(self) -> str:
        state = "superseded" if self.superseded else "draining" if self.draining else "up"
        return f"<Serving {state} active={self.active}>"
