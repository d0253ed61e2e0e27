from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.decide.split import GRID, STEP, Split, deviation_bound, place_of

starts = st.floats(0, 1, exclude_max=True)
weights = st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any)


def count(split: Split[int], picks: int) -> Counter[int]:
    return Counter(split.pick() for _ in range(picks))


@given(weights, starts, st.integers(1, 3000))
@settings(deadline=None)
def test_every_share_is_within_the_proven_bound_from_any_start(
    parts: list[int], start: float, picks: int
) -> None:
    counts = count(Split(list(enumerate(parts)), start), picks)
    for index, weight in enumerate(parts):
        assert abs(counts[index] - picks * weight / sum(parts)) <= deviation_bound(picks)


@pytest.mark.parametrize("start", [0.0, 0.2, 0.5, 0.8, 0.999999])
def test_eighty_to_twenty_holds_within_half_a_percent_after_2000_picks(start: float) -> None:
    assert deviation_bound(2000) / 2000 < 0.005
    assert abs(count(Split([(1, 80), (2, 20)], start), 2000)[1] - 1600) <= 10


@pytest.mark.parametrize("every", [2, 3, 4, 5, 7, 10])
@pytest.mark.parametrize("share", [50, 80, 99])
def test_a_caller_that_comes_in_step_sees_the_same_shares(every: int, share: int) -> None:
    split = Split([("a", share), ("b", 100 - share)], 0.3)
    seen = [split.pick() for _ in range(2000 * every)][::every]
    assert abs(seen.count("a") / 2000 - share / 100) < 0.01


def test_after_500_picks_no_arc_is_off_by_more_than_the_module_says() -> None:
    # The worst arc over all starts and weights: the points are looked at on a circle.
    points = sorted((index * STEP) % 1.0 for index in range(1, 501))
    above = max(index + 1 - 500 * point for index, point in enumerate(points))
    below = min(index - 500 * point for index, point in enumerate(points))
    assert 2.4 < above - below < 2.6


@pytest.mark.parametrize(
    ("picks", "bound"), [(0, 0), (1, 2), (2, 2), (4, 4), (89, 2), (500, 6), (2000, 8), (6764, 18)]
)
def test_the_bound_is_two_for_each_fibonacci_number_that_adds_up_to_the_picks(picks: int, bound: int) -> None:
    assert deviation_bound(picks) == bound


def test_positions_are_exact_so_the_sequence_does_not_drift() -> None:
    assert (STEP * GRID) % 2 == 1
    split = Split([("a", 1), ("b", 1)], 0.123456789)
    start = int(0.123456789 * GRID)
    for number in range(1, 5001):
        expected = (start + number * int(STEP * GRID)) % GRID
        assert split.pick() == ("a" if expected < GRID // 2 else "b")


@given(weights, starts)
def test_a_target_of_weight_zero_is_never_picked_and_still_listed(parts: list[int], start: float) -> None:
    split = Split(list(enumerate(parts)), start)
    assert split.choices == tuple(enumerate(parts))
    assert all(parts[target] > 0 for target in count(split, 300))


@pytest.mark.parametrize("parts", [[], [0], [0, 0], [1, -1]])
def test_weights_that_say_nothing_are_refused(parts: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        Split(list(enumerate(parts)), 0.5)


def test_two_agents_do_not_pick_in_step() -> None:
    one, two = Split([("a", 50), ("b", 50)], 0.1), Split([("a", 50), ("b", 50)], 0.55)
    same = sum(one.pick() == two.pick() for _ in range(1000))
    assert same < 200


def test_it_shows_its_weights() -> None:
    assert repr(Split([("a", 80), ("b", 0)], 0.5)) == "<Split a=80 b=0>"


users = st.lists(st.binary(max_size=20), min_size=1, max_size=50)


@given(weights, users, st.text(max_size=200))
def test_everybody_always_gets_the_same_target_from_every_agent(
    parts: list[int], values: list[bytes], salt: str
) -> None:
    one, two = Split(list(enumerate(parts)), 0.1, salt), Split(list(enumerate(parts)), 0.7, salt)
    first = [one.pick_for(value) for value in values]
    for _ in range(10):
        two.pick()
    assert [two.pick_for(value) for value in values] == first
    assert [one.pick_for(value) for value in values] == first
    assert all(parts[target] for target in first)


@given(st.integers(0, 100), st.integers(0, 100), users)
def test_a_canary_that_grows_never_gives_anybody_back(share: int, more: int, values: list[bytes]) -> None:
    small, large = sorted((share, more))
    before = Split([("stable", 100 - small), ("canary", small)], 0.0, "orders")
    after = Split([("stable", 100 - large), ("canary", large)], 0.0, "orders")
    for value in values:
        if before.pick_for(value) == "canary":
            assert after.pick_for(value) == "canary"


@given(weights.filter(lambda parts: len(parts) > 2), st.integers(1, 100), users)
def test_what_the_first_target_loses_and_the_last_one_gains_moves_only_up(
    parts: list[int], shift: int, values: list[bytes]
) -> None:
    parts[0] += shift
    later = [parts[0] - shift, *parts[1:-1], parts[-1] + shift]
    before, after = Split(list(enumerate(parts)), 0.0), Split(list(enumerate(later)), 0.0)
    assert all(after.pick_for(value) >= before.pick_for(value) for value in values)


def test_those_who_move_are_as_many_as_the_weights_say() -> None:
    before = Split([("a", 80), ("b", 20)], 0.0, "orders")
    after = Split([("a", 70), ("b", 30)], 0.0, "orders")
    values = [b"user-%d" % number for number in range(20_000)]
    shares = [sum(split.pick_for(value) == "b" for value in values) / 20_000 for split in (before, after)]
    assert shares == pytest.approx([0.2, 0.3], abs=0.01)
    moved = sum(before.pick_for(value) != after.pick_for(value) for value in values)
    assert moved / 20_000 == pytest.approx(0.1, abs=0.01)


def test_the_canaries_of_two_rules_are_not_the_same_users() -> None:
    one = Split([("a", 80), ("b", 20)], 0.0, "default/orders/split")
    two = Split([("a", 80), ("b", 20)], 0.0, "default/payments/split")
    values = [b"%d" % number for number in range(20_000)]
    both = sum(one.pick_for(value) == two.pick_for(value) == "b" for value in values)
    assert both / 20_000 == pytest.approx(0.04, abs=0.005)


@given(st.binary(max_size=200), st.binary(max_size=64))
def test_a_place_is_within_the_line(value: bytes, key: bytes) -> None:
    assert 0.0 <= place_of(value, key) < 1.0


@pytest.mark.parametrize(
    ("value", "key", "place"), [(b"ana", b"", 0.14491278427190257), (b"", b"k", 0.12916711626025623)]
)
def test_a_place_is_the_same_in_every_process_and_release(value: bytes, key: bytes, place: float) -> None:
    assert place_of(value, key) == place


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4).filter(any), st.floats(0, 0.999))
def test_asked_beforehand_it_says_what_it_will_pick(weights: list[int], start: float) -> None:
    split = Split(list(enumerate(weights)), start)
    for _ in range(20):
        place = split.upcoming()
        expected = split.at(0.0 if place is None else place)
        assert split.pick() == expected
    assert (split.upcoming() is None) == (sum(weight > 0 for weight in weights) == 1)
