"""Bodies in parts over the whole path: both agents, the bus between them, a client and an application.

Only the sockets and the bus are played. A body arrives as it was sent, memory stays bounded however slow its
reader is, and in the end nothing is left anywhere.
"""

from __future__ import annotations

import pytest

from busmesh.relay.flow import MAX_WINDOW
from busmesh.wire.stream import INITIAL_CREDIT
from tests.relay.apps import WiredApp
from tests.relay.bodies import (
    LAST,
    MB,
    MOST,
    answer,
    ask,
    chunks,
    error,
    finish,
    got,
    ok,
    pattern,
    post,
    read_slowly,
    uploading,
)
from tests.relay.transcript import request
from tests.relay.wires import READ, read_message
from tests.relay.world import Instance, World


@pytest.fixture
def orders(world: World) -> Instance:
    return world.instance("orders-1", app=WiredApp)


# -- whole bodies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, INITIAL_CREDIT, INITIAL_CREDIT + 1, READ + 1, 4 * MB])
def test_an_upload_arrives_as_it_was_sent(world: World, orders: Instance, framing: str, size: int) -> None:
    data = pattern(0, size)
    client = ask(world, post(data, framing))
    message = orders.app.got()
    assert (message.body, message.whole, message.rest) == (data, True, b"")
    orders.app.wire.arrive(answer(b"thanks", "length"))
    world.pump()
    assert (got(client).status, got(client).body) == (200, b"thanks")
    client.arrive(request())
    world.pump()
    assert len(orders.app.wires) == 1, "and both connections serve the next request"
    orders.app.wire.arrive(answer(b"next", "length"))
    world.pump()
    assert read_message(got(client).rest).body == b"next"
    finish(world, orders)


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
@pytest.mark.parametrize("size", [0, 1, INITIAL_CREDIT, INITIAL_CREDIT + 1, READ + 1, 4 * MB])
def test_a_download_arrives_as_it_was_sent(world: World, orders: Instance, framing: str, size: int) -> None:
    data = pattern(0, size)
    client = ask(world, request())
    orders.app.wire.arrive(answer(data, framing, "X-Own: 1"), end=framing == "until close")
    world.pump()
    message = got(client)
    assert (message.body, message.whole, message.rest) == (data, True, b"")
    assert message.header("x-own") == "1"
    assert message.header("connection") is None
    client.arrive(request())
    world.pump()
    orders.app.wire.arrive(answer(b"next", "length"))
    world.pump()
    assert read_message(got(client).rest).body == b"next"
    assert len(orders.app.wires) == (2 if framing == "until close" else 1)
    finish(world, orders)


def test_a_slow_application_makes_the_client_wait(world: World, orders: Instance) -> None:
    data = pattern(0, 8 * MB)
    client = ask(world, post(data[:10], "length").replace(b"h: 10\r", b"h: %d\r" % len(data)))
    wire = orders.app.wire
    wire.blocked = True
    client.arrive(data[10:])
    world.pump()
    assert not client.is_reading()
    while client.undelivered:
        under_way = len(data) - client.undelivered - (len(orders.app.got().body) - wire.unread)
        assert under_way <= MOST
        wire.take(min(30_000, wire.unread))
        wire.blocked = True
        world.pump()
    read_slowly(world, wire, 30_000)
    assert client.is_reading()
    assert orders.app.got().body == data
    wire.blocked = False
    wire.arrive(answer(b"", "length"))
    world.pump()
    assert got(client).status == 200
    finish(world, orders)


def test_a_slow_client_makes_the_application_wait(world: World, orders: Instance) -> None:
    data = pattern(0, 8 * MB)
    client = ask(world, request())
    client.blocked = True
    wire = orders.app.wire
    wire.arrive(answer(data, "chunked"))
    world.pump()
    assert not wire.is_reading()
    while wire.undelivered:
        under_way = 8 * MB - wire.undelivered - (len(got(client).body) - client.unread)
        assert under_way <= MOST
        client.take(min(30_000, client.unread))
        client.blocked = True
        world.pump()
    read_slowly(world, client, 30_000)
    assert wire.is_reading()
    assert (got(client).body, got(client).whole) == (data, True)
    finish(world, orders)


def test_both_bodies_at_once(world: World, orders: Instance) -> None:
    """An application that answers what comes while it comes."""
    client = ask(world, request("Transfer-Encoding: chunked", line="POST / HTTP/1.1"))
    wire = orders.app.wire
    wire.arrive(ok("Transfer-Encoding: chunked"))
    for at in range(0, 2 * MB, 100_000):
        piece = pattern(at, 100_000)
        client.arrive(chunks(piece))
        world.pump()
        assert orders.app.got().body.endswith(piece)
        wire.arrive(chunks(piece))
        world.pump()
        assert got(client).body.endswith(piece)
    client.arrive(LAST)
    world.pump()
    assert orders.app.got().whole
    assert not got(client).whole
    wire.arrive(LAST)
    world.pump()
    assert (got(client).body, got(client).whole) == (pattern(0, 2 * MB), True)
    finish(world, orders)


def test_a_connection_is_not_read_on_for_a_response_that_it_has_brought(
    world: World, orders: Instance
) -> None:
    """It serves another request while the end of the last response waits for a slow client."""
    first = ask(world, request(line="GET /1 HTTP/1.1"))
    first.blocked = True
    wire = orders.app.wire
    wire.arrive(answer(pattern(0, 1_280_000), "length"))
    world.pump()
    assert len(got(first).body) < 1_280_000
    second = ask(world, request(line="GET /2 HTTP/1.1"))
    second.blocked = True
    assert orders.app.wires == [wire]
    wire.arrive(answer(pattern(1, 4 * MB), "length"))
    world.pump()
    assert not wire.is_reading()
    left = wire.undelivered
    read_slowly(world, first, 50_000)
    assert got(first).body == pattern(0, 1_280_000)
    assert (wire.is_reading(), wire.undelivered) == (False, left)
    read_slowly(world, second, 50_000)
    assert got(second).body == pattern(1, 4 * MB)
    finish(world, orders)


def test_many_streams_share_the_memory_and_all_arrive(world: World, orders: Instance) -> None:
    """What was granted to the first ones is not taken back; from then on each has its share."""
    world.outbound.tries.streams._windows.budget = 8 * INITIAL_CREDIT
    clients = [ask(world, request(line=f"GET /{n} HTTP/1.1")) for n in range(20)]
    for client in clients:
        client.blocked = True
    for n, wire in enumerate(orders.app.wires):
        wire.arrive(answer(pattern(n, 2 * MB), "length"))
    world.pump()
    most = 2 * MAX_WINDOW
    while any(client.unread for client in clients):
        assert max(client.unread for client in clients) <= most
        for client in clients:
            client.take()
            client.blocked = True
        world.pump()
        most = 2 * INITIAL_CREDIT
    for n, client in enumerate(clients):
        assert got(client).body == pattern(n, 2 * MB)
    finish(world, orders)


def test_a_congested_bus_holds_bodies_back_and_loses_nothing(world: World, orders: Instance) -> None:
    up, down = pattern(0, 400_000), pattern(7, 300_000)
    whole = post(up, "length")
    client = ask(world, whole[: -len(up)] + up[:100_000])
    world.bus.set_congested(True)
    client.arrive(up[100_000:200_000])
    world.pump()
    assert orders.app.got().body == up[:100_000]
    assert not client.is_reading()
    client.arrive(up[200_000:])
    world.bus.set_congested(False)
    world.pump()
    assert orders.app.got().body == up
    orders.app.wire.arrive(answer(down, "length"))
    world.bus.set_congested(True)
    world.pump()
    assert got(client).body == b""
    world.bus.set_congested(False)
    world.pump()
    assert (got(client).body, got(client).whole) == (down, True)
    finish(world, orders)


def test_time_runs_for_the_answer_when_a_congested_bus_has_let_the_end_out(
    world: World, orders: Instance
) -> None:
    """The end waits behind bytes that wait for the bus; who sends it then knows of no request."""
    client = ask(world, request("Transfer-Encoding: chunked", line="POST / HTTP/1.1"))
    world.bus.set_congested(True)
    client.arrive(chunks(b"abc") + LAST)
    world.pump()
    world.after(20.0, 0.1)
    assert client.written == b""
    world.bus.set_congested(False)
    world.after(14.8, 0.1)
    assert client.written == b""
    world.after(0.4, 0.1)
    assert error(client) == (504, "timeout")
    finish(world, orders)


# -- trailers and interim responses ----------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 3 * MB])
def test_trailers_follow_both_bodies(world: World, orders: Instance, size: int) -> None:
    data = pattern(0, size)
    head = request("Transfer-Encoding: chunked", "Trailer: X-Sum", line="POST / HTTP/1.1")
    client = ask(world, head + chunks(data) + b"0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n")
    message = orders.app.got()
    assert (message.body, message.trailers, message.whole) == (data, b"X-Sum: 1\r\n", True)
    reply = (
        ok("Transfer-Encoding: chunked") + chunks(data) + b"0\r\nGrpc-Status: 0\r\nSet-Cookie: a=b\r\n\r\n"
    )
    orders.app.wire.arrive(reply)
    world.pump()
    message = got(client)
    assert (message.body, message.trailers, message.whole) == (data, b"Grpc-Status: 0\r\n", True)
    finish(world, orders)


def test_trailers_have_no_place_behind_a_length(world: World, orders: Instance) -> None:
    """Nor before a client of HTTP/1.0, which knows no chunks."""
    client = ask(world, request(line="GET / HTTP/1.0"))
    orders.app.wire.arrive(ok("Transfer-Encoding: chunked") + chunks(b"abc") + b"0\r\nX: y\r\n\r\n")
    world.pump()
    assert client.written.endswith(b"\r\n\r\nabc")
    assert client.is_closing()
    finish(world, orders)


def test_interim_responses_come_before_the_final_one(world: World, orders: Instance) -> None:
    client = ask(world, request())
    hints = ok("Link: </a>", "X-Busmesh-Flags: UH", status="103 Early Hints")
    orders.app.wire.arrive(hints + ok(status="100 Continue"))
    world.pump()
    assert client.written == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "100 was not asked for"
    orders.app.wire.arrive(hints)
    world.pump()
    orders.app.wire.arrive(answer(pattern(0, MB), "length"))
    world.pump()
    first = got(client)
    second = read_message(first.rest)
    final = read_message(second.rest)
    assert [first.status, second.status, final.status] == [103, 103, 200]
    assert (final.body, final.whole) == (pattern(0, MB), True)
    finish(world, orders)


def test_an_http10_client_gets_no_interim_response(world: World, orders: Instance) -> None:
    client = ask(world, request(line="GET / HTTP/1.0"))
    orders.app.wire.arrive(ok("Link: </a>", status="103 Early Hints") + answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    finish(world, orders)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_100_continue_is_asked_and_told_from_end_to_end(world: World, orders: Instance, framing: str) -> None:
    data = pattern(0, MB)
    whole = post(data, framing, "Expect: 100-continue")
    head, blank, body = whole.partition(b"\r\n\r\n")
    client = ask(world, head + blank)
    assert orders.app.got().header("expect") == "100-continue"
    assert client.written == b""
    orders.app.wire.arrive(ok(status="100 Continue"))
    world.pump()
    assert client.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.arrive(body)
    world.pump()
    assert (orders.app.got().body, orders.app.got().whole) == (data, True)
    orders.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert read_message(got(client).rest).body == b"ok"
    finish(world, orders)


def test_an_application_may_refuse_what_was_only_announced(world: World, orders: Instance) -> None:
    """The client may send all the same or not: nobody knows, so its connection is not used again."""
    client = ask(world, request("Expect: 100-continue", "Content-Length: 1000000", line="PUT / HTTP/1.1"))
    orders.app.wire.arrive(ok("Content-Length: 2", status="413 Too Large") + b"no")
    world.pump()
    assert (got(client).status, got(client).body) == (413, b"no")
    assert got(client).header("connection") == "close"
    assert client.is_ended()
    assert orders.app.wire.is_closing(), "the application waits for a body that will not come"
    finish(world, orders)


# -- answers before their time ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3 * MB])
def test_an_answer_may_come_before_the_upload_has_ended(world: World, orders: Instance, size: int) -> None:
    """RFC 9110 section 7.5: who answers early does not want the rest; the client is told and let go."""
    client = uploading(world)
    wire = orders.app.wire
    wire.arrive(answer(pattern(0, size), "length"))
    world.pump()
    assert (got(client).body, got(client).whole) == (pattern(0, size), True)
    assert client.is_ended()
    assert not client.is_closing(), "what it still sends is read for a while, else it could not read"
    assert wire.is_closing()
    client.arrive(pattern(300_000, MB))
    world.pump()
    assert client.undelivered == 0
    finish(world, orders)


def test_an_early_answer_that_is_read_slowly_does_not_pile_up_the_upload(
    world: World, orders: Instance
) -> None:
    """The application is done and its response still on the way: nobody there takes the rest of the body."""
    client = uploading(world, size=50 * MB)
    client.blocked = True
    orders.app.wire.arrive(answer(pattern(0, 1_280_000), "length"))
    world.pump()
    assert orders.app.wire.is_closing()
    [work] = orders.inbound._streams.values()
    client.arrive(pattern(300_000, 4 * MB))
    world.pump()
    assert work.call is not None
    assert work.call.take_early() == []
    read_slowly(world, client, 100_000)
    assert (got(client).body, got(client).whole) == (pattern(0, 1_280_000), True)
    finish(world, orders)


def test_after_an_early_answer_to_a_whole_upload_the_connection_serves_on(
    world: World, orders: Instance
) -> None:
    """The body had come to its end and waited for the application, which did not want it."""
    whole = post(pattern(0, 1_280_000), "length")
    client = ask(world, whole[:1000])
    orders.app.wire.blocked = True
    client.arrive(whole[1000:])
    world.pump()
    assert client.undelivered == 0
    assert not orders.app.got().whole
    orders.app.wire.arrive(answer(b"no", "length", "Connection: close"))
    world.pump()
    assert (got(client).body, got(client).whole) == (b"no", True)
    assert not client.is_ended()
    client.arrive(request(line="GET /next HTTP/1.1"))
    world.pump()
    orders.app.wire.arrive(answer(b"next", "length"))
    world.pump()
    assert read_message(got(client).rest).body == b"next"
    finish(world, orders)
