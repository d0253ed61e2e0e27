"""Who looks on while requests are routed: it sees each once, sees the truth, and changes nothing."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from busmesh.agent.witness import KEPT_S, MAX_REQUESTS, Witness
from busmesh.decide.dryrun import Comparison
from busmesh.decide.match import exact, path_passes, prefix
from busmesh.decide.request import RequestHead
from busmesh.decide.route import Rule, ServicePolicy, Target
from busmesh.decide.split import Split
from busmesh.names import ServiceName
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.documents import parse_documents
from busmesh.policy.explain import Question, explain
from busmesh.policy.revision import EMPTY, PolicySet
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.tries.exchange import Exchange
from tests.relay.transcript import request
from tests.relay.wires import FakeTransport
from tests.relay.world import Notes, World, outcome

ORDERS = ServiceName("orders")
ONE, OTHER = Target(ORDERS, "v1", {"version": "v1"}), Target(ORDERS, "v2", {"version": "v2"})


def snapshot(*rules: Rule) -> Snapshot:
    return Snapshot(1, "", {ORDERS: ServicePolicy(ORDERS, rules)}, {}, {})


def test_each_request_is_seen_once_with_its_rule(world: World) -> None:
    seen: list[tuple[str, bytes, str | None]] = []

    def beside(service: ServiceName, head: RequestHead, rule: Rule | None) -> None:
        seen.append((str(service), head.target, None if rule is None else rule.name))

    to = Split([(Target(ORDERS), 1)], 0.0)
    world.outbound.use(
        snapshot(
            Rule("moved", to, path_passes(prefix(b"/old")), timeout=1.0),
            Rule("here", to, path_passes(exact(b"/"))),
        )
    )
    first, second = world.instance("orders-1"), world.instance("orders-2")
    world.outbound.beside = beside
    clients = [world.ask(path=path) for path in ("/old/1", "/", "/nowhere")]
    first.inbound.closed_because = second.inbound.closed_because = "it is tried and tried again"
    world.pump()
    assert seen == [("orders", b"/old/1", "moved"), ("orders", b"/", "here"), ("orders", b"/nowhere", None)]
    assert outcome(clients[2]) == "404 NR"
    world.outbound.beside = None
    world.ask()
    assert len(seen) == 3


def test_the_comparison_says_where_the_request_really_goes(world: World) -> None:
    for name, version in (("orders-1", "v1"), ("orders-2", "v2")):
        instance = world.instance(name)
        instance.endpoint.labels = {"version": version}
    world.outbound.use(snapshot(Rule("all", Split([(ONE, 70), (OTHER, 30)], 0.4))))
    after = ServicePolicy(ORDERS, (Rule("new", Split([(ONE, 1)], 0.0)),))
    comparison = Comparison(lambda service: after, lambda target: True, 1000)
    found: list[str] = []

    def beside(service: ServiceName, head: RequestHead, rule: Rule | None) -> None:
        difference = comparison.compare(service, head, rule)
        assert difference is not None
        found.append(difference.goes_before)

    world.outbound.beside = beside
    for _ in range(50):
        world.ask()
        taken = next(one for one in world.instances.values() if one.endpoint.active)
        assert taken.endpoint.labels["version"] == found[-1].removeprefix("orders.default/")
        world.pump()
        taken.app.answer(b"")
        world.pump()
    assert set(found) == {"orders.default/v1", "orders.default/v2"}


HASHED = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user, ringHash: {minimumRingSize: 64}}}}
"""


def test_an_explanation_knows_the_instance_that_a_hash_gives(world: World) -> None:
    for name in ("orders-1", "orders-2", "orders-3"):
        world.instance(name)
    documents = parse_documents(HASHED.encode(), "f.yaml")
    policy_set = PolicySet(1, {document.key: document for document in documents})
    caller = Caller(ServiceName("shop"))
    world.outbound.use(compile_set(policy_set, caller, rng=Random(3)))
    members = {ORDERS: list(world.upstreams.upstream(ORDERS).endpoints.values())}
    given: set[str] = set()
    for number in range(30):
        client = world.client()
        client.protocol.data_received(request(f"X-User: {number}", host="Host: orders"))
        taken = next(one for one in world.instances.values() if one.endpoint.active)
        head = RequestHead(b"GET", b"/", [(b"Host", b"orders"), (b"X-User", b"%d" % number)])
        found: Any = explain(policy_set, Question(caller, ORDERS, head, members=members))
        assert found["destinations"][0]["hashed_to"] == taken.name
        given.add(taken.name)
        world.pump()
        taken.app.answer(b"")
        world.pump()
    assert len(given) == 3


class Witnessing(Notes):
    """Telemetry that tells a witness, as an agent's does."""

    witness: Witness

    def begin_try(self, exchange: Exchange) -> None:
        if self.witness.records:
            self.witness.begin_try(exchange)
        super().begin_try(exchange)

    def end_try(self, exchange: Exchange, status: int, flags: str, now: float) -> None:
        if self.witness.records:
            self.witness.end_try(exchange, status, flags, now)
        super().end_try(exchange, status, flags, now)

    def end_request(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        if self.witness.records:
            self.witness.end_request(exchange, status, flags)
        super().end_request(exchange, status, flags, size)


@pytest.fixture
def witness(world: World, monkeypatch: pytest.MonkeyPatch) -> Witness:
    monkeypatch.setattr("busmesh.agent.witness.time", world.clock)
    witness = Witness(world.upstreams)
    notes = Witnessing()
    notes.witness = witness
    world.outbound._observer = world.notes = notes
    return witness


def ask_with(world: World, traceparent: str) -> FakeTransport:
    client = world.client()
    client.protocol.data_received(request(f"traceparent: {traceparent}", host="Host: orders"))
    return client


def test_a_request_tried_twice_is_written_down_whole(world: World, witness: Witness) -> None:
    first, second = world.instance("orders-1"), world.instance("orders-2")
    second.endpoint.weight = 300
    second.endpoint.active = 5
    first.inbound.closed_because = "it is draining"
    ask_with(world, witness.expect(world.clock.now))
    world.pump()
    second.app.answer(b"done", 201)
    world.pump()
    [found] = witness.view(EMPTY, Caller(ServiceName("shop")))
    view: Any = found
    assert (view["done"], view["status"], view["rule"]) == (True, 201, "default")
    assert [(one["instance"], one["status"], one["flags"]) for one in view["tries"]] == [
        ("orders-1", 503, "UH"),
        ("orders-2", 201, ""),
    ]
    candidates = {row["instance"]: row for row in view["tries"][0]["candidates"]}
    assert (candidates["orders-2"]["active"], candidates["orders-2"]["share"]) == (5, 75.0)
    assert (candidates["orders-1"]["active"], candidates["orders-1"]["share"]) == (0, 25.0)
    assert view["tries"][0]["why"].startswith("of two drawn by weight")
    assert view["tries"][1]["why"].endswith("tried before: orders-1")
    assert view["explanation"]["taken"]["rule"] == "default"


def test_what_was_not_asked_for_is_not_written_down(world: World, witness: Witness) -> None:
    orders = world.instance("orders-1")
    expected = witness.expect(world.clock.now)
    ask_with(world, f"00-{'ab' * 16}-{'cd' * 8}-01")
    world.ask()
    world.pump()
    orders.app.answer(b"")
    orders.app.answer(b"")
    world.pump()
    [found] = witness.view(EMPTY, Caller(ServiceName("shop")))
    assert (found["trace"], found["done"], found["tries"]) == (expected[3:35], False, [])


def test_what_is_awaited_has_a_bound_and_an_end(world: World, witness: Witness) -> None:
    asked = [witness.expect(world.clock.now)[3:35].encode() for _ in range(MAX_REQUESTS + 3)]
    assert list(witness.records) == asked[3:]
    world.clock.now += KEPT_S + 1
    orders = world.instance("orders-1")
    world.ask()
    world.pump()
    orders.app.answer(b"")
    world.pump()
    assert not witness.records
