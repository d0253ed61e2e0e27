"""Bodies in parts over the whole path: both agents, the bus between them, a client and an application.

Only the sockets and the bus are played. Whatever is lost, slow, gone or hostile: a body arrives as it was
sent, or nobody takes it for whole; memory stays bounded; and in the end nothing is left anywhere.
"""

from __future__ import annotations

import json

import pytest

from busmesh.relay.clientconnection import Connection
from busmesh.relay.flow import MAX_WINDOW
from busmesh.relay.upload import KEPT
from busmesh.wire.frame import Kind
from busmesh.wire.stream import INITIAL_CREDIT
from tests.relay.test_flow import pattern
from tests.relay.transcript import request
from tests.relay.wires import READ, FakeTransport, Message, read_message
from tests.relay.world import Instance, WiredApp, World

MB = 1_000_000
#: What one direction of one stream may hold: its window, and what is read and written at either end.
MOST = MAX_WINDOW + 4 * READ


@pytest.fixture
def orders(world: World) -> Instance:
    return world.instance("orders-1", app=WiredApp)


def wired(world: World, *names: str) -> list[Instance]:
    return [world.instance(name, app=WiredApp) for name in names]


def chunks(data: bytes, size: int = 50_000) -> bytes:
    """Write ``data`` in chunks, without the last one."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


LAST = b"0\r\n\r\n"


def post(body: bytes, framing: str, *headers: str, method: str = "POST") -> bytes:
    """Write an upload."""
    line = f"{method} /up HTTP/1.1"
    if framing == "chunked":
        return request("Transfer-Encoding: chunked", *headers, line=line) + chunks(body) + LAST
    return request(f"Content-Length: {len(body)}", *headers, line=line, body=body)


def ok(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def answer(body: bytes, framing: str, *headers: str) -> bytes:
    """Write a download."""
    if framing == "chunked":
        return ok("Transfer-Encoding: chunked", *headers) + chunks(body) + LAST
    if framing == "until close":
        return ok("Connection: close", *headers) + body
    return ok(f"Content-Length: {len(body)}", *headers) + body


def ask(world: World, data: bytes) -> FakeTransport:
    client = world.client()
    client.arrive(data)
    world.pump()
    return client


def got(client: FakeTransport) -> Message:
    return read_message(client.written)


def error(client: FakeTransport) -> tuple[int, str]:
    """Return status and code of the mesh's own answer."""
    message = got(client)
    assert message.header("x-busmesh-flags") is not None
    assert message.whole
    return message.status, json.loads(message.body)["error"]


def read_slowly(world: World, wire: FakeTransport, step: int) -> None:
    """Have a blocked reader take what is there, and what follows it, bit by bit."""
    while wire.unread:
        wire.take(min(step, wire.unread))
        wire.blocked = True
        world.pump()


def finish(world: World, *instances: Instance) -> None:
    """Everybody has what they wanted: nothing is left."""
    for client in world.clients:
        if not client.is_lost():
            client.arrive(b"", end=True)
    world.pump()
    world.over()
    for instance in instances:
        assert instance.app.statistics()["pending"] == 0
        assert all(connection.call is None for connection in instance.app.connections)


def kinds(world: World) -> list[int]:
    return [message.kind for message in world.bus.queue]


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


def test_many_streams_share_the_memory_and_all_arrive(world: World, orders: Instance) -> None:
    """What was granted to the first ones is not taken back; from then on each has its share."""
    world.outbound._streams._windows.budget = 8 * INITIAL_CREDIT
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


# -- messages that get lost ------------------------------------------------------------------------


def uploading(world: World, size: int = 2 * MB, sent: int = 300_000) -> FakeTransport:
    """A client has sent a part of its body, and the application has it."""
    whole = post(pattern(0, size), "length")
    return ask(world, whole[: len(whole) - size + sent])


def downloading(
    world: World, orders: Instance, sent: int = 300_000, framing: str = "chunked"
) -> FakeTransport:
    """An application has sent a part of its response, and the client has it."""
    client = ask(world, request())
    head = answer(b"", "chunked")[:-5] if framing == "chunked" else ok(f"Content-Length: {2 * MB}")
    data = pattern(0, sent)
    orders.app.wire.arrive(head + (chunks(data) if framing == "chunked" else data))
    world.pump()
    assert got(client).body == data
    return client


def broken(client: FakeTransport) -> None:
    """The response has begun and can never be taken for whole: the connection is cut."""
    assert client.is_lost()
    assert not client.is_ended(), "a reset, and no end"
    assert not got(client).whole


def lose(world: World, kind: Kind) -> None:
    """Take the oldest message of a kind out of the bus."""
    found = next(message for message in world.bus.queue if message.kind == kind)
    world.bus.queue.remove(found)


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_lost_part_of_a_download_breaks_it_at_both_ends(
    world: World, orders: Instance, framing: str
) -> None:
    client = downloading(world, orders, framing=framing)
    wire = orders.app.wire
    for _ in range(2):
        wire.arrive(chunks(pattern(0, 1000)) if framing == "chunked" else pattern(0, 1000))
        wire.deliver()
    lose(world, Kind.DATA)
    world.pump()
    broken(client)
    assert len(got(client).body) == 300_000, "nothing behind the gap"
    assert wire.is_lost(), "the application hears that nobody wants the rest"
    assert world.notes.requests == ["200 DPE"]
    assert world.notes.served == ["200 DC"]
    finish(world, orders)


def test_a_lost_end_of_a_download_is_found_by_a_probe(world: World, orders: Instance) -> None:
    client = downloading(world, orders)
    orders.app.wire.arrive(LAST)
    orders.app.wire.deliver()
    lose(world, Kind.END)
    world.after(1.1)
    broken(client)
    assert not orders.app.wire.is_closing(), "the application has done its part"
    finish(world, orders)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_lost_part_of_an_upload_ends_the_request(world: World, orders: Instance, method: str) -> None:
    """What the application got may have had an effect, and the body is not here any more to be sent again."""
    whole = post(pattern(0, MB), "length", method=method)
    client = ask(world, whole[:300_000])
    for at in (300_000, 400_000):
        client.arrive(whole[at : at + 100_000])
        client.deliver()
    lose(world, Kind.DATA)
    world.pump()
    assert error(client) == (502, "stream_broken")
    assert got(client).header("connection") == "close"
    assert orders.app.wire.is_lost()
    assert not orders.app.got().whole
    finish(world, orders)


def test_a_lost_part_of_a_small_idempotent_upload_is_mended_by_another_try(
    world: World, orders: Instance
) -> None:
    client = ask(world, request("Transfer-Encoding: chunked", line="PUT / HTTP/1.1"))
    client.arrive(chunks(b"abc"))
    client.deliver()
    lose(world, Kind.DATA)
    client.arrive(chunks(b"def") + LAST)
    world.pump()
    first, second = orders.app.wires
    assert first.is_lost()
    assert read_message(first.written).body == b""
    assert (read_message(second.written).body, read_message(second.written).whole) == (b"abcdef", True)
    second.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    finish(world, orders)


def test_a_lost_end_of_an_upload_is_a_timeout(world: World, orders: Instance) -> None:
    client = uploading(world, sent=2 * MB - 10)
    client.arrive(pattern(2 * MB - 10, 10))
    client.deliver()
    lose(world, Kind.END)
    world.after(15.2, 0.1)
    assert error(client) == (504, "timeout")
    assert orders.app.wire.is_lost()
    finish(world, orders)


def test_a_lost_opening_of_an_upload_is_found_and_sent_again(world: World, orders: Instance) -> None:
    """The parts that followed it mean nothing to an instance that has not seen it."""
    client = world.client()
    whole = post(pattern(0, MB), "length")
    client.arrive(whole[:200_000])
    client.deliver()
    lose(world, Kind.REQUEST_OPENING)
    world.pump()
    assert orders.app.wires == []
    client.arrive(whole[200_000:])
    world.after(0.2)
    assert (orders.app.got().body, orders.app.got().whole) == (pattern(0, MB), True)
    orders.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    assert world.notes.tries == ["orders-1 503 UF", "orders-1 200"]
    finish(world, orders)


def test_a_lost_grant_costs_a_moment(world: World, orders: Instance) -> None:
    """Both ways: nobody else would ever say it again."""
    client = world.client()
    client.arrive(post(pattern(0, MB), "length"))
    for direction in ("up", "down"):
        grants = 0
        for _ in range(100):
            while world.bus.queue:
                if world.bus.queue[0].kind == Kind.CREDIT and grants < 2:
                    grants += 1
                    world.lose()
                else:
                    world.bus.deliver(world.bus.queue.popleft())
            if not sum(wire.deliver() for wire in world.wires()):
                break
        assert grants > 0
        if direction == "up":
            assert not orders.app.got().whole
            world.after(1.1)
            assert (orders.app.got().body, orders.app.got().whole) == (pattern(0, MB), True)
            orders.app.wire.arrive(answer(pattern(0, MB), "length"))
        else:
            assert not got(client).whole
            world.after(2.1)
            assert (got(client).body, got(client).whole) == (pattern(0, MB), True)
    finish(world, orders)


def test_messages_that_come_twice_change_nothing(world: World, orders: Instance) -> None:
    data = pattern(0, MB)
    client = world.client()
    client.arrive(post(data, "chunked"))

    def pump_twice() -> None:
        while world.bus.queue or sum(wire.deliver() for wire in world.wires()):
            while world.bus.queue:
                message = world.bus.queue.popleft()
                world.bus.deliver(message)
                world.bus.deliver(message)

    pump_twice()
    assert (orders.app.got().body, orders.app.got().whole) == (data, True)
    orders.app.wire.arrive(answer(data, "chunked"))
    pump_twice()
    assert (got(client).body, got(client).whole) == (data, True)
    assert len(orders.app.wires) == 1
    finish(world, orders)


@pytest.mark.parametrize("late", range(6))
def test_parts_in_another_order_break_a_download(world: World, orders: Instance, late: int) -> None:
    client = downloading(world, orders)
    wire = orders.app.wire
    for n in range(6):
        wire.arrive(chunks(pattern(n, 1000)))
        wire.deliver()
    wire.arrive(LAST)
    wire.deliver()
    queue = list(world.bus.queue)
    queue.insert(late + 1, queue.pop(late))
    world.bus.queue.clear()
    world.bus.queue.extend(queue)
    world.pump()
    broken(client)
    assert got(client).body == pattern(0, 300_000) + b"".join(pattern(n, 1000) for n in range(late))
    finish(world, orders)


# -- agents that go --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["die", "restart", "freeze"])
def test_an_instance_that_goes_breaks_its_downloads(world: World, orders: Instance, how: str) -> None:
    client = downloading(world, orders)
    getattr(orders, how)()
    world.after(6.5)
    broken(client)
    assert world.notes.requests == ["200 UF"]
    world.settled()


@pytest.mark.parametrize("how", ["die", "restart", "freeze"])
def test_an_instance_that_goes_ends_its_uploads(world: World, orders: Instance, how: str) -> None:
    """What it had got is not sent to another: nobody knows what became of it."""
    client = uploading(world)
    other = world.instance("orders-2", app=WiredApp)
    getattr(orders, how)()
    world.after(2.0)
    assert error(client)[0] == 503
    assert error(client)[1] in ("instance_gone", "unknown_session", "instance_silent")
    assert other.app.wires == []
    client.arrive(pattern(0, MB))
    world.pump()
    assert client.undelivered == 0, "what the client still sends is read and dropped"
    world.settled()


def test_an_instance_that_goes_before_it_took_a_body_is_replaced(world: World) -> None:
    first, second = wired(world, "orders-1", "orders-2")
    first.endpoint.active = -1  # the balancer prefers it
    first.die()
    data = pattern(0, MB)
    client = world.client()
    client.arrive(post(data, "length"))
    client.deliver()
    first.endpoint.active = 1
    world.after(0.5)
    assert first.app.wires == []
    assert (second.app.got().body, second.app.got().whole) == (data, True)
    second.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    finish(world, first, second)


def test_a_lost_bus_breaks_everything_at_both_ends(world: World, orders: Instance) -> None:
    up = uploading(world)
    uploaded = orders.app.wire
    down = downloading(world, orders)
    downloaded = orders.app.wire
    both = ask(world, request("Transfer-Encoding: chunked", line="POST / HTTP/1.1") + chunks(b"abc"))
    echoed = orders.app.wire
    echoed.arrive(ok("Transfer-Encoding: chunked") + chunks(b"abc"))
    world.pump()
    world.bus.set_connected(False)
    assert error(up) == (503, "bus_unavailable")
    broken(down)
    broken(both)
    assert uploaded.is_lost()
    assert downloaded.is_lost()
    assert echoed.is_lost()
    world.over()
    world.bus.set_connected(True)
    world.after(1.0)
    assert world.bus.queue == type(world.bus.queue)()
    again = ask(world, post(pattern(0, MB), "chunked"))
    orders.app.wire.arrive(answer(pattern(1, MB), "length"))
    world.pump()
    assert got(again).body == pattern(1, MB)
    finish(world, orders)


# -- clients that go -------------------------------------------------------------------------------


@pytest.mark.parametrize("answering", [False, True])
def test_a_client_that_goes_within_its_upload_cancels_the_work(
    world: World, orders: Instance, answering: bool
) -> None:
    client = uploading(world)
    wire = orders.app.wire
    if answering:
        wire.arrive(ok("Transfer-Encoding: chunked") + chunks(b"abc"))
        world.pump()
    client.lose(ConnectionResetError())
    world.pump()
    assert wire.is_lost()
    assert not orders.app.got().whole
    assert world.notes.requests == ["200 DC" if answering else "499 DC"]
    assert world.notes.served == ["200 DC" if answering else "499 DC"]
    finish(world, orders)


def test_a_client_that_goes_within_its_download_cancels_the_work(world: World, orders: Instance) -> None:
    client = downloading(world, orders)
    client.lose()
    world.pump()
    assert orders.app.wire.is_lost()
    finish(world, orders)


def test_a_client_that_goes_before_the_answer_cancels_the_work(world: World, orders: Instance) -> None:
    client = ask(world, request(line="POST / HTTP/1.1"))
    client.lose()
    world.pump()
    assert orders.app.wire.is_lost()
    finish(world, orders)


def test_a_client_that_goes_while_its_body_waits_for_an_instance(world: World) -> None:
    client = world.client()
    client.arrive(post(pattern(0, MB), "length")[: MB // 2])
    world.pump()
    assert world.outbound.statistics()["waiting"] == 1
    client.lose()
    orders = world.instance("orders-1", app=WiredApp)
    world.pump()
    assert orders.app.wires == []
    finish(world, orders)


def test_what_is_left_of_an_upload_that_its_client_broke_is_a_bad_request(
    world: World, orders: Instance
) -> None:
    client = ask(world, request("Transfer-Encoding: chunked", line="POST / HTTP/1.1") + chunks(b"abc"))
    client.arrive(b"nonsense\r\n")
    world.pump()
    assert error(client) == (400, "malformed_request")
    assert orders.app.wire.is_lost()
    assert not orders.app.got().whole
    finish(world, orders)


def test_a_client_that_breaks_its_upload_within_the_response_is_cut(world: World, orders: Instance) -> None:
    client = ask(world, request("Transfer-Encoding: chunked", line="POST / HTTP/1.1") + chunks(b"abc"))
    orders.app.wire.arrive(ok("Transfer-Encoding: chunked") + chunks(b"abc"))
    world.pump()
    client.arrive(b"nonsense\r\n")
    world.pump()
    broken(client)
    assert orders.app.wire.is_lost()
    finish(world, orders)


# -- other tries -----------------------------------------------------------------------------------


def refusing(world: World, first: Instance, second: Instance, why: str) -> tuple[Instance, Instance]:
    """Have the instance that the balancer prefers refuse; return it and the other."""
    first.endpoint.active, second.endpoint.active = 0, 5
    if why == "draining":
        first.inbound.closed_because = "it is draining"
    elif why == "unreachable":
        first.app.set_reachable(False)
    return first, second


@pytest.mark.parametrize("why", ["draining", "unreachable"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [1, KEPT, KEPT + 1, 3 * MB])
def test_a_post_that_is_refused_is_tried_elsewhere_with_its_whole_body(
    world: World, why: str, framing: str, size: int
) -> None:
    first, second = refusing(world, *wired(world, "orders-1", "orders-2"), why)
    data = pattern(0, size)
    client = ask(world, post(data, framing))
    second.endpoint.active -= 5
    assert first.app.wires == []
    assert (second.app.got().body, second.app.got().whole) == (data, True)
    second.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    assert world.notes.tries == [
        "orders-1 503 UH" if why == "draining" else "orders-1 503 UF",
        "orders-2 200",
    ]
    finish(world, first, second)


@pytest.mark.parametrize("size", [KEPT + 1, 3 * MB])
def test_a_post_whose_application_cannot_be_reached_in_time_is_tried_elsewhere(
    world: World, size: int
) -> None:
    """Connecting takes a second at most; until then the instance takes no more than it was given at once."""
    first, second = refusing(world, *wired(world, "orders-1", "orders-2"), "")
    first.app.reachable = None
    data = pattern(0, size)
    client = ask(world, post(data, "length"))
    world.after(0.5)
    assert len(client.written) == 0
    first.app.set_reachable(False)
    world.pump()
    second.endpoint.active -= 5
    assert (second.app.got().body, second.app.got().whole) == (data, True)
    second.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    finish(world, first, second)


def test_a_body_that_waits_for_a_connection_is_not_piled_up(world: World) -> None:
    orders = world.instance("orders-1", app=lambda: WiredApp(connections=1))
    busy = ask(world, request(line="GET /busy HTTP/1.1"))
    data = pattern(0, 3 * MB)
    client = ask(world, post(data, "length"))
    world.after(0.5)
    assert client.undelivered > 2 * MB
    orders.app.wire.arrive(answer(b"done", "length"))
    world.pump()
    assert got(busy).body == b"done"
    message = read_message(read_message(orders.app.wire.written).rest)
    assert (message.body, message.whole) == (data, True)
    orders.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    finish(world, orders)


def test_a_large_body_that_was_taken_is_not_sent_again(world: World) -> None:
    first, second = refusing(world, *wired(world, "orders-1", "orders-2"), "")
    whole = post(pattern(0, MB), "length", method="PUT")
    client = ask(world, whole[:300_000])
    first.app.wire.lose()
    world.pump()
    second.endpoint.active -= 5
    assert error(client) == (502, "application_reset")
    assert second.app.wires == []
    finish(world, first, second)


def test_a_small_body_that_was_taken_is_sent_again_if_that_is_safe(world: World) -> None:
    first, second = refusing(world, *wired(world, "orders-1", "orders-2"), "")
    client = ask(world, request("Transfer-Encoding: chunked", line="PUT / HTTP/1.1") + chunks(b"abc"))
    first.app.wire.lose()
    world.pump()
    second.endpoint.active -= 5
    client.arrive(chunks(b"def") + LAST)
    world.pump()
    assert (second.app.got().body, second.app.got().whole) == (b"abcdef", True)
    second.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    finish(world, first, second)


def test_a_body_waits_with_its_client_until_an_instance_is_found(world: World) -> None:
    data = pattern(0, 5 * MB)
    client = ask(world, post(data, "length"))
    assert world.outbound.statistics()["waiting"] == 1
    assert client.undelivered > 4 * MB
    orders = world.instance("orders-1", app=WiredApp)
    world.pump()
    assert (orders.app.got().body, orders.app.got().whole) == (data, True)
    orders.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
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
    orders.app.wire.arrive(answer(pattern(0, 700_000), "length"))
    world.pump()
    assert orders.app.wire.is_closing()
    [work] = orders.inbound._streams.values()
    client.arrive(pattern(300_000, 4 * MB))
    world.pump()
    assert work.call is not None
    assert work.call.take_early() == []
    read_slowly(world, client, 100_000)
    assert (got(client).body, got(client).whole) == (pattern(0, 700_000), True)
    finish(world, orders)


def test_after_an_early_answer_to_a_whole_upload_the_connection_serves_on(
    world: World, orders: Instance
) -> None:
    """The body had come to its end and waited for the application, which did not want it."""
    whole = post(pattern(0, 700_000), "length")
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


# -- other protocols -------------------------------------------------------------------------------

CHAT = request("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", line="GET /chat HTTP/1.1")
SWITCH = ok("Connection: upgrade", "Upgrade: websocket", "X-Own: 1", status="101 Switching Protocols")


def switched(world: World, orders: Instance) -> FakeTransport:
    client = ask(world, CHAT)
    orders.app.wire.arrive(SWITCH)
    world.pump()
    assert got(client).status == 101
    return client


def told(wire: FakeTransport) -> bytes:
    """Return what came behind the head: another protocol."""
    return wire.written.partition(b"\r\n\r\n")[2]


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
    data = pattern(0, 700_000)
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
    first, second = refusing(world, *wired(world, "orders-1", "orders-2"), "unreachable")
    client = ask(world, CHAT + b"early")
    second.endpoint.active -= 5
    second.app.wire.arrive(SWITCH)
    world.pump()
    assert told(second.app.wire) == b"early"
    client.lose()
    world.pump()
    finish(world, first, second)
