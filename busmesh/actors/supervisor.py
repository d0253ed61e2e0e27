"""The supervisor: owns the task of each actor, and starts it again when it fails.

Restarts back off, so that an actor which fails over and over neither burns the processor nor floods the log;
its mailbox survives, so what was sent meanwhile is not lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from busmesh.actors.actor import Actor

log = logging.getLogger(__name__)

BACK_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 5.0
#: A run this long counts as healthy: the next failure backs off from the beginning.
HEALTHY_AFTER_S = 30.0
#: An actor that does not stop is told again so often.
STOP_S = 1.0


def back_off(failures: int, jitter: float) -> float:
    """Return the seconds to wait before the next start.

    Args:
        failures: failures in a row, at least 1.
        jitter: a random number from 0 to 1.
    """
    ceiling = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2 ** min(failures - 1, 16))
    return float(ceiling * (0.5 + jitter / 2))


class Supervisor:
    """Runs actors until it is stopped."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._running: dict[str, tuple[Actor[Any], asyncio.Task[None]]] = {}
        self.restarts: dict[str, int] = {}

    def start(self, actor: Actor[Any]) -> None:
        """Run ``actor`` from now on; its name must be free."""
        if actor.name in self._running:
            raise ValueError(f"an actor called {actor.name} is running already")
        self.restarts[actor.name] = 0
        task = asyncio.get_running_loop().create_task(self._supervise(actor), name=f"actor {actor.name}")
        self._running[actor.name] = (actor, task)

    async def _supervise(self, actor: Actor[Any]) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        failures = 0
        while True:
            began = loop.time()
            try:
                await actor.run()
            # Waiting for something that is cancelled raises the same as being stopped, and is a failure.
            except (Exception, asyncio.CancelledError) as error:
                if task is None or task.cancelling():
                    raise
                failures = 1 if loop.time() - began > HEALTHY_AFTER_S else failures + 1
                pause = back_off(failures, self._rng.random())
                self.restarts[actor.name] += 1
                log.exception("actor %s failed (%s); starting it again in %.1f s", actor.name, error, pause)
                await asyncio.sleep(pause)

    async def stop(self) -> None:
        """Stop all actors, the one started last first."""
        for actor, task in reversed(list(self._running.values())):
            while not task.done():  # whatever it waits for may swallow a cancellation
                task.cancel()
                await asyncio.wait((task,), timeout=STOP_S)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("actor %s failed while it was stopped", actor.name, exc_info=error)
            actor.mailbox.close()
            try:
                await actor.stopped()
            except Exception:  # one that cannot clean up must not keep the others from it
                log.exception("actor %s failed to clean up", actor.name)
        self._running.clear()

    def statistics(self) -> dict[str, dict[str, int]]:
        return {
            name: {**actor.mailbox.statistics(), "restarts": self.restarts[name]}
            for name, (actor, _) in self._running.items()
        }

    def __repr__(self) -> str:
        return f"<Supervisor actors={sorted(self._running)}>"
