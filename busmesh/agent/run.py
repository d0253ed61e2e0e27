"""An agent in the foreground: ready line, signals, and the application as its child.

SIGTERM drains and ends with 0; a second one ends at once. With an application command the agent starts it when
itself ready, keeps outbound open until it has ended, and ends with its status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Iterator, Sequence

from busmesh.agent.agent import Agent
from busmesh.agent.child import Child

log = logging.getLogger(__name__)


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


async def _until_ready(agent: Agent) -> None:
    """Wait for all that the agent itself needs; a sick application is told, not waited for."""
    while True:
        awaited = agent.readiness.awaited()
        awaited.pop("draining", None)
        if agent.health is not None and agent.health.health.healthy is not None:
            awaited.pop("application", None)
        if not awaited:
            return
        await asyncio.sleep(0.005)


def _application_environment(agent: Agent) -> dict[str, str]:
    """The agent's environment, and the mesh as HTTP proxy, unless it says otherwise already."""
    proxy = f"http://{_address(agent.outbound_address)}"
    own = {"http_proxy": proxy, "BUSMESH_OUTBOUND": _address(agent.outbound_address)}
    return {**own, **os.environ}


class _Signals:
    """Counts SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def _heard(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._heard)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


async def run_agent(agent: Agent, command: Sequence[str] = ()) -> int:
    """Run ``agent`` until a signal or the application ends it; return the exit status.

    Args:
        agent: not yet started.
        command: the application's command line, if the agent is to start it.

    Raises:
        BusmeshError: it could not start.
    """
    signals = _Signals()
    with signals.listening():
        starting = asyncio.ensure_future(agent.start())
        child: Child | None = None
        try:
            await _first_of(starting, signals.first.wait())
            if not starting.done():
                starting.cancel()
                return 0
            starting.result()
            if command:
                if agent.health is not None:
                    # The application is not there yet; what counts is that the agent is.
                    await _without_application(agent)
                child = await Child.start(command, _application_environment(agent))
            else:
                await _first_of(_until_ready(agent), signals.first.wait())
            print(ready_line(agent), flush=True)  # noqa: T201 - the contract of `agent run`
            return await _serve(agent, signals, child)
        finally:
            if child is not None:
                child.kill()
            await agent.close()


async def _without_application(agent: Agent) -> None:
    while set(agent.readiness.awaited()) - {"application", "draining"}:
        await asyncio.sleep(0.005)


async def _first_of(*works: object) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks[1:]:
            task.cancel()


async def _serve(agent: Agent, signals: _Signals, child: Child | None) -> int:
    ended = asyncio.ensure_future(child.wait()) if child is not None else None
    asked = [signals.first.wait(), agent.drain_requested.wait()]
    tasks = [asyncio.ensure_future(work) for work in asked] + ([ended] if ended is not None else [])
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if ended is not None and ended.done():
        log.info("the application has ended with status %d", ended.result())
        return ended.result()
    log.info("draining; a second signal ends at once")
    draining = asyncio.ensure_future(_drain(agent, child, ended))
    hurry = asyncio.ensure_future(signals.second.wait())
    await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        return 0
    return draining.result()


async def _drain(agent: Agent, child: Child | None, ended: asyncio.Future[int] | None) -> int:
    await agent.drain()
    if child is None or ended is None:
        return 0
    child.terminate()
    try:
        async with asyncio.timeout(agent.definition.drain_s):
            return await asyncio.shield(ended)
    except TimeoutError:
        log.warning("the application does not end; killing it")
        child.kill()
        return await ended
