"""A clock for what is in flight: ticks while there is something to watch, costs nothing otherwise.

One timer for all requests instead of one per request: starting and cancelling a timer for each would cost
more than finding, a hundred times a second, the few that are late.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable


class Ticker:
    """Calls ``work(now)`` each ``interval`` seconds for as long as it returns True.

    Args:
        interval: seconds between two ticks.
        work: gets monotonic seconds; returns whether there is anything left to watch.
    """

    def __init__(self, interval: float, work: Callable[[float], bool]) -> None:
        self._interval = interval
        self._work = work
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Begin ticking, if it does not already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._work(time.monotonic()):
            self.wake()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Alarm:
    """One timer for the earliest of many moments.

    Args:
        ring: called when it has come, with monotonic seconds; returns the next moment, None if there is none.
    """

    def __init__(self, ring: Callable[[float], float | None]) -> None:
        self._ring = ring
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, due: float) -> None:
        """Have it ring at ``due`` (monotonic seconds), if it does not ring earlier."""
        if due < self._due:
            self.stop()
            self._due = due
            delay = max(0.0, due - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._due, self._timer = math.inf, None
        due = self._ring(time.monotonic())
        if due is not None:
            self.set(due)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due, self._timer = math.inf, None
