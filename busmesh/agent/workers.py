"""The workers of an agent as its first process sees them: started, told, heard, and started again.

The first process decides everything that is decided once: what is announced, which policies are in force,
whether the application is healthy. It carries requests too, as number 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from busmesh.actors.actor import Actor
from busmesh.actors.supervisor import HEALTHY_AFTER_S, back_off
from busmesh.agent.ejections import Ejection
from busmesh.agent.pipe import Message, Pipe
from busmesh.decide.share import PERIOD_S
from busmesh.decide.sharereport import parse_report
from busmesh.decide.sharing import Sharing
from busmesh.errors import BusmeshError

log = logging.getLogger(__name__)

#: For the last words of a worker that is told to end; then it is killed.
END_S = 2.0
#: A worker reports each second. One that is silent for so long gets no new sessions, and then is killed: the
#: system goes on giving it connections.
SILENT_S = 3.0
FROZEN_S = 10.0


@dataclass(slots=True)
class Held:
    """One worker."""

    number: int
    pid: int = 0
    pipe: Pipe | None = None
    ready: bool = False
    #: Whether it has the bus.
    connected: bool = False
    heard: float = 0.0
    restarts: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    #: What former lives of it served, so that sums do not fall.
    served: int = 0
    failed: int = 0
    #: Its last report said that it lacks policy revisions.
    behind: bool = False


class Workers:
    """Keeps the workers of one agent running.

    Args:
        number: how many there are beside the first process.
        setup: what a new worker is told, by its number.
        entries: the policy revisions in force.
        closed: why no request is taken, if so.
        ejected: the ejections that stand.
        heard: takes what a worker says and this class does not know.
        changed: called when other workers than before take sessions.
        rng: jitter of restarts.
    """

    def __init__(
        self,
        number: int,
        setup: Callable[[int], dict[str, object]],
        entries: Callable[[], list[bytes]],
        closed: Callable[[], str],
        ejected: Callable[[], Iterable[Ejection]],
        heard: Callable[[Message], None],
        changed: Callable[[], None],
        rng: Random,
    ) -> None:
        self._setup = setup
        self._entries = entries
        self._closed = closed
        self._ejected = ejected
        self._heard = heard
        self._changed = changed
        self._rng = rng
        self._draining = self._ending = False
        self._looked = time.monotonic()
        self.held = [Held(k) for k in range(1, number + 1)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(held)) for held in self.held]

    @property
    def awaited(self) -> str:
        """Which workers are not ready, for people; empty when all are."""
        missing = [str(held.number) for held in self.held if not held.ready]
        return f"worker {', '.join(missing)}" if missing else ""

    def takes(self, number: int) -> bool:
        """Say whether a worker takes new sessions; else the first process does in its place."""
        if not 0 < number <= len(self.held):
            return False
        held = self.held[number - 1]
        return held.ready and held.connected and time.monotonic() - held.heard < SILENT_S

    @property
    def taking(self) -> tuple[bool, ...]:
        """Whether each process takes new sessions, by number; the first one always does."""
        return (True, *(self.takes(held.number) for held in self.held))

    def look(self, now: float) -> None:
        """Kill who is frozen; it is started again. To be called often."""
        if now - self._looked > SILENT_S:  # then it was this process that could hear nobody
            for held in self.held:
                held.heard = now
        self._looked = now
        for held in self.held:
            if held.ready and now - held.heard > FROZEN_S:
                log.error("worker %d says nothing any more; killing it", held.number)
                held.ready = False
                _kill(held)

    @property
    def active(self) -> int:
        return int(sum(held.counts.get("active", 0) for held in self.held))

    @property
    def served(self) -> int:
        return int(sum(held.served + held.counts.get("served", 0) for held in self.held))

    @property
    def failed(self) -> int:
        return int(sum(held.failed + held.counts.get("failed", 0) for held in self.held))

    def tell(self, kind: str, *what: object, but: int = 0) -> None:
        """Tell all workers, except number ``but``; one that does not read any more is killed."""
        for held in self.held:
            if held.pipe is not None and held.number != but and not held.pipe.send(kind, *what):
                log.error("worker %d does not listen any more; killing it", held.number)
                _kill(held)

    def drain(self) -> None:
        """Have all say at once what is at work in them, until that is nothing."""
        self._draining = True
        self.tell("drain")

    @property
    def at_rest(self) -> bool:
        """Whether nothing is at work in any worker, as each has said since `drain`."""
        return not any(
            self.takes(held.number) and (held.counts.get("active") or not held.counts.get("draining"))
            for held in self.held
        )

    # -- one worker --------------------------------------------------------------------------------

    async def _keep(self, held: Held) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                status = await self._live(held)
            except (OSError, BusmeshError) as error:
                status = -1
                log.error("worker %d: %s", held.number, error)
            except Exception:  # whatever it is, nobody else would start the worker again
                status = -1
                log.exception("worker %d: a fault of the agent", held.number)
            if self._ending:
                return
            failures = 1 if time.monotonic() - began > HEALTHY_AFTER_S else failures + 1
            pause = back_off(failures, self._rng.random())
            held.restarts += 1
            log.error(
                "worker %d ended with status %d; starting it again in %.1f s", held.number, status, pause
            )
            await asyncio.sleep(pause)

    async def _live(self, held: Held) -> int:
        ours, theirs = socket.socketpair()
        try:
            # A session of its own: Ctrl-C reaches the first process, which then tells the others.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "busmesh", "agent", "worker", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        pipe = await Pipe.over(ours)
        held.pid, held.pipe = process.pid, pipe
        try:
            pipe.send("setup", self._setup(held.number))
            for entry in self._entries():
                pipe.send("entry", entry)
            for ejection in self._ejected():
                pipe.send("eject", *ejection)
            # Only then: it must know what the policies forbid before it takes a request.
            pipe.send("closed", self._closed())
            if self._draining:
                pipe.send("drain")
            while (message := await pipe.receive()) is not None:
                self._hear(held, message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    return await process.wait()
            return -1
        finally:
            held.ready, held.pipe = False, None
            self._changed()
            held.served += int(held.counts.pop("served", 0))
            held.failed += int(held.counts.pop("failed", 0))
            held.counts = {}
            pipe.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _hear(self, held: Held, message: Message) -> None:
        held.heard = time.monotonic()
        match message:
            case ["ready"]:
                held.ready = held.connected = True
                self._changed()
            case ["bus", bool(standing)]:
                held.connected = standing
                self._changed()
            case ["counts", dict(counts), _, _]:
                held.counts = counts
                self._catch_up(held)
        if message[0] in ("eject", "limits"):
            self.tell(*message, but=held.number)
        self._heard(message)

    def _catch_up(self, held: Held) -> None:
        """Tell a worker again which revisions it lacks, if it has lacked some since the last report.

        It may have heard of a revision before it believed the root behind it, and would refuse all later
        ones.
        """
        entries, has = self._entries(), int(held.counts.get("revision", 0))
        if has < len(entries) and held.behind and held.pipe is not None:
            log.warning("worker %d lacks revisions after %d; telling them again", held.number, has)
            for entry in entries[has:]:
                held.pipe.send("entry", entry)
        held.behind = has < len(entries)

    async def close(self, grace: float) -> None:
        """Have all end: what is at work may finish within ``grace`` seconds."""
        self._ending = True
        self.tell("close", grace)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace + END_S)
            for task in late:
                task.cancel()
            for held in self.held:
                if held.pipe is not None:
                    _kill(held)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def statistics(self) -> list[dict[str, object]]:
        return [
            {
                "worker": held.number,
                "pid": held.pid,
                "ready": held.ready,
                "restarts": held.restarts,
                **held.counts,
            }
            for held in self.held
        ]


class LocalLimits(Actor[None]):
    """Shares limits of this one instance among its processes, as instances share those of the mesh.

    It is what happens ten times a second, so it looks after frozen workers as well.
    """

    interval = PERIOD_S
    capacity = 1

    def __init__(self, sharing: Sharing, workers: Workers) -> None:
        super().__init__("local limits")
        self._sharing = sharing
        self._workers = workers

    def hear(self, worker: int, plain: object) -> None:
        self._sharing.hear(str(worker), parse_report(plain), time.monotonic())

    async def tick(self) -> None:
        now = time.monotonic()
        self._workers.look(now)
        self._sharing.tick(now)
        report = self._sharing.report(now)
        if report is not None:
            self._workers.tell("limits", 0, report.to_plain())


def _kill(held: Held) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(held.pid, signal.SIGKILL)
