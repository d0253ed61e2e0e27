"""Bodies over a bus that loses messages, agents and clients that go: nothing cut passes for whole."""

from __future__ import annotations

import pytest

from busmesh.relay.flow import STREAM_IDLE_S
from busmesh.relay.inbound import inbound
from busmesh.relay.tries.probing import QUESTIONS
from busmesh.relay.upload import KEPT
from busmesh.wire.frame import Kind
from busmesh.wire.stream import Opening
from tests.relay.apps import WiredApp
from tests.relay.bodies import (
    LAST,
    MB,
    answer,
    ask,
    broken,
    chunks,
    downloading,
    error,
    finish,
    got,
    ok,
    pattern,
    post,
    preferred,
    switched,
    uploading,
    wired,
)
from tests.relay.peer import Peer
from tests.relay.transcript import request
from tests.relay.wires import read_message
from tests.relay.world import NO_RESPONDERS, Instance, World


@pytest.fixture
def orders(world: World) -> Instance:
    return world.instance("orders-1", app=WiredApp)


# -- messages that get lost ------------------------------------------------------------------------


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


@pytest.mark.parametrize("why", ["draining", "unreachable"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [1, KEPT, KEPT + 1, 3 * MB])
def test_a_post_that_is_refused_is_tried_elsewhere_with_its_whole_body(
    world: World, why: str, framing: str, size: int
) -> None:
    first, second = preferred(world, why)
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
    first, second = preferred(world)
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
    first, second = preferred(world)
    whole = post(pattern(0, MB), "length", method="PUT")
    client = ask(world, whole[:300_000])
    first.app.wire.lose()
    world.pump()
    second.endpoint.active -= 5
    assert error(client) == (502, "application_reset")
    assert second.app.wires == []
    finish(world, first, second)


def test_a_small_body_that_was_taken_is_sent_again_if_that_is_safe(world: World) -> None:
    first, second = preferred(world)
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


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("phase", ["uploading", "waiting", "downloading", "switched"])
def test_work_for_a_caller_that_is_gone_is_cancelled(
    world: World, orders: Instance, phase: str, told: bool
) -> None:
    """Its client may live, and the application would be at work for nobody."""
    if phase == "downloading":
        downloading(world, orders)
    elif phase == "switched":
        switched(world, orders)
    else:
        uploading(world, sent=300_000 if phase == "uploading" else 2 * MB)
    wire = orders.app.wire
    world.after(3.0, 0.1)
    assert not wire.is_lost()
    world.kill_caller(told=told)
    if told and phase == "downloading":
        wire.arrive(chunks(pattern(0, 1000)))
        world.after(inbound.GONE_S - 0.1, 0.1)
        assert not wire.is_lost()
        world.after(1.3, 0.1)
        assert wire.is_lost()
    world.after(inbound.SILENT_S - 1.1, 0.1)
    assert wire.is_lost() is (told and phase == "downloading")
    world.after(2.5, 0.1)
    assert wire.is_lost()
    assert world.notes.served == [
        "200 DC" if phase == "downloading" else "101 DC" if phase == "switched" else "499 DC"
    ]
    assert orders.inbound.statistics()["active"] == 0
    assert orders.inbound._windows.streams == 0


def test_a_caller_that_is_only_said_to_be_gone_is_not(world: World, orders: Instance) -> None:
    """Anybody on the bus can write that; the caller itself speaks each second."""
    client = downloading(world, orders)
    [work] = orders.inbound._streams.values()
    for _ in range(100):
        gone = work.peer.gone_head + b"%d" % work.stream
        orders.inbound.on_gone(gone, b"", b"", NO_RESPONDERS)
        world.after(0.1)
    orders.app.wire.arrive(chunks(b"still here") + LAST)
    world.pump()
    assert (got(client).body[-10:], got(client).whole) == (b"still here", True)
    finish(world, orders)


def test_a_caller_that_has_just_asked_is_not_silent(world: World, orders: Instance) -> None:
    """It had said nothing for a while; who looks between its question and its first grant finds it alive."""
    client = ask(world, request())
    orders.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    world.after(60.0, 1.0)
    Peer(world, orders).open(Opening())  # another caller's stream: somebody looks each second
    world.after(0.99)
    client.arrive(request())
    world.pump()
    orders.app.wire.arrive(ok("Transfer-Encoding: chunked"))
    orders.app.wire.deliver()
    world.tick(0.02)
    world.pump()
    orders.app.wire.arrive(chunks(b"abc") + LAST)
    world.pump()
    message = read_message(got(client).rest)
    assert (message.body, message.whole) == (b"abc", True)


@pytest.mark.parametrize("what", ["download", "upload"])
def test_a_stream_of_a_session_that_was_renewed_is_asked_after_however_busy_its_instance_is(
    world: World, orders: Instance, what: str
) -> None:
    """Else its instance would take the caller for gone: what is said in the new session proves nothing."""
    client = downloading(world, orders) if what == "download" else uploading(world)
    world.after(10.0)
    orders.connect()
    slow = [ask(world, request()) for _ in range(6 * QUESTIONS)]
    world.after(10.0)
    assert not client.is_lost()
    assert orders.inbound.statistics()["active"] == 1 + len(slow)
    assert what == "download" or client.written == b""


@pytest.mark.parametrize(
    ("subject", "headers"),
    [
        (b"busmesh.local.gone.orders-1.zz-1", NO_RESPONDERS),
        (b"busmesh.local.gone.orders-1.-", NO_RESPONDERS),
        (b"", NO_RESPONDERS),
        (b"busmesh.local.gone.orders-1." + b"9" * 5000, NO_RESPONDERS),
        (b"busmesh.local.gone.orders-1.1-1", b""),
        (b"busmesh.local.gone.orders-1.1-1", b"NATS/1.0\r\nX: y\r\n\r\n"),
    ],
)
def test_junk_about_callers_that_are_gone_has_no_effect(
    world: World, orders: Instance, subject: bytes, headers: bytes
) -> None:
    client = downloading(world, orders)
    orders.inbound.on_gone(subject, b"", b"", headers)
    world.after(5.0, 0.1)
    assert not client.is_lost()
    assert not orders.app.wire.is_lost()


def test_a_stream_that_rests_is_broken_off_in_the_end(world: World, orders: Instance) -> None:
    client = downloading(world, orders)
    world.after(STREAM_IDLE_S - 2, 1.0)
    orders.app.wire.arrive(chunks(b"alive"))
    world.pump()
    world.after(STREAM_IDLE_S - 2, 1.0)
    assert not client.is_lost()
    world.after(4.0, 1.0)
    broken(client)
    assert orders.app.wire.is_lost()
    assert world.notes.requests == ["200 UT"]
    finish(world, orders)


def test_an_upload_that_gets_no_further_is_ended(world: World, orders: Instance) -> None:
    """The application has stopped reading, and the time for an answer has not begun."""
    client = uploading(world)
    orders.app.wire.blocked = True
    client.arrive(pattern(300_000, 2 * MB - 300_000))
    world.pump()
    world.after(STREAM_IDLE_S - 2, 1.0)
    assert client.written == b""
    world.after(4.0, 1.0)
    assert error(client) == (504, "stream_idle")
    assert orders.app.wire.is_lost()
    finish(world, orders)


def test_a_slow_upload_has_all_the_time_it_needs(world: World, orders: Instance) -> None:
    client = uploading(world, size=400_000)
    for at in range(300_000, 400_000, 10_000):
        world.after(60.0, 1.0)
        client.arrive(pattern(at, 10_000))
        world.pump()
    assert orders.app.got().whole
    world.after(14.0, 0.5)
    orders.app.wire.arrive(answer(b"ok", "length"))
    world.pump()
    assert got(client).status == 200
    finish(world, orders)


def test_after_its_end_an_upload_has_the_usual_time_for_the_answer(world: World, orders: Instance) -> None:
    client = uploading(world, size=400_000)
    world.after(60.0, 1.0)
    client.arrive(pattern(300_000, 100_000))
    world.pump()
    world.after(14.8, 0.1)
    assert client.written == b""
    world.after(0.4, 0.1)
    assert error(client) == (504, "timeout")
    assert orders.app.wire.is_lost()
    finish(world, orders)


@pytest.mark.parametrize("what", ["download", "upload", "upgrade"])
def test_the_timeout_of_a_route_is_that_of_the_whole_response(
    world: World, orders: Instance, what: str
) -> None:
    world.timeout(2.0)
    if what == "upload":
        client = uploading(world)
    elif what == "download":
        client = downloading(world, orders)
    else:
        client = switched(world, orders)
    world.after(1.9)
    assert not orders.app.wire.is_lost()
    assert not client.is_lost()
    world.after(1.2)
    assert orders.app.wire.is_lost()
    if what == "upload":
        assert error(client) == (504, "timeout")
    else:
        assert client.is_lost()
        assert what == "upgrade" or not got(client).whole
        assert world.notes.requests == ["101 UT" if what == "upgrade" else "200 UT"]
    finish(world, orders)


def test_without_a_timeout_only_the_beginning_of_a_response_has_one(world: World, orders: Instance) -> None:
    client = downloading(world, orders)
    for _ in range(10):
        world.after(100.0, 1.0)
        orders.app.wire.arrive(chunks(b"tick"))
        world.pump()
    orders.app.wire.arrive(LAST)
    world.pump()
    assert (got(client).body[300_000:], got(client).whole) == (b"tick" * 10, True)
    finish(world, orders)
