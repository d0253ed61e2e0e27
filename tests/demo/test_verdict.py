"""The demo's promises against figures: each can be broken, and says so."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from busmesh.demo.board import Board
from busmesh.demo.cast import AGENTS
from busmesh.demo.desk import Published
from busmesh.demo.heard import Heard
from busmesh.demo.ledger import Hop, Ledger, Part, Result
from busmesh.demo.scenario import SHORTEST_S, lengths
from busmesh.demo.verdict import (
    canary_promise,
    no_failure_promise,
    policy_promise,
    promises,
    split_promise,
    summary,
)

ALL = len(AGENTS)


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ({"v1": 800, "v2": 200}, True),
        ({"v1": 820, "v2": 180}, True),
        ({"v1": 780, "v2": 220}, True),
        ({"v1": 821, "v2": 179}, False),
        ({"v1": 779, "v2": 221}, False),
        ({"v1": 800, "v2": 190, "v3": 10}, False),
        ({"v1": 72, "v2": 18}, False),
        ({}, False),
    ],
)
def test_the_split_is_80_to_20_within_two_percent(counts: dict[str, int], held: bool) -> None:
    assert split_promise(Counter(counts)).held is held


@pytest.mark.parametrize(
    ("counts", "held"),
    [({"v2": 50}, True), ({"v2": 10}, True), ({"v2": 49, "v1": 1}, False), ({"v2": 9}, False), ({}, False)],
)
def test_the_canary_is_all_or_nothing(counts: dict[str, int], held: bool) -> None:
    assert canary_promise(Counter(counts)).held is held


@pytest.mark.parametrize(
    ("in_force", "held"),
    [((ALL, ALL), True), ((ALL, ALL - 1), False), ((ALL,), False), ((), False), ((0, 0), False)],
)
def test_each_revision_is_in_force_everywhere(in_force: tuple[int, ...], held: bool) -> None:
    published = [Published("x.yaml", number, ALL, count, 9.0) for number, count in enumerate(in_force)]
    assert policy_promise(published).held is held


def test_no_request_may_fail() -> None:
    ledger = Ledger()
    assert not no_failure_promise(ledger, "").held, "nothing was sent after the kill"
    ledger.add(Result(Part.KILL, "web", False, 0.01, (Hop("web", "v1", "web-0"),)))
    assert no_failure_promise(ledger, "orders-v1-0").held
    ledger.add(Result(Part.EVEN, "web", False, 0.01, failure="503"))
    broken = no_failure_promise(ledger, "orders-v1-0")
    assert not broken.held
    assert broken.said == "1 of 2 requests failed, orders-v1-0 was killed"


def board() -> Board:
    board = Board(Heard(lambda: 0.0), 0.0, 30.0, victim="orders-v1-0")
    board.published = [Published("x.yaml", number, ALL, ALL, 9.0) for number in (1, 2)]
    for number in range(500):
        version = "v2" if number % 5 == 0 else "v1"
        board.ledger.add(Result(Part.KILL, "orders", False, 0.002, (Hop("orders", version, "x"),)))
        board.ledger.add(Result(Part.KILL, "orders", True, 0.002, (Hop("orders", "v2", "x"),)))
    return board


def test_all_promises_of_a_good_run_are_held_and_the_summary_is_plain_data() -> None:
    good = board()
    kept = promises(good)
    assert [promise for promise in kept if not promise.held] == []
    told = json.loads(json.dumps(summary(good, kept)))
    assert told["ok"] is True
    assert told["split"] == {"requests": 500, "shares": {"v1": 0.8, "v2": 0.2}}
    assert told["canary"] == {"requests": 500, "shares": {"v2": 1.0}}
    assert (told["requests"], told["failed"], told["killed"]) == (1000, 0, "orders-v1-0")


def test_a_process_that_ends_by_itself_breaks_the_run() -> None:
    bad = board()
    bad.casualties = {"payments-0": "first\nMemoryError"}
    broken = [promise for promise in promises(bad) if not promise.held]
    assert [promise.said for promise in broken] == ["payments-0 ended by itself: MemoryError"]
    assert summary(bad, promises(bad))["ok"] is False


@pytest.mark.parametrize("left", [-5.0, 0.0, 7.0, 27.0, 3600.0])
def test_the_parts_share_the_time_that_is_left_and_none_is_too_short(left: float) -> None:
    parts = lengths(left)
    assert set(parts) == {Part.EVEN, Part.SPLIT, Part.CANARY, Part.KILL}
    assert min(parts.values()) >= SHORTEST_S
    if left > 10:
        assert sum(parts.values()) == pytest.approx(left - 1)
