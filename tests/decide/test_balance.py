"""Balancers: shares follow weights, load is evened out, and what failed is passed over."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.balance import BALANCERS, Balancer, LeastRequest, RoundRobin, Weighted, balancer


@dataclass(eq=False)
class Instance:
    name: str
    weight: int = 100
    active: int = 0


NAMES = list(BALANCERS)


def _instances(*weights: int) -> list[Instance]:
    return [Instance(f"i{n}", weight) for n, weight in enumerate(weights)]


def _shares(chosen: Balancer[Instance], picks: int) -> Counter[str]:
    counted: Counter[str] = Counter()
    for _ in range(picks):
        instance = chosen.pick()
        assert instance is not None
        counted[instance.name] += 1
    return counted


class Zero(Random):
    """A generator that always says the least or the most that it can."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


LEAST, MOST = 0.0, 1 - 2**-53


# -- edges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_of_none_there_is_none(name: str) -> None:
    assert balancer(name, [], Random(1)).pick() is None
    assert balancer(name, _instances(0, 0), Random(1)).pick() is None


@pytest.mark.parametrize("name", NAMES)
def test_the_only_one_is_picked_even_if_it_was_tried(name: str) -> None:
    (one,) = instances = _instances(5)
    chosen = balancer(name, instances, Random(1))
    assert chosen.pick() is one
    assert chosen.pick({one}) is one


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_gets_nothing(name: str) -> None:
    chosen = balancer(name, _instances(0, 1, 0, 3, 0), Random(1))
    assert _shares(chosen, 1000).keys() == {"i1", "i3"}
    assert repr(chosen) == f"<{type(chosen).__name__} candidates=2>"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [LEAST, MOST])
@pytest.mark.parametrize("weights", [(1,), (1, 1), (1, 2, 3), (10_000, 1), (1, 10_000), (3,) * 7])
def test_no_random_number_leads_past_the_end(name: str, value: float, weights: tuple[int, ...]) -> None:
    chosen = balancer(name, _instances(*weights), Zero(value))
    assert _shares(chosen, 20).total() == 20


def test_a_name_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(KeyError):
        balancer("PASSTHROUGH", _instances(1), Random(1))


@given(
    name=st.sampled_from(NAMES),
    weights=st.lists(st.integers(0, 10_000), max_size=8),
    loads=st.lists(st.integers(0, 1000), min_size=8, max_size=8),
    tried=st.sets(st.integers(0, 7)),
    seed=st.integers(0, 2**32),
)
def test_whatever_comes_a_pick_has_weight_and_was_not_tried_while_another_is_left(
    name: str, weights: list[int], loads: list[int], tried: set[int], seed: int
) -> None:
    instances = _instances(*weights)
    for instance, active in zip(instances, loads, strict=False):
        instance.active = active
    before = {instance for n, instance in enumerate(instances) if n in tried}
    usable = {instance for instance in instances if instance.weight}
    chosen = balancer(name, instances, Random(seed))
    for _ in range(5):
        picked = chosen.pick(before)
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
            picked = balancer(name, [light, heavy, failed], Random(seed)).pick({failed})
            assert picked in (light, heavy)
    chosen = Weighted([failed, light, heavy], Zero(LEAST))
    assert chosen.pick({failed}) is heavy  # 9 for 400 is less than 4 for 100
    heavy.active = 40
    assert chosen.pick({failed}) is light


# -- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1, 1), (80, 20), (70, 20, 10), (1, 99), (3, 2, 2, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_idle_instances_get_their_weights(name: str, weights: tuple[int, ...], seed: int) -> None:
    picks = 20_000
    shares = _shares(balancer(name, _instances(*weights), Random(seed)), picks)
    for n, weight in enumerate(weights):
        expected = weight / sum(weights)
        # Four standard deviations of a fair draw.
        tolerance = 4 * (expected * (1 - expected) / picks) ** 0.5
        assert shares[f"i{n}"] / picks == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_least_request_prefers_the_less_loaded_of_two(seed: int) -> None:
    idle, busy = Instance("idle"), Instance("busy", active=5)
    assert _shares(LeastRequest([busy, idle], Random(seed)), 200) == {"idle": 200}
    three = [Instance("idle"), Instance("busy", active=5), Instance("busier", active=9)]
    shares = _shares(LeastRequest(three, Random(seed)), 3000)
    assert shares["idle"] / 3000 == pytest.approx(2 / 3, abs=0.04)  # in two of three pairs
    assert "busier" not in shares


def test_least_request_measures_load_by_weight() -> None:
    # Eight at work for 400 is less than three for 100.
    shares = _shares(LeastRequest([Instance("big", 400, 8), Instance("small", 100, 3)], Random(1)), 5000)
    # Big unless both draws are small: 1 - 0.2 x 0.2.
    assert shares["big"] / 5000 == pytest.approx(0.96, abs=0.015)


def _simulate(name: str, seed: int) -> float:
    """Return the 99th percentile of the time in a queue, in units of a fast instance's service.

    Ten instances serve one request at a time; one of them is ten times slower. Requests come at 60 % of what
    all can do together, at random moments.
    """
    rng = Random(seed)
    instances = _instances(*[100] * 10)
    duration = {instance.name: 1.0 for instance in instances} | {"i0": 10.0}
    free_at = dict.fromkeys(duration, 0.0)
    chosen = balancer(name, instances, rng)
    by_name = {instance.name: instance for instance in instances}
    under_way: list[tuple[float, str]] = []
    waits, now = [], 0.0
    for _ in range(6000):
        now += rng.expovariate(0.6 * 9.1)
        for end, finished in [item for item in under_way if item[0] <= now]:
            under_way.remove((end, finished))
            by_name[finished].active -= 1
        picked = chosen.pick()
        assert picked is not None
        picked.active += 1
        end = free_at[picked.name] = max(now, free_at[picked.name]) + duration[picked.name]
        under_way.append((end, picked.name))
        waits.append(end - now)
    return sorted(waits)[int(len(waits) * 0.99)]


@pytest.mark.parametrize("seed", range(3))
def test_least_request_halves_the_tail_that_random_has_with_one_slow_instance(seed: int) -> None:
    assert _simulate("LEAST_REQUEST", seed) <= 0.5 * _simulate("RANDOM", seed)


# -- round robin -----------------------------------------------------------------------------------


def test_round_robin_from_nothing_is_the_sequence_of_nginx() -> None:
    chosen = RoundRobin([Instance("a", 5), Instance("b", 1), Instance("c", 1)], Zero(LEAST))
    picked = [chosen.pick() for _ in range(14)]
    assert "".join(instance.name for instance in picked if instance) == "aabacaa" * 2


@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_round_robin_is_exact_in_each_round_wherever_it_begins(weights: list[int], seed: int) -> None:
    """In every row of as many picks as the weights together, each gets its weight, give or take two."""
    chosen = RoundRobin(_instances(*weights), Random(seed))
    total = sum(weights)
    names = [instance.name for instance in (chosen.pick() for _ in range(4 * total)) if instance]
    for start in range(3 * total):
        row = Counter(names[start : start + total])
        for n, weight in enumerate(weights):
            assert abs(row[f"i{n}"] - weight) <= 2
    everything = Counter(names)
    for n, weight in enumerate(weights):
        assert abs(everything[f"i{n}"] - 4 * weight) <= 2


@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=6), rounds=st.integers(1, 5))
def test_round_robin_from_nothing_gives_each_its_weight_exactly(weights: list[int], rounds: int) -> None:
    chosen = RoundRobin(_instances(*weights), Zero(LEAST))
    shares = _shares(chosen, rounds * sum(weights))
    assert shares == {f"i{n}": rounds * weight for n, weight in enumerate(weights)}


@pytest.mark.parametrize("seed", range(10))
def test_round_robin_of_equals_takes_turns(seed: int) -> None:
    chosen = RoundRobin(_instances(1, 1, 1, 1), Random(seed))
    names = [instance.name for instance in (chosen.pick() for _ in range(40)) if instance]
    for start in range(0, 40, 4):
        assert len(set(names[start : start + 4])) == 4


def test_callers_do_not_march_in_step() -> None:
    firsts: Counter[str] = Counter()
    for seed in range(300):
        picked = RoundRobin(_instances(1, 1, 1), Random(seed)).pick()
        assert picked is not None
        firsts[picked.name] += 1
    assert min(firsts.values()) > 60
