"""An agent in the foreground: ready line, signals, and the application as its child.

SIGTERM drains and ends with 0; a second one ends at once. With an application command the agent starts it
when itself ready, keeps outbound open until it has ended, and ends with its status.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Coroutine, Sequence
from typing import Any

from busmesh.agent.agent import Agent
from busmesh.agent.child import Child

log = logging.getLogger(__name__)

ENDED_BY_SIGTERM = 128 + signal.SIGTERM


def _address(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def ready_line(agent: Agent) -> str:
    """The one line on stdout that says where the agent listens."""
    return json.dumps(
        {
            "event": "ready",
            "service": str(agent.definition.name),
            "instance": agent.instance,
            "outbound": _address(agent.outbound_address),
            "admin": _address(agent.admin_address),
        }
    )


async def _until_ready(agent: Agent, *, needs_application: bool) -> None:
    """Wait for all that the agent itself needs; of the application only to have been asked once."""
    while True:
        awaited = agent.readiness.awaited()
        awaited.pop("draining", None)
        if not needs_application or agent.application_checked:
            awaited.pop("application", None)
        if not awaited:
            return
        await asyncio.sleep(0.005)


def _application_environment(agent: Agent) -> dict[str, str]:
    """The agent's environment, and the mesh as HTTP proxy, unless it says otherwise already."""
    proxy = f"http://{_address(agent.outbound_address)}"
    own = {"http_proxy": proxy, "BUSMESH_OUTBOUND": _address(agent.outbound_address)}
    return {**own, **os.environ}


class Runner:
    """One agent in the foreground.

    Args:
        agent: not yet started.
        command: the application's command line, if the agent is to start it.
    """

    def __init__(self, agent: Agent, command: Sequence[str] = ()) -> None:
        self._agent = agent
        self._command = command
        self._child: Child | None = None

    def kill_child(self) -> None:
        """Take the application along; for an agent that is told to end at once."""
        if self._child is not None:
            self._child.kill()

    async def run(self, stop: asyncio.Event) -> int:
        """Run until ``stop`` is set, ``/drain`` is asked or the application ends; return the exit status.

        Raises:
            BusmeshError: the agent could not start.
        """
        agent = self._agent
        stopping = asyncio.create_task(stop.wait())
        try:
            if not await _before(stopping, agent.start()):
                return 0
            if self._command:
                # The application is not there yet; what counts is that the agent is.
                if not await _before(stopping, _until_ready(agent, needs_application=False)):
                    return 0
                self._child = await Child.start(self._command, _application_environment(agent))
            elif not await _before(stopping, _until_ready(agent, needs_application=True)):
                return 0
            print(ready_line(agent), flush=True)  # noqa: T201 - the contract of `agent run`
            return await self._serve(stopping)
        finally:
            stopping.cancel()
            self.kill_child()
            await agent.close()

    async def _serve(self, stopping: asyncio.Task[bool]) -> int:
        child = self._child
        drain = asyncio.create_task(self._agent.drain_requested.wait())
        ended = asyncio.create_task(child.wait()) if child is not None else None
        waiting: list[asyncio.Task[Any]] = [stopping, drain] + ([ended] if ended is not None else [])
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        drain.cancel()
        if child is None or ended is None:
            await self._agent.drain()
            return 0
        if not ended.done():
            # The application first finishes what it has; it may need others for that, so outbound stays open.
            await self._agent.drain()
            child.terminate()
            await asyncio.wait([ended], timeout=self._agent.definition.drain_s)
            if not ended.done():
                log.warning("the application does not end; killing it")
                child.kill()
        status = await ended
        log.info("the application has ended with status %d", status)
        asked = stopping.done() or self._agent.draining
        # An application without a handler ends by the very signal that we sent: that is an end in order.
        return 0 if asked and status == ENDED_BY_SIGTERM else status


async def _before(stopping: asyncio.Task[bool], work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``; False if it was given up because the process is to stop."""
    task = asyncio.create_task(work)
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
        return True
    task.cancel()
    await asyncio.wait([task])
    return False
