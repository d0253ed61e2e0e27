"""States of agents, as a table: what an announcement and the log together come to."""

from __future__ import annotations

import pytest

from busmesh.members.announcement import Announcement, Refused, State
from busmesh.operator.history import History
from busmesh.operator.status import Newest, Sync, agent_status, newest, statuses
from busmesh.policy.revision import EMPTY, PolicySet, Revision, fold, propose
from tests.operator.fakes import route

NOW = 1_800_000_000.0


def history_of(*times: float) -> History:
    revisions: list[Revision] = []
    current: PolicySet = EMPTY
    for number, made in enumerate(times):
        document = route(f"service-{number}")
        revisions.append(propose(current, [document], (), author="ann", reason="", now=made))
        current = fold(current, revisions[-1])
    return History(tuple(revisions), current, len(times))


HISTORY = history_of(NOW - 300, NOW - 200, NOW - 100)
DIGESTS = [EMPTY.digest, *(revision.digest for revision in HISTORY.revisions)]


def member(revision: int, digest: str | None = None, refused: int = 0, instance: str = "a") -> Announcement:
    if digest is None:
        digest = DIGESTS[revision] if revision < len(DIGESTS) else "f" * 64
    return Announcement(
        namespace="default",
        service="orders",
        instance=instance,
        incarnation=1,
        sequence=1,
        interval=1.0,
        state=State.HEALTHY,
        revision=revision,
        digest=digest,
        refused=Refused(revision=refused, code="BM1205", reason="unknown kind") if refused else None,
    )


@pytest.mark.parametrize(
    ("found", "state", "age", "reason"),
    [
        (member(3), Sync.SYNCED, 100, ""),
        (member(2), Sync.STALE, 100, "1 behind revision 3"),
        (member(1), Sync.STALE, 200, "2 behind revision 3"),
        (member(0), Sync.STALE, 300, "it has no revision yet"),
        (member(3, "e" * 64), Sync.STALE, 100, "it holds another set under this number"),
        (member(4), Sync.STALE, None, "it is ahead of the log, which ends at 3"),
        (member(2, refused=3), Sync.REJECTED, 100, "BM1205 unknown kind"),
        (member(1, refused=2), Sync.REJECTED, 200, "BM1205 unknown kind"),
        # An old refusal is history, and one of what was never published is about junk on the bus.
        (member(3, refused=2), Sync.SYNCED, 100, ""),
        (member(2, refused=1), Sync.STALE, 100, "1 behind revision 3"),
        (member(3, refused=4), Sync.SYNCED, 100, ""),
        (member(2, refused=4), Sync.STALE, 100, "1 behind revision 3"),
    ],
)
def test_state(found: Announcement, state: Sync, age: float | None, reason: str) -> None:
    status = agent_status(found, newest(HISTORY, [found]), HISTORY, NOW)
    assert (status.state, status.reason) == (state, reason)
    assert status.age == (None if age is None else pytest.approx(age, abs=0.01))


def test_an_empty_mesh_is_in_step() -> None:
    assert agent_status(member(0), Newest(), History(), NOW).state is Sync.SYNCED
    assert agent_status(member(0, ""), Newest(), History(), NOW).state is Sync.SYNCED


def test_without_a_log_the_furthest_agent_is_the_measure() -> None:
    found = statuses([member(2, instance="b"), member(3, instance="a")], None, NOW)
    assert [(status.agent, status.state) for status in found] == [("a", Sync.SYNCED), ("b", Sync.STALE)]
    assert [status.age for status in found] == [None, None]


def test_who_was_there_and_does_not_answer_is_missing() -> None:
    there, gone = member(3, instance="a"), member(2, instance="b")
    found = statuses([there], HISTORY, NOW, expected=[there, gone])
    assert [(status.agent, status.state, status.revision) for status in found] == [
        ("a", Sync.SYNCED, 3),
        ("b", Sync.MISSING, 2),
    ]
