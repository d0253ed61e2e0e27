"""What a caller hears when nobody takes its request: of whom it asked for, and of revocations."""

from __future__ import annotations

from busmesh.names import ServiceName
from tests.relay.documents import destination, route
from tests.relay.outbound.test_outbound import body_of
from tests.relay.world import World, outcome

SUBSETS = "[{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]"
TO_V2 = "route:\n  - {destination: {host: orders, subset: v2}}"


def said(world: World) -> str:
    client = world.ask()
    assert outcome(client) == "503 UH"
    message: str = body_of(client)["message"]
    return message


def versions(world: World, *names: str) -> None:
    for name in names:
        world.instance(name).endpoint.labels = {"version": name.partition("-")[0]}
    world.upstreams.changed(ServiceName("orders"))


def test_another_subsets_instances_are_not_named(world: World) -> None:
    versions(world, "v1-a", "v2-a", "v2-b")
    world.publish(route(TO_V2), destination("", SUBSETS))
    for name in ("v2-a", "v2-b"):
        world.instances[name].endpoint.ready = False
    world.upstreams.changed(ServiceName("orders"))
    assert said(world) == "no usable instance of orders/v2 (v2-a: not ready, v2-b: not ready)"


def test_a_subset_without_instances_is_told_apart_from_a_service_without(world: World) -> None:
    versions(world, "v1-a")
    world.publish(route(TO_V2), destination("", SUBSETS))
    assert said(world) == "no instance of orders/v2, none that serves orders has the labels"


def test_a_revoked_instance_is_called_so(world: World) -> None:
    endpoint = world.instance("orders-0").endpoint
    endpoint.session, endpoint.ready, endpoint.revoked = None, False, True
    world.upstreams.changed(endpoint.service)
    assert said(world) == "no usable instance of orders (orders-0: revoked)"


def test_one_that_is_forgotten_by_now_is_named_by_who_knows_of_revocations(world: World) -> None:
    asked = []

    def why(service: ServiceName | None) -> str:
        asked.append(service)
        return "" if service is None else "orders-0 was revoked 7 s ago"

    world.outbound.revoked = why
    world.known("orders")
    assert said(world) == "nobody serves orders: orders-0 was revoked 7 s ago"
    assert asked == [ServiceName("orders")]


def test_a_revoked_caller_hears_of_itself(world: World) -> None:
    world.outbound.revoked = lambda service: "this instance was revoked"
    endpoint = world.instance("orders-0").endpoint
    endpoint.ready = False
    world.upstreams.changed(endpoint.service)
    assert said(world) == "no usable instance of orders (orders-0: not ready): this instance was revoked"
    world.bus.connected = False
    client = world.ask()
    assert outcome(client) == "503 UF"
    assert body_of(client)["message"] == ("the agent has no connection to the bus: this instance was revoked")
