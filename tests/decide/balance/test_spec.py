"""What a spec comes to: groups within balancers, sessions around them."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from busmesh.decide.affinity import Cookie
from busmesh.decide.balance import Balancer, BalancerSpec, HashSpec, LocalitySpec, Warmup, make
from busmesh.decide.balance.grouped import Grouped
from busmesh.decide.balance.simple import LeastRequest
from busmesh.decide.hashkey import HashKey
from busmesh.decide.origin import Origin
from busmesh.decide.sticky import StickySession, instance_token
from tests.decide.balance.instances import Instance, instances_of, is_fair, shares_of

HERE = Origin("web.default", "web-1", "eu/a/1")
NEAREST = LocalitySpec()


def near_and_far(near: int = 3, far: int = 2) -> list[Instance]:
    return [Instance(f"near{n}", locality="eu/a/1") for n in range(near)] + [
        Instance(f"far{n}", locality="us/a/1") for n in range(far)
    ]


def made(spec: BalancerSpec, members: list[Instance], seed: int = 1) -> Balancer[Instance]:
    return make(spec, members, Random(seed), 0.0, HERE)


def test_the_default_is_least_request_over_the_usable() -> None:
    members = instances_of(100, 100, 0)
    members[0].usable = False
    chosen = made(BalancerSpec(), members)
    assert isinstance(chosen, LeastRequest)
    assert shares_of(chosen, 10) == {"i1": 10}


def test_a_draining_instance_is_none_of_the_health() -> None:
    """What has weight 0 gets nothing and is not missed either: two of three near ones are usable."""
    members = near_and_far()
    members[0].usable = False
    assert shares_of(made(BalancerSpec(locality=NEAREST), members), 2000).keys() > {"near1", "near2", "far0"}
    members[0].weight = 0
    assert shares_of(made(BalancerSpec(locality=NEAREST), members), 2000).keys() == {"near1", "near2"}


def test_parts_are_drawn_and_within_each_the_weights_count() -> None:
    members = near_and_far(4, 2)
    members[0].usable = members[1].usable = False
    members[2].weight = 300
    chosen = made(BalancerSpec("RANDOM", locality=NEAREST), members)
    assert isinstance(chosen, Grouped)
    expected = {"near2": 0.7 * 0.75, "near3": 0.7 * 0.25, "far0": 0.15, "far1": 0.15}
    assert is_fair(shares_of(chosen, 10_000), expected)


def test_a_failed_try_goes_elsewhere_when_all_near_ones_were_tried() -> None:
    members = near_and_far(2, 1)
    chosen = made(BalancerSpec(locality=NEAREST), members)
    for _ in range(20):
        assert chosen.pick(0.0, members[:1]) is members[1]
        assert chosen.pick(0.0, members[:2]) is members[2]
        assert chosen.pick(0.0, members) in members


def test_a_key_stays_with_its_locality() -> None:
    members = near_and_far(4, 4)
    members[0].usable = members[1].usable = False
    spec = BalancerSpec(hash=HashSpec(HashKey("header", "x")), locality=NEAREST)
    chosen, again = made(spec, members, 1), made(spec, members, 2)
    counted: Counter[str] = Counter()
    for n in range(2000):
        picked = chosen.pick(0.0, (), b"%d" % n)
        assert picked is not None
        assert again.pick(0.0, (), b"%d" % n) is picked
        counted[picked.locality] += 1
    assert is_fair(counted, {"eu/a/1": 0.7, "us/a/1": 0.3})


def test_the_weights_of_each_group_follow_the_time() -> None:
    members = near_and_far(2, 2)
    members[0].since = 0.0
    chosen = make(BalancerSpec("RANDOM", locality=NEAREST, warmup=Warmup(60)), members, Random(1), 0.0, HERE)
    assert is_fair(shares_of(chosen, 5000, now=1.0), {"near0": 10, "near1": 100})
    assert is_fair(shares_of(chosen, 5000, now=90.0), {"near0": 100, "near1": 100})


def test_nobody_is_nobody() -> None:
    for spec in (
        BalancerSpec(),
        BalancerSpec(locality=NEAREST),
        BalancerSpec(sticky=StickySession(header="x")),
    ):
        chosen = made(spec, [])
        assert chosen.pick(0.0) is None
        assert chosen.pick(0.0, (), b"key") is None


def test_specs_are_compared_by_what_they_say() -> None:
    def spec(name: str) -> BalancerSpec:
        return BalancerSpec(hash=HashSpec(HashKey("cookie", cookie=Cookie(name, "/", 60.0))))

    assert spec("a") == spec("a")
    assert hash(spec("a")) == hash(spec("a"))
    assert spec("a") != spec("b")


# -- sticky sessions -------------------------------------------------------------------------------

STICKY = BalancerSpec("ROUND_ROBIN", sticky=StickySession(Cookie("session", "/", 0.0)))


def test_a_session_stays_where_it_began() -> None:
    members = instances_of(*[100] * 4)
    chosen = made(STICKY, members)
    for member in members:
        assert all(chosen.pick(0.0, (), instance_token(member.instance)) is member for _ in range(10))


@pytest.mark.parametrize("why", ["unusable", "tried", "weight 0", "of another subset", "made up"])
def test_who_may_not_be_had_cannot_be_asked_for(why: str) -> None:
    members = instances_of(*[100] * 4)
    asked, tried, key = members[2], [], instance_token("i2")
    match why:
        case "unusable":
            asked.usable = False
        case "tried":
            tried = [asked]
        case "weight 0":
            asked.weight = 0
        case "of another subset":
            members.remove(asked)
        case _:
            key = b"i2"
    chosen = made(STICKY, members)
    found = [chosen.pick(0.0, tried, key) for _ in range(40)]
    assert None not in found
    counted = Counter(found)
    assert (asked in counted) is (why == "made up")
    assert len(counted) == (4 if why == "made up" else 3), "it goes where any other request would"


def test_a_session_is_kept_across_localities() -> None:
    members = near_and_far()
    chosen = made(BalancerSpec(sticky=StickySession(header="x-session"), locality=NEAREST), members)
    assert chosen.pick(0.0, (), instance_token("far1")) is members[4]
    assert repr(chosen) == "<Sticky <Grouped candidates=5 groups=2>>"


def test_the_affinity_of_a_spec_is_what_a_request_is_asked_for() -> None:
    key = HashKey("header", "x-user")
    assert BalancerSpec().affinity is None
    assert BalancerSpec(hash=HashSpec(key)).affinity is key
    assert STICKY.affinity is STICKY.sticky
