"""The supervisor: what fails is started again, what is stopped stays stopped, and no task is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from busmesh.actors import supervisor as supervision
from busmesh.actors.actor import Actor
from busmesh.actors.supervisor import BACK_OFF_MAX_S, HEALTHY_AFTER_S, Supervisor


class Clock:
    """The supervisor's sleep and time, owned by the test: a pause passes at once and is written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pauses: list[float] = []
        sleep = asyncio.sleep

        async def passes(seconds: float) -> None:
            self.pauses.append(seconds)
            await sleep(0)

        class Asyncio:
            def __getattr__(self, name: str) -> Any:
                return passes if name == "sleep" else getattr(asyncio, name)

        monkeypatch.setattr(supervision, "asyncio", Asyncio())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Fails(Actor[Any]):
    """Raises what it is told."""

    def __init__(self, name: str = "fails", said: list[str] | None = None) -> None:
        super().__init__(name)
        self.starts = 0
        self.said = said if said is not None else []

    async def started(self) -> None:
        self.starts += 1

    async def receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        return message

    async def stopped(self) -> None:
        self.said.append(f"{self.name} stopped")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing else tells of it
            await asyncio.sleep(0)


def test_failures_in_a_row_back_off_up_to_the_cap(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        actor, supervisor = Fails(), Supervisor(Random(1))
        supervisor.start(actor)
        for number in range(10):
            actor.mailbox.tell(ValueError(f"failure {number}"))
        await until(lambda: actor.starts == 11)
        assert supervisor.restarts["fails"] == 10
        await supervisor.stop()

    asyncio.run(main())
    ceilings = [0.1 * 2**n for n in range(6)] + [BACK_OFF_MAX_S] * 4
    assert len(clock.pauses) == 10
    for pause, ceiling in zip(clock.pauses, ceilings, strict=True):
        assert ceiling / 2 <= pause <= ceiling
    assert "failure 9" in caplog.text


def test_a_long_healthy_run_is_forgiven(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        time, ahead = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: time() + ahead)
        actor, supervisor = Fails(), Supervisor(Random(1))
        supervisor.start(actor)
        for _ in range(4):
            actor.mailbox.tell(ValueError("short"))
        await until(lambda: actor.starts == 5)
        ahead += HEALTHY_AFTER_S + 1
        actor.mailbox.tell(ValueError("after a long time"))
        await until(lambda: actor.starts == 6)
        await supervisor.stop()

    asyncio.run(main())
    assert clock.pauses[3] >= 0.4
    assert clock.pauses[4] <= 0.1


def test_an_actor_that_cannot_start_is_tried_again(clock: Clock) -> None:
    class Stubborn(Fails):
        async def started(self) -> None:
            await super().started()
            if self.starts < 4:
                raise OSError("not yet")

    async def main() -> None:
        actor, supervisor = Stubborn(), Supervisor(Random(1))
        supervisor.start(actor)
        assert await actor.mailbox.ask("hello", timeout=5) == "hello"
        assert actor.starts == 4
        await supervisor.stop()

    asyncio.run(main())


def test_an_actor_that_waited_for_something_cancelled_is_started_again(clock: Clock) -> None:
    """The error is the same as being stopped; taken for that, it would end the actor for good."""

    async def main() -> None:
        actor, supervisor = Fails(), Supervisor(Random(1))
        supervisor.start(actor)
        actor.mailbox.tell(asyncio.CancelledError())
        assert await actor.mailbox.ask("alive", timeout=5) == "alive"
        assert supervisor.restarts["fails"] == 1
        await supervisor.stop()

    asyncio.run(main())


def test_one_failing_actor_disturbs_no_other(clock: Clock) -> None:
    async def main() -> None:
        bad, good, supervisor = Fails("bad"), Fails("good"), Supervisor(Random(1))
        supervisor.start(bad)
        supervisor.start(good)
        for _ in range(5):
            bad.mailbox.tell(ValueError("bad"))
        await until(lambda: bad.starts == 6)
        assert good.starts == 1
        assert supervisor.statistics()["good"] == {"waiting": 0, "taken": 0, "refused": 0, "restarts": 0}
        assert supervisor.statistics()["bad"]["restarts"] == 5
        await supervisor.stop()

    asyncio.run(main())


def test_actors_stop_in_the_opposite_order_of_their_start_and_leave_no_task() -> None:
    async def main() -> None:
        said: list[str] = []
        supervisor = Supervisor()
        actors = [Fails(name, said) for name in ("first", "second", "third")]
        for actor in actors:
            supervisor.start(actor)
        await asyncio.sleep(0)
        assert repr(supervisor) == "<Supervisor actors=['first', 'second', 'third']>"
        await supervisor.stop()
        assert said == ["third stopped", "second stopped", "first stopped"]
        assert not any(actor.mailbox.tell("late") for actor in actors)
        assert len(asyncio.all_tasks()) == 1
        await supervisor.stop()
        assert len(said) == 3
        supervisor.start(Fails("first", said))  # the name is free again
        await supervisor.stop()

    asyncio.run(main())


def test_an_actor_is_stopped_while_it_backs_off() -> None:
    async def main() -> None:
        actor, supervisor = Fails(), Supervisor(Random(1))
        supervisor.start(actor)
        actor.mailbox.tell(ValueError("x"))
        await until(lambda: supervisor.restarts["fails"] == 1)
        await asyncio.wait_for(supervisor.stop(), 1)
        assert actor.said == ["fails stopped"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_one_that_cannot_clean_up_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    class Dirty(Fails):
        async def stopped(self) -> None:
            raise OSError("disk full")

    async def main() -> None:
        said: list[str] = []
        supervisor = Supervisor()
        supervisor.start(Fails("clean", said))
        supervisor.start(Dirty("dirty", said))
        await supervisor.stop()
        assert said == ["clean stopped"]

    asyncio.run(main())
    assert "disk full" in caplog.text


def test_one_that_fails_while_it_is_stopped_is_not_started_again(caplog: pytest.LogCaptureFixture) -> None:
    class Convert(Fails):
        async def receive(self, message: Any) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise OSError("connection lost") from None

    async def main() -> None:
        actor, supervisor = Convert(), Supervisor()
        supervisor.start(actor)
        actor.mailbox.tell("wait")
        await until(lambda: actor.mailbox.taken == 1)
        await asyncio.wait_for(supervisor.stop(), 1)
        assert actor.starts == 1
        assert actor.said == ["fails stopped"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert "connection lost" in caplog.text


def test_one_that_swallows_a_cancellation_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "STOP_S", 0.01)

    class Swallow(Fails):
        async def receive(self, message: Any) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return None

    async def main() -> None:
        actor, supervisor = Swallow(), Supervisor()
        supervisor.start(actor)
        actor.mailbox.tell("wait")
        await until(lambda: actor.mailbox.taken == 1)
        await asyncio.wait_for(supervisor.stop(), 1)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
