"""Hedging: two tries of one request beside each other, and nothing is left of the slower one."""

from __future__ import annotations

import pytest

from busmesh.decide.retry import RetryPolicy
from busmesh.decide.route import Rule, ServicePolicy
from busmesh.decide.split import Split
from busmesh.names import ServiceName
from busmesh.policy.snapshot import Snapshot
from tests.relay.world import Instance, World, answer_of, outcome

ORDERS = ServiceName("orders")


@pytest.fixture
def two(world: World) -> tuple[Instance, Instance]:
    instances = world.instance("orders-1"), world.instance("orders-2")
    plain = Snapshot(0, "", {}, {}, {})
    retries = RetryPolicy(attempts=1, per_try_timeout=0.2, hedge=True)
    rule = Rule("hedged", Split([(plain.target(ORDERS), 1)], 0.0), timeout=1.0, retries=retries)
    world.outbound.use(Snapshot(1, "", {ORDERS: ServicePolicy(ORDERS, (rule,))}, {}, {}))
    return instances


def asked_of(two: tuple[Instance, Instance]) -> tuple[Instance, Instance]:
    """Return the instance that has the request, and the other."""
    first, second = two
    return (first, second) if first.app.calls else (second, first)


def test_a_second_try_runs_beside_a_slow_one_and_the_first_answer_counts(
    world: World, two: tuple[Instance, Instance]
) -> None:
    client = world.ask("POST")
    world.pump()
    slow, fast = asked_of(two)
    world.after(0.25)
    assert len(slow.app.calls) == len(fast.app.calls) == 1, "also a POST: hedging is a wish to ask twice"
    assert outcome(client) == "waiting"
    fast.app.answer(body=b"fast")
    world.pump()
    assert answer_of(client).body == b"fast"
    world.pump()
    assert slow.app.calls[0].cancelled, "the slower one's work is taken back"
    world.settled()


def test_the_slow_one_may_still_win(world: World, two: tuple[Instance, Instance]) -> None:
    client = world.ask()
    world.pump()
    slow, fast = asked_of(two)
    world.after(0.25)
    slow.app.answer(body=b"slow")
    world.pump()
    assert answer_of(client).body == b"slow"
    assert fast.app.calls[0].cancelled
    world.settled()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_one_is_nothing_while_the_other_runs(
    world: World, two: tuple[Instance, Instance], failing: int
) -> None:
    client = world.ask()
    world.pump()
    both = asked_of(two)
    world.after(0.25)
    both[failing].app.fail("application_reset", processed=True)
    world.pump()
    assert outcome(client) == "waiting"
    both[1 - failing].app.answer(body=b"here")
    world.pump()
    assert answer_of(client).body == b"here"
    world.settled()


def test_both_fail(world: World, two: tuple[Instance, Instance]) -> None:
    client = world.ask()
    world.pump()
    world.after(0.25)
    for instance in two:
        instance.app.fail("application_reset", processed=True)
        world.pump()
    assert outcome(client) == "502 UF"
    world.settled()


def test_time_is_up_for_both(world: World, two: tuple[Instance, Instance]) -> None:
    client = world.ask()
    world.pump()
    world.after(1.1)
    assert outcome(client) == "504 UT"
    assert all(instance.app.calls[0].cancelled for instance in two)
    world.settled()


def test_a_client_that_goes_takes_both_along(world: World, two: tuple[Instance, Instance]) -> None:
    client = world.ask()
    world.pump()
    world.after(0.25)
    client.lose()
    world.pump()
    assert all(instance.app.calls[0].cancelled for instance in two)
    world.settled()
