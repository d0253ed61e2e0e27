"""Actors: bounded mailboxes, answers, restarts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from busmesh.actors import supervisor as supervision
from busmesh.actors.actor import Actor, ActorStopped, MailboxFull
from busmesh.actors.supervisor import Supervisor, back_off


class Doubler(Actor[int]):
    """Answers twice the number; fails over 13; counts its starts."""

    capacity = 3

    def __init__(self) -> None:
        super().__init__("doubler")
        self.starts = 0
        self.ticks = 0
        self.cleaned = False

    async def started(self) -> None:
        self.starts += 1

    async def receive(self, message: int) -> Any:
        if message == 13:
            raise ValueError("thirteen")
        return 2 * message

    async def tick(self) -> None:
        self.ticks += 1

    async def stopped(self) -> None:
        self.cleaned = True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "BACK_OFF_FIRST_S", 0.001)


@pytest.mark.parametrize(
    ("failures", "jitter", "seconds"),
    [(1, 0.0, 0.05), (1, 1.0, 0.1), (2, 1.0, 0.2), (6, 1.0, 3.2), (7, 1.0, 5.0), (1000, 1.0, 5.0)],
)
def test_back_off_doubles_up_to_a_cap(
    failures: int, jitter: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "BACK_OFF_FIRST_S", 0.1)
    assert back_off(failures, jitter) == pytest.approx(seconds)


def test_a_full_mailbox_refuses_and_counts() -> None:
    async def scenario() -> None:
        actor = Doubler()
        assert [actor.mailbox.tell(number) for number in range(5)] == [True, True, True, False, False]
        with pytest.raises(MailboxFull):
            await actor.mailbox.ask(1, timeout=1)
        assert actor.mailbox.statistics() == {"waiting": 3, "taken": 0, "refused": 3}

    asyncio.run(scenario())


def test_an_answer_and_its_failures() -> None:
    async def scenario() -> None:
        actor, supervisor = Doubler(), Supervisor()
        with pytest.raises(TimeoutError):
            await actor.mailbox.ask(1, timeout=0.01)  # nobody runs it yet
        supervisor.start(actor)
        assert await actor.mailbox.ask(21, timeout=1) == 42
        with pytest.raises(ActorStopped, match="thirteen"):
            await actor.mailbox.ask(13, timeout=1)
        await supervisor.stop()
        with pytest.raises(ActorStopped):
            await actor.mailbox.ask(1, timeout=1)
        assert not actor.mailbox.tell(1)

    asyncio.run(scenario())


def test_an_actor_that_fails_is_started_again_with_its_mailbox() -> None:
    async def scenario() -> None:
        actor, supervisor = Doubler(), Supervisor()
        supervisor.start(actor)
        actor.mailbox.tell(13)
        assert await actor.mailbox.ask(4, timeout=1) == 8  # waited in the mailbox over the restart
        assert actor.starts == 2
        assert supervisor.statistics()["doubler"]["restarts"] == 1
        with pytest.raises(ValueError, match="running already"):
            supervisor.start(actor)
        await supervisor.stop()
        assert actor.cleaned
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_time_passes_for_an_actor_whose_mailbox_is_never_empty() -> None:
    async def scenario() -> None:
        actor, supervisor = Doubler(), Supervisor()
        actor.interval = 0.01
        supervisor.start(actor)
        until = asyncio.get_running_loop().time() + 0.1
        while asyncio.get_running_loop().time() < until:
            actor.mailbox.tell(1)
            await asyncio.sleep(0)
        await supervisor.stop()
        assert actor.ticks >= 3

    asyncio.run(scenario())
