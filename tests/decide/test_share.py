from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.share import (
    CREDIT_S,
    DEBT_S,
    GAIN,
    HOLD_S,
    NEWCOMER,
    Share,
    depth,
    fair_level,
    fair_share,
)
from busmesh.decide.sharereport import Entry

KEY = b"\0" * 8
demands = st.lists(st.floats(0, 1e6), min_size=1, max_size=20)


def share(total: float = 100.0, burst: float = 100.0, instances: int = 5) -> Share:
    """A share that is active since time 0 and has heard the others."""
    made = Share(KEY, total, burst, 1 / instances, 0.0)
    made.begin(1 / instances, 0.0)
    return made


@pytest.mark.parametrize(
    ("capacity", "asked", "level"),
    [
        (100, [60, 60, 60, 60, 60], 20),
        (100, [10, 20, 40, 80, 150], 70 / 3),
        (100, [300], 100),
        (100, [300, 0, 0], 100),
        (100, [10, 20], math.inf),
        (30, [10, 20], math.inf),
        (0, [5, 5], 0),
        (100, [0, 0], math.inf),
    ],
)
def test_the_level_to_which_demands_are_cut(capacity: float, asked: list[float], level: float) -> None:
    assert fair_level(capacity, asked) == pytest.approx(level)


@pytest.mark.parametrize(
    ("capacity", "mine", "others", "part"),
    [
        (100, 60, [60, 60, 60, 60], 20),
        (100, 10, [80, 150], 10),
        (100, 300, [0, 0], 100),
        (100, 10, [20], 10 + 35),
        (100, 0, [], 100),
        (100, 0, [300], 0),
    ],
)
def test_my_part(capacity: float, mine: float, others: list[float], part: float) -> None:
    assert fair_share(capacity, mine, others) == pytest.approx(part)


@given(st.floats(0, 1e6), demands)
def test_all_parts_together_are_the_capacity(capacity: float, asked: list[float]) -> None:
    parts = [fair_share(capacity, mine, asked[:i] + asked[i + 1 :]) for i, mine in enumerate(asked)]
    assert sum(parts) == pytest.approx(capacity, rel=1e-6, abs=1e-6)


@given(st.floats(0, 1e6), demands)
def test_nobody_gets_less_than_another_unless_it_asks_for_less(capacity: float, asked: list[float]) -> None:
    parts = [fair_share(capacity, mine, asked[:i] + asked[i + 1 :]) for i, mine in enumerate(asked)]
    for mine, part in zip(asked, parts, strict=True):
        if part < mine * (1 - 1e-9):
            assert part >= max(parts) * (1 - 1e-9) - 1e-9
            assert part >= capacity / len(asked) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("burst", "part", "tokens"), [(100, 0.2, 20), (100, 1.4, 100), (5, 0.2, 2), (1, 0.2, 1), (100, 0, 2)]
)
def test_the_burst_is_divided_as_the_rate_is(burst: float, part: float, tokens: float) -> None:
    assert depth(burst, part) == pytest.approx(tokens)


def test_alone_it_has_the_whole_limit() -> None:
    alone = share(instances=1)
    assert alone.tick(0.1, {}, 1) == 100
    assert alone.bucket.burst == 100


def test_new_traffic_keeps_to_its_equal_part_until_the_others_can_be_heard() -> None:
    begun, rates = share(), []
    for step in range(1, 5):
        for _ in range(30):
            begun.offered()
        begun.admitted += 10
        rates.append(begun.tick(step / 10, {}, 5))
    assert 0.2 < HOLD_S < 0.3
    assert rates == pytest.approx([20, 20, 100, 100])


def test_a_newcomer_that_cannot_have_heard_anybody_takes_little() -> None:
    new = share(instances=1)
    assert new.tick(0.1, {}, 1, settled=False) == 100 * NEWCOMER
    assert new.tick(0.2, {}, 50, settled=False) == 2
    assert new.tick(0.3, {}, 1) == 100


def test_it_gives_way_to_a_peer_that_is_asked_as_much() -> None:
    mine = share(instances=2)
    for step in range(1, 31):
        for _ in range(30):
            mine.offered()
        rate = mine.tick(step / 10, {"b": Entry(300.0, 5 * step)}, 2)
    assert 50 <= rate < 100
    hungry = share(instances=2)
    for step in range(1, 31):
        for _ in range(30):
            hungry.offered()
        rate = hungry.tick(step / 10, {"b": Entry(10.0, step)}, 2)
    assert rate > 85, "what the peer does not ask for"


def test_what_was_too_much_is_held_back_and_what_was_not_used_is_made_up_for() -> None:
    """The others admit ``per_tick`` of the 8 that they have in each period."""

    def rate(per_tick: int) -> float:
        mine = share(instances=2)
        for step in range(1, 20):
            for _ in range(10):
                mine.offered()
            mine.admitted += 2
            rate = mine.tick(step / 10, {"b": Entry(500.0, step * per_tick)}, 2)
        return rate

    assert rate(4) > rate(8) >= 50
    assert rate(20) == 50, "no debt takes it below its equal part"


def test_a_peer_that_begins_to_count_anew_is_not_counted_backwards() -> None:
    def balance(*counts: int) -> float:
        mine = share()
        mine.admitted = 60
        for step, count in enumerate(counts, 4):
            mine.tick(step / 10, {"b": Entry(50.0, count)}, 5)
        return mine.balance

    assert balance(1000, 1005, 3, 9) == balance(0, 5, 5, 11) != balance(0, 5, 8, 14)


def test_accounts_that_differ_come_together_and_one_that_is_far_off_does_not_count() -> None:
    def balance(*others: float) -> float:
        mine = share()
        mine.admitted = 60
        for step in range(4, 14):
            mine.admitted += 10
            said = {str(index): Entry(50.0, 0, other) for index, other in enumerate(others)}
            mine.tick(step / 10, said, 5)
        return mine.balance

    assert balance() == pytest.approx(-25)
    assert -25 < balance(-5.0) < balance(5.0, 5.0) < 5
    assert balance(5.0, 5.0, 5.0, 1e6) == pytest.approx(balance(5.0, 5.0, 5.0, 5.0))


def test_a_clock_that_stands_still_changes_nothing() -> None:
    mine = share()
    rate = mine.tick(1.0, {}, 5)
    mine.offered()
    assert mine.tick(1.0, {"b": Entry(1e6, 10**9)}, 5) == rate
    assert mine.tick(0.5, {"b": Entry(1e6, 10**9)}, 5) == rate


entries = st.builds(Entry, st.floats(0, 1e6), st.integers(0, 2**53 - 1), st.floats(-1e6, 1e6))


@given(
    total=st.floats(0.01, 1e5),
    silent=st.integers(0, 5),
    rounds=st.lists(
        st.tuples(
            st.floats(0.001, 3), st.integers(0, 200), st.dictionaries(st.sampled_from("abcdef"), entries)
        ),
        max_size=20,
    ),
)
def test_whatever_is_said_nobody_goes_below_the_equal_part_or_far_above_the_limit(
    total: float, silent: int, rounds: list[tuple[float, int, dict[str, Entry]]]
) -> None:
    now, mine = 0.0, share(total, burst=max(1.0, total))
    for passed, offered, said in rounds:
        now += passed
        for _ in range(offered):
            mine.offered()
        instances = 1 + silent + len(said)
        rate = mine.tick(now, said, instances)
        equal = total / instances
        assert equal * (1 - 1e-9) <= rate
        assert rate <= max(total + GAIN * max(CREDIT_S * total, 1.0), equal) * (1 + 1e-9)
        assert -max(DEBT_S * total, 2 * instances) <= mine.balance <= max(CREDIT_S * total, 1.0)
        assert 1 <= mine.bucket.burst <= mine.burst
