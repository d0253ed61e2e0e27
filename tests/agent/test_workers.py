"""The workers of an agent as its first process sees them, without any process."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from busmesh.agent import workers as module
from busmesh.agent.pipe import Message
from busmesh.agent.workers import FROZEN_S, SILENT_S, Workers


class _Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class _Pipe:
    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, *message: object) -> bool:
        self.sent.append(list(message))
        return True


class Stage:
    """Two workers that say what the test has them say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = _Clock()
        self.killed: list[int] = []
        monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(module, "_kill", lambda held: self.killed.append(held.number))
        self.entries = [b"1", b"2", b"3"]
        self.changes = 0
        self.workers = Workers(
            2,
            lambda number: {},
            lambda: self.entries,
            lambda: "",
            lambda: [],
            lambda message: None,
            self._changed,
            Random(1),
        )
        self.pipes = []
        for held in self.workers.held:
            pipe: Any = _Pipe()
            held.pipe = pipe
            self.pipes.append(pipe)
            self.says(held.number, "ready")

    def _changed(self) -> None:
        self.changes += 1

    def says(self, number: int, *message: object) -> None:
        self.workers._hear(self.workers.held[number - 1], list(message))

    def counts(self, number: int, **counts: object) -> None:
        self.says(number, "counts", {"revision": 3, **counts}, [], [])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_who_is_silent_or_has_no_bus_takes_no_sessions(stage: Stage) -> None:
    assert stage.workers.taking == (True, True, True)
    stage.clock.now += SILENT_S
    stage.counts(2)
    assert stage.workers.taking == (True, False, True)
    before = stage.changes
    stage.says(2, "bus", False)
    assert stage.workers.taking == (True, False, False)
    stage.says(2, "bus", True)
    assert stage.workers.taking == (True, False, True)
    assert stage.changes == before + 2
    assert not stage.workers.takes(0), "the first process is none of the workers"
    assert not stage.workers.takes(3)


def test_who_is_frozen_is_killed_and_who_was_not_heard_is_not(stage: Stage) -> None:
    now = stage.clock.now
    for tenth in range(int(FROZEN_S * 10) + 2):
        stage.clock.now = now + tenth / 10
        stage.counts(2)
        stage.workers.look(stage.clock.now)
    assert stage.killed == [1]
    stage.clock.now += 2 * FROZEN_S  # this process itself was stopped
    stage.workers.look(stage.clock.now)
    assert stage.killed == [1]


def test_at_rest_is_what_each_has_said_since_it_was_asked(stage: Stage) -> None:
    stage.counts(1, active=0, draining=False)
    stage.counts(2, active=0, draining=False)
    stage.workers.drain()
    assert [pipe.sent[-1] for pipe in stage.pipes] == [["drain"], ["drain"]]
    assert not stage.workers.at_rest, "that was before"
    stage.counts(1, active=0, draining=True)
    stage.counts(2, active=1, draining=True)
    assert not stage.workers.at_rest
    stage.counts(2, active=0, draining=True)
    assert stage.workers.at_rest
    stage.counts(2, active=1, draining=True)
    stage.clock.now += SILENT_S
    assert stage.workers.at_rest, "nobody waits for who says nothing any more"


def test_a_worker_that_lacks_revisions_is_told_again(stage: Stage) -> None:
    stage.counts(1, revision=1)
    assert stage.pipes[0].sent == [], "they may be on their way"
    stage.counts(1, revision=1)
    assert stage.pipes[0].sent == [["entry", b"2"], ["entry", b"3"]]
    stage.counts(1, revision=3)
    stage.entries.append(b"4")
    stage.counts(1, revision=3)
    assert len(stage.pipes[0].sent) == 2


def test_words_for_all_go_to_all_others(stage: Stage) -> None:
    stage.says(1, "eject", "orders.default", "orders-1", "consecutive_5xx", 3.0)
    assert stage.pipes[0].sent == []
    assert stage.pipes[1].sent == [["eject", "orders.default", "orders-1", "consecutive_5xx", 3.0]]
