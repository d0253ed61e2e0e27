"""A new instance gets its share little by little, in the same way from all balancers that weigh."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.balance import BalancerSpec, Simple, Warmup, make
from busmesh.decide.balance.warmup import warm_share, warmed
from busmesh.decide.origin import Origin
from tests.decide.balance.instances import Instance, is_fair, shares_of


@pytest.mark.parametrize(
    ("age", "warmup", "share"),
    [
        (0.0, Warmup(60), 0.1),
        (0.0, Warmup(60, minimum_percent=0), 1 / 60),
        (0.5, Warmup(60, minimum_percent=0), 1 / 60),
        (30.0, Warmup(60), 0.5),
        (60.0, Warmup(60), 1.0),
        (1e9, Warmup(60), 1.0),
        (inf, Warmup(60), 1.0),
        (15.0, Warmup(60, aggression=2.0), 0.5),
        (0.0, Warmup(0.5), 1.0),
        (0.0, Warmup(60, minimum_percent=100), 1.0),
    ],
)
def test_the_formula_of_envoy(age: float, warmup: Warmup, share: float) -> None:
    assert warm_share(age, warmup) == pytest.approx(share)


@given(
    age=st.floats(0, 1e6),
    later=st.floats(0, 1e6),
    duration=st.floats(0.001, 86400),
    least=st.floats(0, 100),
    aggression=st.floats(1, 100),
)
def test_a_share_only_grows_and_is_never_nothing(
    age: float, later: float, duration: float, least: float, aggression: float
) -> None:
    warmup = Warmup(duration, least, aggression)
    assert 0 < warm_share(age, warmup) <= warm_share(age + later, warmup) <= 1


def test_weights_change_each_second_until_all_are_warm() -> None:
    assert warmed([(100, -inf), (50, 0.0)], 30.0, Warmup(60)) == ([100, 25], 31.0)
    assert warmed([(100, -inf), (50, 0.0)], 60.0, Warmup(60)) == ([100, 50], inf)
    assert warmed([(100, 29.0)], 30.0, None) == ([100], inf)


@pytest.mark.parametrize("name", ["RANDOM", "ROUND_ROBIN", "LEAST_REQUEST", "PEAK_EWMA"])
def test_the_balancer_follows_by_itself(name: Simple) -> None:
    members = [Instance("old"), Instance("new", since=100.0)]
    chosen = make(BalancerSpec(name, warmup=Warmup(60)), members, Random(3), 100.0, Origin())
    assert is_fair(shares_of(chosen, 5000, now=100.0), {"old": 100, "new": 10})
    assert chosen.next_change == 101.0
    assert is_fair(shares_of(chosen, 5000, now=130.0), {"old": 100, "new": 50})
    assert is_fair(shares_of(chosen, 5000, now=160.0), {"old": 100, "new": 100})
    assert chosen.next_change == inf


def test_a_single_new_instance_gets_everything() -> None:
    chosen = make(BalancerSpec(warmup=Warmup(60)), [Instance("new", since=9.0)], Random(1), 9.0, Origin())
    assert shares_of(chosen, 10, now=9.0) == {"new": 10}
