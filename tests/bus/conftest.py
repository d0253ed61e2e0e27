"""Every test of the bus runs on the event loop of production and on the one of the standard library."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

Run = Callable[[Coroutine[Any, Any, None]], None]


async def _watched(work: Coroutine[Any, Any, None]) -> None:
    """Do ``work``; fail if it leaves a task behind or an exception that nobody took."""
    stray: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: stray.append(context))
    await work
    await asyncio.sleep(0)  # what was cancelled in the last step ends now
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left
    assert not stray, stray


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine to its end on an event loop of its own."""
    factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None

    def run(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_watched(work))

    return run
