"""Connections that switch to another protocol: either side speaks, ends and breaks by itself."""

from __future__ import annotations

import pytest

from busmesh.relay.client.connection import Connection
from busmesh.relay.inbound.websocket import GOING_AWAY
from tests.relay.apps import WiredApp
from tests.relay.bodies import (
    CHAT,
    MB,
    SWITCH,
    answer,
    ask,
    downloading,
    error,
    finish,
    got,
    ok,
    pattern,
    preferred,
    read_slowly,
    switched,
    told,
)
from tests.relay.transcript import request
from tests.relay.world import Instance, World


@pytest.fixture
def orders(world: World) -> Instance:
    return world.instance("orders-1", app=WiredApp)


# -- other protocols -------------------------------------------------------------------------------


def test_another_protocol_is_carried_both_ways(world: World, orders: Instance) -> None:
    client = ask(world, CHAT)
    asked = orders.app.got()
    assert (asked.line, asked.header("connection"), asked.header("upgrade")) == (
        "GET /chat HTTP/1.1",
        "upgrade",
        "websocket",
    )
    assert asked.header("sec-websocket-key") == "x"
    assert asked.header("transfer-encoding") is None
    orders.app.wire.arrive(SWITCH + b"hello")
    world.pump()
    answered = got(client)
    assert (answered.status, answered.header("upgrade"), answered.header("connection")) == (
        101,
        "websocket",
        "upgrade",
    )
    assert answered.header("x-own") == "1"
    assert told(client) == b"hello"
    for at in range(0, 3 * MB, 300_000):
        client.arrive(pattern(at, 300_000))
        orders.app.wire.arrive(pattern(at + 9, 300_000))
        world.pump()
    assert told(orders.app.wire) == pattern(0, 3 * MB)
    assert told(client) == b"hello" + pattern(9, 3 * MB)
    client.arrive(b"", end=True)
    orders.app.wire.arrive(b"", end=True)
    world.pump()
    assert client.is_lost()
    assert orders.app.wire.is_lost()
    assert world.notes.requests == ["101"]
    finish(world, orders)


def test_what_a_client_sends_before_the_switch_is_kept_for_it(world: World, orders: Instance) -> None:
    """The first bytes may come in one read with the request; nothing of them may pass for its body."""
    client = ask(world, CHAT + b"early ")
    client.arrive(b"birds")
    world.pump()
    assert told(orders.app.wire) == b""
    orders.app.wire.arrive(SWITCH)
    world.pump()
    client.arrive(b" sing")
    world.pump()
    assert told(orders.app.wire) == b"early birds sing"
    client.lose()
    world.pump()
    finish(world, orders)


def test_only_so_much_is_kept_before_the_switch(world: World, orders: Instance) -> None:
    data = pattern(0, 3 * MB)
    client = ask(world, CHAT + data)
    world.after(1.0)
    assert client.undelivered > 2 * MB
    orders.app.wire.arrive(SWITCH)
    world.pump()
    assert told(orders.app.wire) == data
    client.lose()
    world.pump()
    finish(world, orders)


@pytest.mark.parametrize("first", ["client", "application"])
def test_each_side_of_a_switched_connection_ends_by_itself(
    world: World, orders: Instance, first: str
) -> None:
    client = switched(world, orders)
    wire = orders.app.wire
    one, other = (client, wire) if first == "client" else (wire, client)
    one.arrive(pattern(0, 100_000), end=True)
    world.pump()
    assert told(other) == pattern(0, 100_000)
    assert other.is_ended()
    assert not one.is_closing()
    assert not other.is_closing()
    other.arrive(pattern(1, 2 * MB), end=True)
    world.pump()
    assert told(one) == pattern(1, 2 * MB)
    assert one.is_lost()
    assert other.is_lost()
    assert world.notes.requests == ["101"]
    assert world.listener.statistics()["connections"] == 0
    finish(world, orders)


@pytest.mark.parametrize("first", ["client", "application"])
def test_what_waits_for_a_slow_reader_still_comes_after_both_have_ended(
    world: World, orders: Instance, first: str
) -> None:
    client = switched(world, orders)
    wire = orders.app.wire
    sends, reads = (client, wire) if first == "client" else (wire, client)
    reads.blocked = True
    data = pattern(0, 1_280_000)
    sends.arrive(data, end=True)
    world.pump()
    assert sends.undelivered == 0
    assert len(told(reads)) < len(data)
    reads.arrive(b"bye", end=True)
    world.pump()
    assert told(sends) == b"bye"
    read_slowly(world, reads, 50_000)
    assert told(reads) == data
    reads.blocked = False
    world.pump()
    assert reads.is_lost()
    assert sends.is_lost()
    finish(world, orders)


def test_a_client_may_end_its_side_before_the_switch(
    world: World, orders: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "_look_for_client", lambda self: None)  # asks the loop for a timer
    client = ask(world, CHAT + b"all I have to say")
    client.arrive(b"", end=True)
    world.pump()
    orders.app.wire.arrive(SWITCH)
    world.pump()
    assert told(orders.app.wire) == b"all I have to say"
    assert orders.app.wire.is_ended()
    orders.app.wire.arrive(b"good", end=True)
    world.pump()
    assert told(client) == b"good"
    assert client.is_lost()
    finish(world, orders)


def test_what_waits_for_the_bus_still_goes_out_after_both_have_ended(
    world: World, orders: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "_look_for_client", lambda self: None)
    client = ask(world, CHAT + b"early")
    client.arrive(b"", end=True)
    world.pump()
    world.bus.set_congested(True)
    orders.app.wire.arrive(SWITCH, end=True)
    world.pump()
    assert client.is_lost(), "it has said all, and got all"
    assert told(orders.app.wire) == b""
    world.bus.set_congested(False)
    world.pump()
    assert told(orders.app.wire) == b"early"
    assert orders.app.wire.is_lost()
    finish(world, orders)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
@pytest.mark.parametrize("size", [2, MB])
def test_an_application_that_does_not_switch_answers(
    world: World, orders: Instance, framing: str, status: str, size: int
) -> None:
    """The client's parser and ours disagree about what follows, so its connection is not used again."""
    client = ask(world, CHAT)
    data = pattern(0, size)
    orders.app.wire.arrive(answer(data, framing).replace(b"200 OK", status.encode()))
    world.pump()
    message = got(client)
    assert (message.line, message.body, message.whole) == (f"HTTP/1.1 {status}", data, True)
    assert message.header("upgrade") is None
    assert client.is_ended()
    assert orders.app.wire.is_closing(), "the application may still take what follows for that protocol"
    assert world.outbound.statistics()["active"] == 0
    finish(world, orders)


@pytest.mark.parametrize(
    "reply",
    [
        ok("Connection: upgrade", "Upgrade: mqtt", status="101 Switching Protocols"),
        ok("Connection: upgrade", status="101 Switching Protocols"),
    ],
)
def test_an_application_that_switches_to_another_protocol_is_not_followed(
    world: World, orders: Instance, reply: bytes
) -> None:
    client = ask(world, CHAT)
    orders.app.wire.arrive(reply)
    world.pump()
    assert error(client) == (502, "upgrade_not_supported")
    assert orders.app.wire.is_lost()
    finish(world, orders)


def test_an_application_that_switches_unasked_is_not_followed(world: World, orders: Instance) -> None:
    client = ask(world, request())
    orders.app.wire.arrive(SWITCH)
    world.pump()
    assert error(client) == (502, "upgrade_not_supported")
    finish(world, orders)


@pytest.mark.parametrize("who", ["client", "application"])
def test_a_switched_connection_that_breaks_breaks_the_other(world: World, orders: Instance, who: str) -> None:
    client = switched(world, orders)
    wire = orders.app.wire
    (client if who == "client" else wire).lose(ConnectionResetError())
    world.pump()
    assert client.is_lost()
    assert wire.is_lost()
    finish(world, orders)


def test_an_application_that_ends_its_side_and_then_breaks(world: World, orders: Instance) -> None:
    client = switched(world, orders)
    orders.app.wire.arrive(b"bye", end=True)
    world.pump()
    assert told(client) == b"bye"
    orders.app.wire.lose(ConnectionResetError())
    world.pump()
    assert client.is_lost()
    finish(world, orders)


def test_an_upgrade_that_nobody_answers_times_out(world: World, orders: Instance) -> None:
    client = ask(world, CHAT)
    world.after(15.1, 0.1)
    assert error(client) == (504, "timeout")
    assert orders.app.wire.is_lost()
    finish(world, orders)


def test_an_upgrade_that_is_refused_is_tried_elsewhere(world: World) -> None:
    first, second = preferred(world, "unreachable")
    client = ask(world, CHAT + b"early")
    second.endpoint.active -= 5
    second.app.wire.arrive(SWITCH)
    world.pump()
    assert told(second.app.wire) == b"early"
    client.lose()
    world.pump()
    finish(world, first, second)


# -- draining --------------------------------------------------------------------------------------

HELLO = b"\x81\x05hello"


def test_a_websocket_of_an_instance_that_drains_is_told_to_go(world: World, orders: Instance) -> None:
    client = switched(world, orders)
    orders.app.wire.arrive(HELLO)
    world.pump()
    orders.inbound.go_away()
    orders.inbound.go_away()
    orders.app.wire.arrive(HELLO)
    world.pump()
    assert told(client) == HELLO + GOING_AWAY, "once, and nothing behind it"
    client.arrive(b"\x88\x80mask", end=True)
    world.pump()
    assert told(orders.app.wire) == b"\x88\x80mask", "the application hears that its client goes"
    orders.app.wire.arrive(b"", end=True)
    world.pump()
    finish(world, orders)


@pytest.mark.parametrize("cut", range(1, len(HELLO)))
def test_a_frame_under_way_is_not_cut_by_that(world: World, orders: Instance, cut: int) -> None:
    client = switched(world, orders)
    orders.app.wire.arrive(HELLO[:cut])
    world.pump()
    orders.inbound.go_away()
    assert told(client) == HELLO[:cut]
    orders.app.wire.arrive(HELLO[cut:] + HELLO + HELLO[:3])
    world.pump()
    assert told(client) == HELLO * 2 + GOING_AWAY
    client.lose()
    world.pump()
    finish(world, orders)


def test_a_websocket_that_is_closing_is_not_told_twice(world: World, orders: Instance) -> None:
    client = switched(world, orders)
    close = b"\x88\x02\x03\xe8"
    orders.app.wire.arrive(close)
    world.pump()
    orders.inbound.go_away()
    world.pump()
    assert told(client) == close
    client.lose()
    world.pump()
    finish(world, orders)


def test_nothing_is_put_into_another_protocol_nor_into_a_response(world: World, orders: Instance) -> None:
    other = ask(world, CHAT.replace(b"websocket", b"mqtt"))
    orders.app.wire.arrive(SWITCH.replace(b"websocket", b"mqtt") + HELLO)
    world.pump()
    down = downloading(world, orders)
    before = down.written
    orders.inbound.go_away()
    world.pump()
    assert told(other) == HELLO
    assert down.written == before
