from __future__ import annotations

from busmesh.decide.match import exact, method_passes
from busmesh.decide.request import RequestHead
from busmesh.decide.route import Rule, ServicePolicy, Target, choose_rule
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
    one, same = Target(ORDERS, "v1", {"version": "v1"}), Target(ORDERS, "v1", balancer="RANDOM")
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
