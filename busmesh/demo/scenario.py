"""What happens in the demo, in its order: the mesh comes up, a split, a canary, a kill, all under traffic."""

from __future__ import annotations

import asyncio
import contextlib
import time
from random import Random
from types import TracebackType

from busmesh.demo.board import Board, State
from busmesh.demo.cast import AGENTS, CANARY, SHOP, SPLIT, as_typed, shipped
from busmesh.demo.desk import Desk, at_desk
from busmesh.demo.heard import Heard
from busmesh.demo.ledger import Part
from busmesh.demo.mesh import DemoMesh
from busmesh.demo.traffic import Traffic

#: How the time after the start is shared out.
SHARES = {Part.EVEN: 0.15, Part.SPLIT: 0.30, Part.CANARY: 0.25, Part.KILL: 0.30}
#: However short the demo: 120 requests, so that a share of 2 % is more than chance.
SHORTEST_S = 1.2
#: Ending everything takes so long.
END_S = 1.0
_LOOK_S = 0.1


def lengths(left_s: float) -> dict[Part, float]:
    """Return how many seconds each part gets of those that are left after the start."""
    return {part: max(SHORTEST_S, share * (left_s - END_S)) for part, share in SHARES.items()}


class Scenario:
    """Plays the demo on a mesh that has not been started.

    Args:
        mesh: its processes.
        duration: seconds that all of it should last; the parts have a shortest length.
        rng: decides which requests are sent and who is killed.

    Attributes:
        board: what there is to see.
    """

    def __init__(self, mesh: DemoMesh, *, duration: float, rng: Random) -> None:
        self.board = Board(Heard(time.monotonic), time.monotonic(), duration)
        self._mesh = mesh
        self._rng = rng
        self._victim = rng.choice([r.instance for r in SHOP if (r.service, r.version) == ("orders", "v1")])
        self._stack = contextlib.AsyncExitStack()
        self._traffic: Traffic | None = None
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Scenario:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_sending()
        if self._traffic is not None:
            self._traffic.close()
        await self._stack.aclose()

    async def play(self, *, go_on: bool) -> None:
        """Play all parts.

        Args:
            go_on: keep sending afterwards, for those who want to look around.

        Raises:
            BusmeshError: the mesh did not come up, or a policy was refused.
        """
        board = self.board
        await self._start()
        desk = await self._stack.enter_async_context(at_desk(self._mesh, board.heard))
        left = board.duration - (time.monotonic() - board.began)
        length = lengths(left)
        traffic = self._send()
        board.doing = "no policy yet: each instance of orders gets the same share"
        await self._pass(length[Part.EVEN])
        await self._publish(desk, traffic, Part.SPLIT, SPLIT, "v2 gets a fifth")
        await self._pass(length[Part.SPLIT])
        await self._publish(desk, traffic, Part.CANARY, CANARY, "v2 for who asks")
        await self._pass(length[Part.CANARY])
        self._kill(traffic)
        await self._pass(length[Part.KILL])
        if not go_on:
            await self._stop_sending()
            await traffic.last()
        board.steps[Part.KILL].state = State.DONE
        board.doing = ""
        board.over = True

    # -- parts -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        board, step = self.board, self.board.steps[Part.EVEN]
        step.state = State.NOW
        step.said = "bus and authority"
        board.doing = "$ busmesh up"
        await self._mesh.start_bus()
        board.doing = f"$ busmesh agent run {as_typed(shipped('agents/web.yaml'))} -- ..., and so on"

        def progress(there: int) -> None:
            step.said = f"{there} of {len(AGENTS)} agents serve"

        progress(0)
        await self._mesh.start_agents(progress)
        board.started_s = time.monotonic() - board.began
        board.processes = self._mesh.processes
        step.said = (
            f"bus, authority, {len(AGENTS)} agents, {len(SHOP)} applications in {board.started_s:.1f} s"
        )

    async def _publish(self, desk: Desk, traffic: Traffic, part: Part, name: str, reason: str) -> None:
        board = self.board
        self._begin(part)
        board.doing = f"$ busmesh policy publish {as_typed(shipped(name))}"
        plan = await desk.draft(name, reason, agents=len(AGENTS))
        traffic.part = Part.BETWEEN
        published = await desk.publish(plan)
        traffic.part = board.part = part
        board.published.append(published)
        board.steps[part].said = (
            f"revision {published.number} in force at {published.in_force} of {published.agents} agents"
            f" after {published.after_ms:.0f} ms"
        )

    def _kill(self, traffic: Traffic) -> None:
        """Kill one of two instances of a version: the other one has to take over without anybody's help."""
        board = self.board
        self._begin(Part.KILL)
        board.tries_before = board.heard.failed_tries
        board.victim = self._victim
        traffic.part = board.part = Part.KILL
        self._mesh.kill(board.victim)
        board.steps[Part.KILL].said = f"SIGKILL for {board.victim}, agent and application"
        board.doing = f"{board.victim} is gone, and the bus says so to whoever sends to it"

    def _begin(self, part: Part) -> None:
        """Tick off the part before."""
        self.board.steps[Part(part - 1)].state = State.DONE
        self.board.steps[part].state = State.NOW

    # -- traffic -----------------------------------------------------------------------------------

    def _send(self) -> Traffic:
        self._traffic = traffic = Traffic(self._mesh.outbound, self.board.ledger.add, self._rng)
        self._sending = asyncio.create_task(traffic.run())
        return traffic

    async def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _pass(self, seconds: float) -> None:
        """Let time pass, and look who has fallen over meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(_LOOK_S, left))
            self.board.casualties |= self._mesh.casualties()
            if self._sending is not None and self._sending.done():
                self._sending.result()  # raises what ended it

    def __repr__(self) -> str:
        return f"<Scenario part={self.board.part.name} {self._traffic}>"
