"""How a foreground process is asked to end: the first signal says "when you are done", the second "now"."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_signals(
    on_reload: Callable[[], None] | None = None, last_words: Callable[[], None] = lambda: None
) -> Iterator[asyncio.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; a second one ends the process at once.

    Args:
        on_reload: called at SIGHUP; None lets SIGHUP end the process too, as a closed terminal should.
        last_words: called before ending at once: whoever has a child process takes it along.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def end(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("%s again: stopping at once", number.name)
            last_words()
            logging.shutdown()
            os._exit(128 + number)
        log.info("%s: stopping; once more stops at once", number.name)
        stop.set()

    ending = [signal.SIGTERM, signal.SIGINT]
    installed: list[signal.Signals] = []
    if hasattr(signal, "SIGHUP"):
        if on_reload is None:
            ending.append(signal.SIGHUP)
        else:
            loop.add_signal_handler(signal.SIGHUP, on_reload)
            installed.append(signal.SIGHUP)
    try:
        for number in ending:
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends it as any command
                loop.add_signal_handler(number, end, number)
                installed.append(number)
        yield stop
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work`` to its end; if ``stop`` is set before, give it up and return False."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        return False
    finally:
        for waiting in (task, stopping):
            waiting.cancel()
        await asyncio.gather(task, stopping, return_exceptions=True)
