"""Balancers: shares follow weights, load is evened out, and what failed is passed over."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.balance import Simple
from busmesh.decide.balance.ewma import PeakEwma
from busmesh.decide.balance.simple import LeastRequest, RoundRobin, Weighted
from busmesh.decide.balance.spec import SIMPLE
from tests.decide.balance.instances import (
    LEAST,
    MOST,
    Fixed,
    Instance,
    Service,
    instances_of,
    shares_of,
    simple,
)

NAMES: list[Simple] = list(SIMPLE)


# -- edges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_of_none_there_is_none(name: Simple) -> None:
    assert simple(name, [], Random(1)).pick(0.0) is None
    assert simple(name, instances_of(0, 0), Random(1)).pick(0.0) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_only_one_is_picked_even_if_it_was_tried(name: Simple) -> None:
    (one,) = instances = instances_of(5)
    chosen = simple(name, instances, Random(1))
    assert chosen.pick(0.0) is one
    assert chosen.pick(0.0, {one}) is one


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_gets_nothing(name: Simple) -> None:
    chosen = simple(name, instances_of(0, 1, 0, 3, 0), Random(1))
    assert shares_of(chosen, 1000).keys() == {"i1", "i3"}
    assert repr(chosen) == f"<{type(chosen).__name__} candidates=2>"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [LEAST, MOST])
@pytest.mark.parametrize("weights", [(1,), (1, 1), (1, 2, 3), (10_000, 1), (1, 10_000), (3,) * 7])
def test_no_random_number_leads_past_the_end(name: Simple, value: float, weights: tuple[int, ...]) -> None:
    chosen = simple(name, instances_of(*weights), Fixed(value))
    assert shares_of(chosen, 20).total() == 20


@given(
    name=st.sampled_from(NAMES),
    weights=st.lists(st.integers(0, 10_000), max_size=8),
    loads=st.lists(st.integers(0, 1000), min_size=8, max_size=8),
    tried=st.sets(st.integers(0, 7)),
    seed=st.integers(0, 2**32),
)
def test_whatever_comes_a_pick_has_weight_and_was_not_tried_while_another_is_left(
    name: Simple, weights: list[int], loads: list[int], tried: set[int], seed: int
) -> None:
    instances = instances_of(*weights)
    for instance, active in zip(instances, loads, strict=False):
        instance.active = active
    before = {instance for n, instance in enumerate(instances) if n in tried}
    usable = {instance for instance in instances if instance.weight}
    chosen = simple(name, instances, Random(seed))
    for _ in range(5):
        picked = chosen.pick(0.0, before)
        if not usable:
            assert picked is None
        elif usable - before:
            assert picked in usable - before
        else:
            assert picked in usable


def test_of_those_not_tried_the_least_loaded_for_its_weight_follows() -> None:
    light, heavy, failed = Instance("light", 100, 3), Instance("heavy", 400, 8), Instance("failed", 10_000)
    for name in NAMES:
        for seed in range(20):
            picked = simple(name, [light, heavy, failed], Random(seed)).pick(0.0, {failed})
            assert picked in (light, heavy)
    chosen = Weighted([failed, light, heavy], Fixed(LEAST))
    assert chosen.pick(0.0, {failed}) is heavy  # 9 for 400 is less than 4 for 100
    heavy.active = 40
    assert chosen.pick(0.0, {failed}) is light


def test_under_peak_ewma_the_one_that_would_answer_first_follows() -> None:
    slow, fast, failed = Instance("slow"), Instance("fast", active=3), Instance("failed")
    slow.figures.answered(1.0, 0.0)
    fast.figures.answered(0.01, 0.0)
    for seed in range(20):
        assert simple("PEAK_EWMA", [slow, fast, failed], Random(seed)).pick(0.0, {failed}) in (slow, fast)
    chosen = PeakEwma([failed, slow, fast], Fixed(LEAST))
    assert chosen.pick(0.0, {failed}) is fast


# -- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1, 1), (80, 20), (70, 20, 10), (1, 99), (3, 2, 2, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_idle_instances_get_their_weights(name: Simple, weights: tuple[int, ...], seed: int) -> None:
    picks = 20_000
    shares = shares_of(simple(name, instances_of(*weights), Random(seed)), picks)
    for n, weight in enumerate(weights):
        expected = weight / sum(weights)
        # Four standard deviations of a fair draw.
        tolerance = 4 * (expected * (1 - expected) / picks) ** 0.5
        assert shares[f"i{n}"] / picks == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_least_request_prefers_the_less_loaded_of_two(seed: int) -> None:
    idle, busy = Instance("idle"), Instance("busy", active=5)
    assert shares_of(LeastRequest([busy, idle], Random(seed)), 200) == {"idle": 200}
    three = [Instance("idle"), Instance("busy", active=5), Instance("busier", active=9)]
    shares = shares_of(LeastRequest(three, Random(seed)), 3000)
    assert shares["idle"] / 3000 == pytest.approx(2 / 3, abs=0.04)  # in two of three pairs
    assert "busier" not in shares


def test_least_request_measures_load_by_weight() -> None:
    # Eight at work for 400 is less than three for 100.
    shares = shares_of(LeastRequest([Instance("big", 400, 8), Instance("small", 100, 3)], Random(1)), 5000)
    # Big unless both draws are small: 1 - 0.2 x 0.2.
    assert shares["big"] / 5000 == pytest.approx(0.96, abs=0.015)


def _slow_replica(name: Simple, load: float, seed: int) -> float:
    """Return the 99th percentile of the time to an answer, in units of a fast instance's service.

    One of ten instances is ten times slower; ``load`` is the part of what all can do together.
    """
    rng = Random(seed)
    service = Service(rng, {f"i{n}": 10.0 if n == 0 else 1.0 for n in range(10)})
    service.run(simple(name, instances_of(*[100] * 10), rng), rate=load * 9.1, requests=6000)
    return service.percentile(0.99)


@pytest.mark.parametrize("name", ["LEAST_REQUEST", "PEAK_EWMA"])
@pytest.mark.parametrize("load", [0.09, 0.6])  # at random the slow one is busy by 82 %, and six times over
@pytest.mark.parametrize("seed", range(3))
def test_the_tail_that_one_slow_instance_causes_is_half_of_that_at_random(
    name: Simple, load: float, seed: int
) -> None:
    assert _slow_replica(name, load, seed) <= 0.5 * _slow_replica("RANDOM", load, seed)


@pytest.mark.parametrize("name", ["LEAST_REQUEST", "PEAK_EWMA"])
@pytest.mark.parametrize("seed", range(3))
def test_an_instance_that_fails_at_once_does_not_draw_the_traffic(name: Simple, seed: int) -> None:
    """Of 6,000 requests in 600 s, a fair share would be 1,500; counting only what is at work, most."""
    rng = Random(seed)
    service = Service(rng, {f"i{n}": 0.2 for n in range(4)}, fails=frozenset(["i0"]))
    service.run(simple(name, instances_of(*[100] * 4), rng), rate=10.0, requests=6000)
    assert service.failures < 400


# -- round robin -----------------------------------------------------------------------------------


def test_round_robin_from_nothing_is_the_sequence_of_nginx() -> None:
    chosen = RoundRobin([Instance("a", 5), Instance("b", 1), Instance("c", 1)], Fixed(LEAST))
    picked = [chosen.pick(0.0) for _ in range(14)]
    assert "".join(instance.instance for instance in picked if instance) == "aabacaa" * 2


@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_round_robin_is_exact_in_each_round_wherever_it_begins(weights: list[int], seed: int) -> None:
    """In every row of as many picks as the weights together, each gets its weight, give or take two."""
    chosen = RoundRobin(instances_of(*weights), Random(seed))
    total = sum(weights)
    names = [instance.instance for instance in (chosen.pick(0.0) for _ in range(4 * total)) if instance]
    for start in range(3 * total):
        row = Counter(names[start : start + total])
        for n, weight in enumerate(weights):
            assert abs(row[f"i{n}"] - weight) <= 2
    everything = Counter(names)
    for n, weight in enumerate(weights):
        assert abs(everything[f"i{n}"] - 4 * weight) <= 2


@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=6), rounds=st.integers(1, 5))
def test_round_robin_from_nothing_gives_each_its_weight_exactly(weights: list[int], rounds: int) -> None:
    chosen = RoundRobin(instances_of(*weights), Fixed(LEAST))
    shares = shares_of(chosen, rounds * sum(weights))
    assert shares == {f"i{n}": rounds * weight for n, weight in enumerate(weights)}


@pytest.mark.parametrize("seed", range(10))
def test_round_robin_of_equals_takes_turns(seed: int) -> None:
    chosen = RoundRobin(instances_of(1, 1, 1, 1), Random(seed))
    names = [instance.instance for instance in (chosen.pick(0.0) for _ in range(40)) if instance]
    for start in range(0, 40, 4):
        assert len(set(names[start : start + 4])) == 4


def test_callers_do_not_march_in_step() -> None:
    firsts: Counter[str] = Counter()
    for seed in range(300):
        picked = RoundRobin(instances_of(1, 1, 1), Random(seed)).pick(0.0)
        assert picked is not None
        firsts[picked.instance] += 1
    assert min(firsts.values()) > 60
