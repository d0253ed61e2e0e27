"""Listening to telemetry: which subject a pattern means, and messages as they come."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from busmesh.bus.bus import Bus
from busmesh.errors import UsageError
from busmesh.names import Subjects

SIGNALS = ("metrics", "traces", "access", "events")
#: Messages that wait to be printed; a terminal that is too slow loses the rest, counted.
CAPACITY = 4096
_PATTERN = re.compile(r"(?:[a-z0-9-]{1,63}|\*)(?:\.(?:[a-z0-9-]{1,63}|\*))*(?:\.>)?|>")


def subject_of(subjects: Subjects, pattern: str | None) -> str:
    """Return the subject that ``pattern`` means.

    Args:
        subjects: of the mesh.
        pattern: None for everything; a signal ("access"); or what follows ``<root>.telemetry.`` on the bus,
            with or without that prefix ("access.default.orders.*").

    Raises:
        UsageError: it is no pattern, or lies outside the mesh's telemetry (code BM2305).
    """
    everything = subjects.signals()
    if pattern is None:
        return everything
    if pattern in SIGNALS:
        return subjects.signals(pattern)
    prefix = everything.removesuffix(">")
    rest = pattern.removeprefix(prefix)
    if _PATTERN.fullmatch(rest) is None or rest.split(".")[0] not in (*SIGNALS, "*", ">"):
        raise UsageError(
            f"{pattern[:80]!r} is no pattern of telemetry",
            code="BM2305",
            hint=f"one of {', '.join(SIGNALS)}, or a subject such as access.default.orders.*",
        )
    return prefix + rest


class Listener:
    """Messages of one subject, in the order in which they came.

    Attributes:
        dropped: messages that nobody took in time.
    """

    def __init__(self, capacity: int) -> None:
        self._messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(maxsize=capacity)
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Listener waiting={self._messages.qsize()} dropped={self.dropped}>"

    def hear(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take one message from the bus."""
        try:
            self._messages.put_nowait((subject.decode("utf-8", "replace"), payload))
        except asyncio.QueueFull:
            self.dropped += 1

    async def next(self) -> tuple[str, bytes]:
        """Return subject and payload of the next message."""
        return await self._messages.get()


@contextlib.asynccontextmanager
async def listener(bus: Bus, subject: str, *, capacity: int = CAPACITY) -> AsyncIterator[Listener]:
    """Listen to ``subject`` while the block lasts."""
    heard = Listener(capacity)
    number = await bus.subscribe(subject, heard.hear)
    try:
        await bus.round_trip()  # from here on nothing is missed
        yield heard
    finally:
        await bus.unsubscribe(number)
