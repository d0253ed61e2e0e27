"""Who gets which part of the traffic, by where they are and how well."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.balance import LocalitySpec
from busmesh.decide.balance.locality import (
    health_of,
    label_distance,
    locality_distance,
    matches,
    shares,
    spill,
    split_locality,
)
from busmesh.decide.balance.panic import candidates_in_panic, in_panic
from busmesh.decide.origin import Origin
from tests.decide.balance.instances import Instance

HERE = Origin("web.default", "web-1", "eu/a/1", {"version": "v1", "rack": "r7"})
NEAREST = LocalitySpec()


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", ("", "", "")), ("eu", ("eu", "", "")), ("eu/a", ("eu", "a", "")), ("eu/a/1", ("eu", "a", "1"))],
)
def test_parts_of_a_locality(text: str, parts: tuple[str, str, str]) -> None:
    assert split_locality(text) == parts


@pytest.mark.parametrize(
    ("theirs", "distance"),
    [("eu/a/1", 0), ("eu/a/2", 1), ("eu/a", 1), ("eu/b/1", 2), ("eu", 2), ("us/a/1", 3), ("", 3)],
)
def test_distance(theirs: str, distance: int) -> None:
    assert locality_distance("eu/a/1", theirs) == distance


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("eu/a/1", True),
        ("eu/a/*", True),
        ("eu/a", True),
        ("eu/*", True),
        ("eu", True),
        ("*", True),
        ("eu/b/*", False),
        ("eu/a/2", False),
        ("us", False),
    ],
)
def test_patterns(pattern: str, expected: bool) -> None:
    assert matches("eu/a/1", pattern) is expected


@pytest.mark.parametrize(
    ("labels", "candidate", "distance"),
    [
        ([], Instance("i"), 0),
        (["version"], Instance("i", labels={"version": "v1"}), 0),
        (["version"], Instance("i", labels={"version": "v2"}), 1),
        (["version", "rack"], Instance("i", labels={"version": "v1"}), 1),
        (["version", "rack"], Instance("i", labels={"rack": "r7"}), 2),
        (["version=v2"], Instance("i", labels={"version": "v2"}), 0),
        (["topology.kubernetes.io/region"], Instance("i", locality="eu/b"), 0),
        (["topology.kubernetes.io/zone"], Instance("i", locality="eu/b"), 1),
        (["topology.kubernetes.io/zone=b"], Instance("i", locality="eu/b"), 0),
        (["neither"], Instance("i"), 0),
    ],
)
def test_distance_by_label(labels: list[str], candidate: Instance, distance: int) -> None:
    assert label_distance(candidate, HERE, labels) == distance


@pytest.mark.parametrize(
    ("health", "parts"),
    [
        ([1.0], [1.0]),
        ([1.0, 1.0], [1.0, 0.0]),
        ([0.7, 1.0], [0.7, 0.3]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.7, 0.2, 1.0], [0.7, 0.2, 0.1]),
        ([0.2, 0.2], [0.5, 0.5]),
        ([0.1, 0.2, 0.1], [0.25, 0.5, 0.25]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([], []),
    ],
)
def test_what_one_priority_cannot_bear_goes_to_the_next(health: list[float], parts: list[float]) -> None:
    assert spill(health) == pytest.approx(parts)


@pytest.mark.parametrize(
    ("usable", "announced", "health"),
    [(10, 10, 1.0), (8, 10, 1.0), (72, 100, 1.0), (5, 10, 0.7), (1, 10, 0.14), (0, 10, 0.0), (0, 0, 0.0)],
)
def test_health_is_overprovisioned(usable: int, announced: int, health: float) -> None:
    assert health_of(usable, announced) == pytest.approx(health)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_all_of_the_traffic_goes_somewhere_and_nothing_to_who_is_ill(health: list[float]) -> None:
    parts = spill(health)
    assert sum(parts) == pytest.approx(1.0 if sum(health) else 0.0)
    for one, part in zip(health, parts, strict=True):
        assert part >= 0
        if not one:
            assert part == 0
    if sum(health) >= 1:
        assert all(part <= one + 1e-9 for part, one in zip(parts, health, strict=True))


def world(*, ill: Sequence[str] = ()) -> list[Instance]:
    places = {"near": "eu/a/1", "zone": "eu/a/2", "region": "eu/b/1", "heir": "us/a/1", "far": "ap/a/1"}
    return [
        Instance(f"{name}{n}", locality=place, usable=f"{name}{n}" not in ill and name not in ill)
        for name, place in places.items()
        for n in range(2)
    ]


def parts(
    members: Sequence[Instance], spec: LocalitySpec | None, panic: float = 0
) -> list[tuple[float, str]]:
    found = shares(members, HERE, spec, panic)
    return [(round(share.part, 3), " ".join(c.instance for c in share.candidates)) for share in found]


FAILOVER = LocalitySpec(failover=(("us", "ap"), ("eu", "us")))


@pytest.mark.parametrize(
    ("ill", "spec", "expected"),
    [
        ([], NEAREST, "near0 near1"),
        (["near0"], NEAREST, "near1 0.7 zone0 zone1 0.3"),
        (["near"], NEAREST, "zone0 zone1"),
        (["near", "zone"], NEAREST, "region0 region1"),
        (["near", "zone", "region"], NEAREST, "heir0 heir1 far0 far1"),
        (["near", "zone", "region"], FAILOVER, "heir0 heir1"),
        (["near", "zone", "region", "heir"], FAILOVER, "far0 far1"),
        (["near0", "zone"], NEAREST, "near1 0.7 region0 region1 0.3"),
    ],
)
def test_traffic_stays_as_near_as_there_is_health(ill: list[str], spec: LocalitySpec, expected: str) -> None:
    live = [(part, names) for part, names in parts(world(ill=ill), spec) if part]
    text = " ".join(names if part == 1 else f"{names} {part:g}" for part, names in live)
    assert text == expected


def test_without_a_setting_all_are_one() -> None:
    ((part, names),) = parts(world(ill=["near0"]), None)
    assert part == 1
    assert len(names.split()) == 9


def test_a_caller_without_locality_prefers_none() -> None:
    (share,) = shares(world(), Origin(), NEAREST)
    assert len(share.candidates) == 10


def test_those_farther_away_are_kept_for_tries_that_failed() -> None:
    assert [part for part, _ in parts(world(), FAILOVER)] == [1, 0, 0, 0, 0]


def test_labels_come_before_localities() -> None:
    members = [
        Instance("far", locality="us", labels={"rack": "r7"}),
        Instance("near", locality="eu/a/1"),
        Instance("both", locality="eu/a/1", labels={"rack": "r7"}),
    ]
    by_label = LocalitySpec(failover_priority=("rack",))
    assert parts(members, by_label) == [(1, "far both"), (0, "near")]
    by_both = LocalitySpec(failover_priority=("rack",), failover=(("eu", "us"),))
    assert parts(members, by_both) == [(1, "both"), (0, "far"), (0, "near")]


DISTRIBUTE = LocalitySpec(
    distribute=(("us/*", (("us", 100),)), ("eu/a/*", (("eu/a/1", 60), ("eu/*", 30), ("us", 10))))
)


@pytest.mark.parametrize(
    ("ill", "expected"),
    [
        ([], [(0.6, "near0 near1"), (0.3, "zone0 zone1 region0 region1"), (0.1, "heir0 heir1")]),
        (["near"], [(0.75, "zone0 zone1 region0 region1"), (0.25, "heir0 heir1")]),
        (["near0"], [(0.512, "near1"), (0.366, "zone0 zone1 region0 region1"), (0.122, "heir0 heir1")]),
        (["near", "zone", "region", "heir"], []),
    ],
)
def test_distribution_by_percent(ill: list[str], expected: list[tuple[float, str]]) -> None:
    assert parts(world(ill=ill), DISTRIBUTE) == expected


def test_the_rest_of_the_world_is_what_no_other_target_names() -> None:
    spec = LocalitySpec(distribute=(("*", (("*", 20), ("eu", 80))),))
    assert parts(world(), spec) == [
        (0.8, "near0 near1 zone0 zone1 region0 region1"),
        (0.2, "heir0 heir1 far0 far1"),
    ]


def test_a_caller_from_where_nothing_is_distributed_prefers_none() -> None:
    (share,) = shares(world(), Origin(locality="ap/a/1"), DISTRIBUTE)
    assert len(share.candidates) == 10


# -- panic -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usable", "announced", "percent", "expected"),
    [
        (5, 10, 50, False),
        (4, 10, 50, True),
        (0, 10, 0, False),
        (0, 10, 1, True),
        (10, 10, 100, False),
        (0, 0, 50, False),
    ],
)
def test_panic_is_below_the_share(usable: int, announced: int, percent: float, expected: bool) -> None:
    assert in_panic(usable, announced, percent) is expected
    names = list("abcdefghij"[:announced])
    assert candidates_in_panic(names, names[:usable], percent) == (names if expected else names[:usable])


def test_in_panic_all_that_can_be_reached_are_used() -> None:
    members = [Instance(f"i{n}", usable=n < 2, reachable=n < 8) for n in range(10)]
    assert parts(members, None, 50) == [(1, " ".join(f"i{n}" for n in range(8)))]
    assert parts(members, None, 20) == parts(members, None) == [(1, "i0 i1")]


def test_there_is_no_panic_while_others_can_bear_the_rest() -> None:
    ill = world(ill=["near"])
    assert (1, "zone0 zone1") in parts(ill, NEAREST, 50)
    assert not any("near" in names for _, names in parts(ill, NEAREST, 50))


def test_in_total_panic_everybody_gets_the_same() -> None:
    nobody = world(ill=["near", "zone", "region", "heir", "far"])
    assert parts(nobody, NEAREST) == []
    assert [part for part, _ in parts(nobody, FAILOVER, 50)] == [0.2] * 5
    assert [part for part, _ in parts(nobody, DISTRIBUTE, 50)] == [0.6, 0.3, 0.1]


@pytest.mark.parametrize("spec", [None, NEAREST, FAILOVER, DISTRIBUTE])
@pytest.mark.parametrize("panic", [0, 50])
def test_whoever_is_ill_the_parts_add_up_and_only_usable_ones_get_any(
    spec: LocalitySpec | None, panic: float
) -> None:
    names = ["near0", "near1", "zone", "region", "heir", "far"]
    for count in range(len(names) + 1):
        for ill in combinations(names, count):
            found = shares(world(ill=ill), HERE, spec, panic)
            if found:
                assert sum(share.part for share in found) == pytest.approx(1)
            if not panic:
                assert all(c.usable for share in found for c in share.candidates)
