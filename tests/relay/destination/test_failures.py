"""What destinations say about failures, through the whole path: retries, limits, breakers, copies."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.relay.documents import destination, route, sends
from tests.relay.wires import FakeTransport
from tests.relay.world import Instance, World, outcome, outcomes


def fleet(world: World, count: int) -> list[Instance]:
    return [world.instance(f"orders-{number}") for number in range(count)]


def answer_all(world: World, fleet: Iterable[Instance], status: int = 200) -> int:
    """Have the applications answer until nobody asks them any more; return how many requests they got."""
    total = 0
    while True:
        world.after(0.05)
        calls = 0
        for instance in fleet:
            while instance.app.calls:
                instance.app.answer(b"", status)
                calls += 1
        world.pump()
        if not calls:
            return total
        total += calls


def calls(world: World, fleet: list[Instance], count: int, status: int = 200) -> tuple[list[str], int]:
    """Make so many requests in turn; return how they ended, and how many reached applications."""
    ended, reached = [], 0
    for _ in range(count):
        client = world.ask()
        reached += answer_all(world, fleet, status)
        ended.append(outcome(client))
    return ended, reached


# -- retries ---------------------------------------------------------------------------------------

RETRY_503 = "retries: {attempts: 2, retryOn: '503'}"


@pytest.mark.parametrize(("status", "reached"), [(503, 3), (500, 1), (404, 1)])
def test_only_what_the_rule_names_is_tried_again(world: World, status: int, reached: int) -> None:
    instances = fleet(world, 3)
    world.publish(sends(RETRY_503))
    assert calls(world, instances, 1, status) == ([str(status)], reached)
    world.over()


def test_retries_avoid_those_that_were_tried(world: World) -> None:
    instances = fleet(world, 3)
    world.publish(sends(RETRY_503))
    calls(world, instances, 1, 503)
    assert [len(instance.app.seen) for instance in instances] == [1, 1, 1]


def test_each_try_has_its_own_time(world: World) -> None:
    instances = fleet(world, 2)
    world.publish(sends("timeout: 1s\nretries: {attempts: 1, perTryTimeout: 200ms, retryOn: gateway-error}"))
    client = world.ask()
    world.after(0.18)
    assert sum(len(instance.app.seen) for instance in instances) == 1
    world.after(0.06)
    assert [len(instance.app.seen) for instance in instances] == [1, 1]
    world.after(0.14)
    assert outcome(client) == "waiting"
    world.after(0.06)
    assert outcome(client) == "504 UT"
    world.over()


def test_a_budget_bounds_the_retries_under_way(world: World) -> None:
    instances = fleet(world, 1)
    world.publish(sends(RETRY_503), destination("retryBudget: {percent: 20, minRetryConcurrency: 1}"))
    clients = [world.ask() for _ in range(20)]
    world.pump()
    app = instances[0].app
    while len(app.calls) and len(app.seen) <= 20:
        app.answer(b"", 503)
    world.after(0.05)
    retried = sum(outcome(client) == "waiting" for client in clients)
    assert 1 <= retried <= 4, "a fifth of twenty at most"
    answer_all(world, instances)
    assert sorted(outcomes(clients)) == ["200"] * retried + ["503"] * (20 - retried)
    assert world.destination().view()["retries_refused"] == 20 - retried
    world.over()


def test_without_a_budget_a_fifth_is_retried(world: World) -> None:
    instances = fleet(world, 2)
    world.publish(sends(RETRY_503))
    _, reached = calls(world, instances, 100, 503)
    assert 100 < reached <= 125
    world.over()


# -- limits ----------------------------------------------------------------------------------------

ONE_AND_ONE = "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}"


def test_one_is_under_way_one_waits_and_the_third_is_refused(world: World) -> None:
    instances = fleet(world, 2)
    world.publish(sends(), destination(ONE_AND_ONE))
    clients = [world.ask() for _ in range(3)]
    world.pump()
    assert outcomes(clients) == ["waiting", "waiting", "503 UO"]
    assert sum(len(instance.app.calls) for instance in instances) == 1
    assert answer_all(world, instances) == 2
    assert outcomes(clients) == ["200", "200", "503 UO"]
    world.over()


@pytest.mark.parametrize("which", [0, 1])
def test_a_client_that_goes_makes_room(world: World, which: int) -> None:
    instances = fleet(world, 1)
    world.publish(sends(), destination(ONE_AND_ONE))
    clients = [world.ask() for _ in range(2)]
    world.pump()
    clients[which].lose()
    world.pump()
    clients.append(world.ask())
    answer_all(world, instances)
    assert [outcome(client) for client in (clients[1 - which], clients[2])] == ["200", "200"]
    world.over()


def test_who_waits_for_a_place_waits_for_its_own_time_at_most(world: World) -> None:
    [orders] = fleet(world, 1)
    rules = """
    - match: [{uri: {prefix: /long}}]
      route: [{destination: {host: orders}}]
    - route: [{destination: {host: orders}}]
      timeout: 300ms
    """
    world.publish(route(rules), destination(ONE_AND_ONE))
    client = world.ask("GET", "/long")
    second = world.ask()
    world.after(0.28)
    assert outcomes([client, second]) == ["waiting", "waiting"]
    world.after(0.04)
    assert outcomes([client, second]) == ["waiting", "504 UT"]
    assert len(orders.app.calls) == 1, "the application never heard of it"
    answer_all(world, [orders])
    assert outcome(client) == "200"
    world.over()


# -- breakers and ejection -------------------------------------------------------------------------

BREAKER = "{consecutiveFailures: 3, waitDurationInOpenState: 1s, permittedNumberOfCallsInHalfOpenState: 2}"


def test_an_open_breaker_refuses_and_its_probes_close_it(world: World) -> None:
    instances = fleet(world, 2)
    world.publish(sends(), destination(f"breaker: {BREAKER}"))
    ended, reached = calls(world, instances, 6, 500)
    assert (ended, reached) == (["500"] * 3 + ["503 UO"] * 3, 3)
    world.after(1.1)
    clients = [world.ask() for _ in range(5)]
    world.pump()
    assert outcomes(clients) == ["waiting"] * 2 + ["503 UO"] * 3
    answer_all(world, instances)
    assert calls(world, instances, 5) == (["200"] * 5, 5)
    world.over()


def test_a_client_that_goes_gives_its_probe_back(world: World) -> None:
    instances = fleet(world, 1)
    world.publish(sends(), destination(f"breaker: {BREAKER}"))
    calls(world, instances, 3, 500)
    world.after(1.1)
    clients = [world.ask() for _ in range(2)]
    world.pump()
    for client in clients:
        client.lose()
    answer_all(world, instances)
    assert calls(world, instances, 3) == (["200"] * 3, 3)
    world.over()


EJECTS = "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 2, interval: 1s, %s}"


def test_an_ejected_instance_gets_nothing_until_it_returns(world: World) -> None:
    instances = fleet(world, 3)
    world.publish(sends(), destination(EJECTS % "baseEjectionTime: 5s, maxEjectionPercent: 100"))
    ill = instances[0]
    for _ in range(4):
        clients = [world.ask() for _ in range(3)]
        world.pump()
        for instance in instances:
            while instance.app.calls:
                instance.app.answer(b"", 500 if instance is ill else 200)
        world.pump()
        assert "waiting" not in outcomes(clients)
    assert world.destination().states() == {"orders-0": "ejected"}
    before = len(ill.app.seen)
    assert calls(world, instances, 9) == (["200"] * 9, 9)
    assert len(ill.app.seen) == before
    world.after(7)
    calls(world, instances, 9)
    assert world.destination().states() == {}
    assert len(ill.app.seen) == before + 3
    world.over()


def test_the_cap_is_kept_and_panic_disregards_ejections(world: World) -> None:
    instances = fleet(world, 4)
    world.publish(sends(), destination(EJECTS % "maxEjectionPercent: 50"))
    calls(world, instances, 40, 500)
    assert list(world.destination().states().values()) == ["ejected"] * 2
    world.publish(sends(), destination(EJECTS % "maxEjectionPercent: 50, minHealthPercent: 60"))
    before = [len(instance.app.seen) for instance in instances]
    calls(world, instances, 8)
    after = [len(instance.app.seen) for instance in instances]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 2, 2, 2]
    world.over()


# -- copies ----------------------------------------------------------------------------------------


def mirrored(world: World, percent: int) -> tuple[Instance, Instance]:
    orders, copies = world.instance("orders-1"), world.instance("audit-1", "audit")
    world.publish(sends(f"mirror: {{host: audit}}\nmirrorPercentage: {{value: {percent}}}"))
    return orders, copies


def host_of(head: bytes) -> str:
    return next(line for line in head.decode().split("\r\n") if line.lower().startswith("host:"))


def test_a_copy_says_what_it_is_and_nobody_waits_for_it(world: World) -> None:
    orders, copies = mirrored(world, 100)
    client: FakeTransport = world.ask("POST", "/x", b"body")
    world.pump()
    orders.app.answer(b"")
    world.pump()
    assert outcome(client) == "200"
    assert host_of(copies.app.seen[0]) == "Host: orders-shadow"
    copies.app.answer(b"", 500)
    world.pump()
    assert outcome(client) == "200"
    world.over()


def test_what_the_lot_spares_is_not_copied(world: World) -> None:
    orders, copies = mirrored(world, 10)
    world.lot.drawn = 0.1
    world.ask()
    answer_all(world, [orders])
    assert copies.app.seen == []
    world.over()
