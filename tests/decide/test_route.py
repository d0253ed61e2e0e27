from __future__ import annotations

from random import Random

import pytest

from busmesh.decide.answer import DirectResponse
from busmesh.decide.balance import BalancerSpec
from busmesh.decide.match import exact, header_value, method_passes
from busmesh.decide.request import RequestHead
from busmesh.decide.retry import DEFAULT_RETRIES
from busmesh.decide.route import Mirror, Rule, ServicePolicy, Target, choose_rule
from busmesh.decide.split import Split
from busmesh.names import ServiceName

ORDERS = ServiceName("orders")


def rule(name: str, method: bytes | None) -> Rule:
    matches = None if method is None else method_passes(exact(method))
    return Rule(name, Split([(Target(ORDERS), 1)], 0.0), matches)


def chosen(policy: ServicePolicy, method: bytes) -> str | None:
    found = choose_rule(policy, RequestHead(method, b"/", []))
    return None if found is None else found.name


def test_the_first_rule_that_matches_is_taken() -> None:
    policy = ServicePolicy(ORDERS, (rule("a", b"GET"), rule("b", b"GET"), rule("c", None), rule("d", b"PUT")))
    assert [chosen(policy, method) for method in (b"GET", b"PUT")] == ["a", "c"]


def test_where_no_rule_matches_there_is_no_route() -> None:
    assert chosen(ServicePolicy(ORDERS, (rule("a", b"GET"),)), b"PUT") is None
    assert chosen(ServicePolicy(ORDERS, ()), b"GET") is None


def test_targets_are_equal_when_they_mean_the_same_instances() -> None:
    one, same = Target(ORDERS, "v1", {"version": "v1"}), Target(ORDERS, "v1", balancer=BalancerSpec("RANDOM"))
    assert one == same
    assert {one: 1}[same] == 1
    assert one.key == "orders.default/v1"
    others = [Target(ORDERS), Target(ORDERS, "v2"), Target(ServiceName("orders", "shop"), "v1")]
    assert len({one, *others}) == 4
    assert one != "orders.default/v1"
    assert [str(target) for target in (one, *others)] == [
        "orders/v1",
        "orders",
        "orders/v2",
        "orders.shop/v1",
    ]


V1, V2 = Target(ORDERS, "v1"), Target(ORDERS, "v2")


def test_a_rule_that_says_nothing_shares_what_costs_nothing() -> None:
    plain = rule("a", None)
    assert plain.retries is DEFAULT_RETRIES
    assert (plain.fault, plain.mirrors, plain.rewrite, plain.answer, plain.owner) == (
        None,
        (),
        None,
        None,
        None,
    )


def test_the_owner_of_a_request_decides_and_else_the_sequence() -> None:
    split = Split([(V1, 50), (V2, 50)], 0.0, "orders")
    owned = Rule("a", split, owner=lambda head: header_value(head.block, b"x-user"))
    for name in (b"ana", b"bob", b"cem", b"dan"):
        head = RequestHead(b"GET", b"/", [(b"X-User", name)])
        assert {owned.pick(head) for _ in range(50)} == {split.pick_for(name)}
    nobody = RequestHead(b"GET", b"/", [])
    assert {owned.pick(nobody) for _ in range(50)} == {V1, V2}


def test_a_rule_names_every_target_it_may_send_to() -> None:
    mirrored = Rule("a", Split([(V1, 100), (V2, 0)], 0.0), mirrors=(Mirror(Target(ORDERS)),))
    assert mirrored.targets() == (V1, V2, Target(ORDERS))
    assert Rule("b", None, answer=DirectResponse(503)).targets() == ()


@pytest.mark.parametrize(("fraction", "least", "most"), [(0.0, 0, 0), (1.0, 1000, 1000), (0.25, 200, 300)])
def test_so_many_requests_are_copied(fraction: float, least: int, most: int) -> None:
    rng = Random(4)
    assert least <= sum(Mirror(V1, fraction).wanted(rng) for _ in range(1000)) <= most
