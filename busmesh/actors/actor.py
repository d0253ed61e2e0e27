"""An actor: one task, one bounded mailbox, state that nobody else touches.

It is addressed through an :class:`Address`, which looks the same for an actor in this process
(:class:`Mailbox`) and for one behind a subject of the bus (:class:`busmesh.bus.address.SubjectAddress`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Generic, Protocol, TypeVar

from busmesh.errors import BusmeshError

#: Bytes of strangers that may wait in one mailbox: what ten thousand honest agents announce in a second.
MAX_WAITING_BYTES = 8 * 1024 * 1024

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)


class ActorStopped(BusmeshError):
    """A question to an actor that has stopped, or that fell over it."""


class MailboxFull(BusmeshError):
    """A question to an actor that has more messages waiting than it may hold."""


class Address(Protocol[M_contra]):
    """Where messages for an actor go."""

    def tell(self, message: M_contra) -> bool:
        """Send without waiting; False if the message could not be taken."""

    def ask(self, message: M_contra, timeout: float) -> Awaitable[Any]:
        """Send and wait up to ``timeout`` seconds for the answer."""


class _Question(Generic[M]):
    __slots__ = ("answer", "message")

    def __init__(self, message: M, answer: asyncio.Future[Any]) -> None:
        self.message = message
        self.answer = answer


class Mailbox(Generic[M]):
    """The address of an actor in this process.

    Args:
        name: shown in logs and statistics.
        capacity: messages that may wait; a message too many is refused and counted, never queued.
    """

    def __init__(self, name: str, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"the mailbox of {name} holds nothing")  # asyncio would take it for no bound
        self.name = name
        self.refused = 0
        self.taken = 0
        self._closed = False
        self._bytes = 0
        #: (bytes, message).
        self._queue: asyncio.Queue[tuple[int, M | _Question[M]]] = asyncio.Queue(maxsize=capacity)

    def tell(self, message: M, size: int = 0) -> bool:
        """Send without waiting; False if the mailbox is closed, full, or holds too many bytes.

        Args:
            message: for the actor.
            size: bytes that it holds, if a stranger had the choice of them.
        """
        if self._closed or self._queue.full() or self._bytes + size > MAX_WAITING_BYTES:
            self.refused += 1
            return False
        self._bytes += size
        self._queue.put_nowait((size, message))
        return True

    async def ask(self, message: M, timeout: float) -> Any:
        """Send and return the actor's answer.

        Raises:
            ActorStopped: the actor has stopped, or failed over this message.
            MailboxFull: too many messages wait already.
            TimeoutError: no answer within ``timeout`` seconds.
        """
        if self._closed:
            raise ActorStopped(f"actor {self.name} has stopped")
        if self._queue.full():
            self.refused += 1
            raise MailboxFull(f"actor {self.name} has {self._queue.qsize()} messages waiting")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((0, _Question(message, answer)))
        async with asyncio.timeout(timeout):
            return await answer

    async def _next(self) -> M | _Question[M]:
        size, item = await self._queue.get()
        self._bytes -= size
        self.taken += 1
        return item

    def close(self) -> None:
        """Refuse what comes from now on, and fail the questions that still wait."""
        self._closed = True
        while not self._queue.empty():
            _, item = self._queue.get_nowait()
            if isinstance(item, _Question) and not item.answer.done():
                item.answer.set_exception(ActorStopped(f"actor {self.name} has stopped"))

    def statistics(self) -> dict[str, int]:
        return {"waiting": self._queue.qsize(), "taken": self.taken, "refused": self.refused}

    def __repr__(self) -> str:
        return f"<Mailbox {self.name} {self.statistics()}>"


class Actor(Generic[M]):
    """Base of all actors. A subclass says what to do with a message and, if it wants, with time.

    Attributes:
        interval: seconds between two calls of :meth:`tick`; None for an actor that only reacts.
        capacity: messages that may wait in its mailbox.
    """

    interval: float | None = None
    capacity: int = 1024

    def __init__(self, name: str) -> None:
        self.name = name
        self.mailbox: Mailbox[M] = Mailbox(name, self.capacity)

    async def started(self) -> None:
        """Prepare; also called after each restart."""

    async def receive(self, message: M) -> Any:
        """Handle one message; the return value answers an ``ask``."""

    async def tick(self) -> None:
        """Do what is due by time."""

    async def stopped(self) -> None:
        """Clean up; called once, when the supervisor stops."""

    async def run(self) -> None:
        """Handle messages and ticks, one after the other, until cancelled or failed."""
        loop = asyncio.get_running_loop()
        await self.started()
        due = loop.time() + self.interval if self.interval is not None else None
        while True:
            # Asked here as well: a mailbox that is never empty must not keep the time from passing.
            if due is not None and loop.time() >= due:
                await self.tick()
                due = loop.time() + (self.interval or 0)
            try:
                async with asyncio.timeout_at(due):
                    item = await self.mailbox._next()
            except TimeoutError:
                continue
            if isinstance(item, _Question):
                await self._answer(item)
            else:
                await self.receive(item)
            await asyncio.sleep(0)  # a full mailbox must not keep everybody else waiting

    async def _answer(self, question: _Question[M]) -> None:
        try:
            answer = await self.receive(question.message)
        except BaseException as error:
            if not question.answer.done():
                question.answer.set_exception(
                    ActorStopped(f"actor {self.name} failed over the question: {error}")
                )
            raise
        if not question.answer.done():  # the asker may have gone
            question.answer.set_result(answer)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.mailbox.statistics()}>"
