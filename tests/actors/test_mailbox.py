"""Mailboxes: bounded, counted, and honest to whoever asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from busmesh.actors.actor import MAX_WAITING_BYTES, Actor, ActorStopped, Mailbox, MailboxFull


class Recorder(Actor[Any]):
    """Keeps what it gets; waits at ``gate`` with each message."""

    def __init__(self, interval: float | None = None) -> None:
        super().__init__("recorder")
        self.interval = interval
        self.got: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.ticked = asyncio.Event()

    async def receive(self, message: Any) -> Any:
        await self.gate.wait()
        self.got.append(message)
        return f"answer to {message}"

    async def tick(self) -> None:
        self.ticked.set()


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing else tells of it
            await asyncio.sleep(0)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_mailbox_without_a_bound_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        Mailbox("x", capacity)


def test_messages_are_handled_in_order_and_counted() -> None:
    async def main() -> None:
        actor = Recorder()
        for number in range(10):
            assert actor.mailbox.tell(number)
        assert actor.mailbox.statistics() == {"waiting": 10, "taken": 0, "refused": 0}
        task = asyncio.create_task(actor.run())
        assert await actor.mailbox.ask("last", timeout=1) == "answer to last"
        assert actor.got == [*range(10), "last"]
        assert actor.mailbox.statistics() == {"waiting": 0, "taken": 11, "refused": 0}
        await _stop(task)

    asyncio.run(main())


def test_room_that_became_free_is_used() -> None:
    async def main() -> None:
        actor = Recorder()
        actor.mailbox = Mailbox("small", 1)
        assert actor.mailbox.tell(1)
        assert not actor.mailbox.tell(2)
        with pytest.raises(MailboxFull):
            await actor.mailbox.ask(3, timeout=1)
        task = asyncio.create_task(actor.run())
        await _until(lambda: actor.got == [1])
        assert actor.mailbox.tell(4)
        assert await _asked(actor, 5) == "answer to 5"
        assert actor.got == [1, 4, 5]
        assert actor.mailbox.refused == 2
        await _stop(task)

    async def _asked(actor: Recorder, message: int) -> Any:
        await _until(lambda: not actor.mailbox.statistics()["waiting"])
        return await actor.mailbox.ask(message, timeout=1)

    asyncio.run(main())


def test_an_asker_that_gave_up_hinders_nobody() -> None:
    async def main() -> None:
        actor = Recorder()
        actor.gate.clear()
        task = asyncio.create_task(actor.run())
        late = asyncio.create_task(actor.mailbox.ask("cancelled", timeout=10))
        with pytest.raises(TimeoutError):
            await actor.mailbox.ask("timed out", timeout=0.01)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        actor.gate.set()
        assert await actor.mailbox.ask("patient", timeout=1) == "answer to patient"
        assert actor.got == ["timed out", "cancelled", "patient"]
        await _stop(task)

    asyncio.run(main())


def test_closing_fails_the_questions_that_wait_and_refuses_the_next() -> None:
    async def main() -> None:
        mailbox: Mailbox[str] = Mailbox("closed", 10)
        mailbox.tell("dropped")
        asked = [asyncio.create_task(mailbox.ask(str(n), timeout=10)) for n in range(3)]
        await asyncio.sleep(0)
        assert mailbox.statistics()["waiting"] == 4
        mailbox.close()
        for task in asked:
            with pytest.raises(ActorStopped, match="closed"):
                await task
        assert mailbox.statistics()["waiting"] == 0
        assert not mailbox.tell("late")
        with pytest.raises(ActorStopped):
            await mailbox.ask("late", timeout=1)
        mailbox.close()

    asyncio.run(main())


def test_a_question_being_answered_when_the_actor_is_stopped_fails() -> None:
    async def main() -> None:
        actor = Recorder()
        actor.gate.clear()
        task = asyncio.create_task(actor.run())
        asked = asyncio.create_task(actor.mailbox.ask("x", timeout=10))
        await _until(lambda: actor.mailbox.taken > 0)
        await _stop(task)
        with pytest.raises(ActorStopped):
            await asked

    asyncio.run(main())


def test_no_message_is_lost_to_the_passing_of_time() -> None:
    """A tick interrupts the waiting for a message; what comes at that very moment must stay."""

    async def main() -> None:
        actor = Recorder(interval=0.0005)
        task = asyncio.create_task(actor.run())
        for number in range(2000):
            actor.mailbox.tell(number)
            await asyncio.sleep(0)
        assert await actor.mailbox.ask("last", timeout=5) == "answer to last"
        assert actor.got == [*range(2000), "last"]
        await _stop(task)

    asyncio.run(main())


def test_an_actor_with_an_interval_ticks_without_messages() -> None:
    async def main() -> None:
        actor = Recorder(interval=0.005)
        task = asyncio.create_task(actor.run())
        for _ in range(3):
            actor.ticked.clear()
            await asyncio.wait_for(actor.ticked.wait(), 2)
        await _stop(task)

    asyncio.run(main())


def test_an_actor_that_tells_itself_for_ever_lets_time_and_others_pass() -> None:
    class Perpetual(Recorder):
        async def receive(self, message: Any) -> Any:
            self.mailbox.tell(message)

    async def main() -> None:
        actor = Perpetual(interval=0.005)
        actor.mailbox.tell("again")
        task = asyncio.create_task(actor.run())
        await asyncio.wait_for(actor.ticked.wait(), 2)
        await _stop(task)

    asyncio.run(main())


def test_a_full_mailbox_does_not_keep_others_waiting() -> None:
    class Busy(Recorder):
        async def receive(self, message: Any) -> Any:
            self.got.append(message)

    async def main() -> None:
        actor = Busy()
        for number in range(1000):
            actor.mailbox.tell(number)
        task = asyncio.create_task(actor.run())
        turns = 0
        while len(actor.got) < 1000:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 1000
        await _stop(task)

    asyncio.run(main())


def test_it_shows_its_state() -> None:
    async def main() -> None:
        actor = Recorder()
        actor.mailbox.tell(1)
        assert repr(actor) == "<Recorder recorder {'waiting': 1, 'taken': 0, 'refused': 0}>"
        assert repr(actor.mailbox) == "<Mailbox recorder {'waiting': 1, 'taken': 0, 'refused': 0}>"

    asyncio.run(main())


def test_bytes_that_strangers_chose_are_bounded_and_come_free() -> None:
    async def main() -> None:
        mailbox = Mailbox[bytes]("heard", 10_000)
        large = bytes(1024 * 1024)
        taken = sum(mailbox.tell(large, len(large)) for _ in range(100))
        assert taken == MAX_WAITING_BYTES // len(large)
        assert mailbox.tell(b"of our own")
        assert mailbox.statistics()["refused"] == 100 - taken
        await mailbox._next()
        assert mailbox.tell(large, len(large))
        assert not mailbox.tell(b"a", 1)

    asyncio.run(main())
