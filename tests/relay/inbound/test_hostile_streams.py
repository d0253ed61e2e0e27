"""Agents that send parts of bodies which no agent sends: they harm their own stream, and nobody else."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.relay.flow import MAX_WINDOW, STREAM_IDLE_S
from busmesh.wire.frame import Kind
from busmesh.wire.http import Refusal, decode_refusal, encode_refusal, encode_response
from busmesh.wire.stream import (
    INITIAL_CREDIT,
    Opening,
    encode_credit,
    encode_data,
    encode_end,
    encode_opening,
)
from tests.relay.apps import WiredApp
from tests.relay.bodies import CHAT, MB, SWITCH, answer, ask, broken, chunks, error, got, ok, pattern, told
from tests.relay.peer import Peer
from tests.relay.transcript import request
from tests.relay.wires import READ, FakeTransport, read_message
from tests.relay.world import Instance, World


@pytest.fixture
def orders(world: World) -> Instance:
    return world.instance("orders-1", app=WiredApp)


# -- hostile callers -------------------------------------------------------------------------------


@pytest.fixture
def evil(world: World, orders: Instance) -> Peer:
    return Peer(world, orders)


ANY = Opening()


@pytest.mark.parametrize(
    ("opening", "body"),
    [
        (Opening(3), b"abcd"),
        (ANY, b"x" * (INITIAL_CREDIT + 1)),
        (Opening(upgrade=b"websocket"), b"early"),
    ],
)
def test_an_opening_with_more_than_may_be_in_it(
    world: World, orders: Instance, evil: Peer, opening: Opening, body: bytes
) -> None:
    evil.open(opening, body)
    assert evil.refusal() == (400, "malformed_request", False)
    assert orders.app.wires == []
    world.over()


def sealed(*parts: tuple[str, int, bytes]) -> Any:
    """Return what sends these parts."""

    def send(evil: Peer) -> None:
        for what, number, data in parts:
            getattr(evil, what)(number, data)

    return send


@pytest.mark.parametrize(
    ("opening", "send"),
    [
        (Opening(3), sealed(("data", 0, b"abcd"))),
        (Opening(3), sealed(("data", 0, b"ab"), ("data", 1, b"cd"))),
        (Opening(3), sealed(("data", 0, b"ab"), ("end", 1, b""))),
        (Opening(3), sealed(("data", 0, b"abc"), ("end", 1, b""), ("end", 1, b""))),
        (Opening(3), sealed(("data", 0, b"abc"), ("end", 1, b""), ("data", 1, b"d"))),
        (Opening(0), sealed(("data", 0, b"a"))),
        (ANY, sealed(("data", 0, b""))),
        (ANY, sealed(("data", 0, b"a"), ("data", 1, b""))),
        (ANY, sealed(("data", 1, b"a"))),
        (ANY, sealed(("data", 0, b"a"), ("data", 0, b"a"))),
        (ANY, sealed(("data", 0, b"a"), ("data", 2, b"a"))),
        (ANY, sealed(("end", 1, b""))),
        (ANY, sealed(("data", 0, b"a"), ("end", 0, b""))),
        (ANY, sealed(("data", 0, b"a"), ("end", 1, b""), ("data", 1, b"a"))),
        (ANY, sealed(("data", 0, b"a"), ("end", 1, b""), ("end", 1, b""))),
        (ANY, sealed(("end", 0, b"Host: evil\r\n"))),
        (ANY, sealed(("end", 0, b"X: a\r\n\r\nGET /second HTTP/1.1\r\n"))),
        (ANY, sealed(("end", 0, b"Content_Length: 3\r\n"))),
        (ANY, lambda evil: evil.send(Kind.DATA, 1, b"\x00")),
        (ANY, lambda evil: evil.send(Kind.END, 1, b"")),
        (ANY, lambda evil: evil.send(Kind.CREDIT, 1, b"\x00" * 7)),
        (Opening(upgrade=b"websocket"), sealed(("data", 0, b"GET /second HTTP/1.1\r\n"))),
        (None, sealed(("data", 0, b"GET /second HTTP/1.1\r\n"))),
        (None, sealed(("end", 0, b""))),
    ],
)
def test_parts_that_no_agent_sends_end_the_request(
    world: World, orders: Instance, evil: Peer, opening: Opening | None, send: Any
) -> None:
    if opening is None:
        evil.ask()
    else:
        evil.open(opening)
    world.bus.queue.clear()
    send(evil)
    refusals = [decode_refusal(plain) for kind, _, plain in evil.answers() if kind == Kind.REFUSAL]
    assert [(r.status, r.code, r.processed) for r in refusals] == [(502, "stream_broken", True)]
    assert orders.app.wire.is_lost()
    assert orders.inbound.bad_frames == 1
    body = read_message(orders.app.wire.written).body
    assert body in (b"", b"a", b"ab", b"abc")
    assert b"/second" not in orders.app.wire.written
    world.over()


def test_more_than_was_granted_ends_the_request(world: World, orders: Instance, evil: Peer) -> None:
    """However much a caller sends, so much and no more waits for an application that does not read."""
    evil.open(ANY)
    orders.app.wire.blocked = True
    for number in range(100):
        evil.data(number, b"x" * 30_000)
    assert orders.app.wire.is_lost()
    assert len(orders.app.wire.written) < INITIAL_CREDIT + MAX_WINDOW + 200_000
    world.over()


@pytest.mark.parametrize("total", [0, 1, 2**64 - 1])
def test_a_grant_of_any_size_sends_what_there_is(
    world: World, orders: Instance, evil: Peer, total: int
) -> None:
    evil.ask()
    orders.app.wire.arrive(answer(pattern(0, MB), "length"))
    world.pump()
    evil.send(Kind.CREDIT, 1, encode_credit(total))
    world.pump()
    assert orders.app.wire.undelivered == (
        0 if total > MB else MB - READ + len(answer(b"x" * MB, "length")) - MB
    )
    evil.send(Kind.RESET, 1, b"junk")
    world.pump()
    assert orders.inbound.active == 0


def test_a_second_opening_of_a_stream_changes_nothing(world: World, orders: Instance, evil: Peer) -> None:
    evil.open(ANY, b"first")
    evil.open(ANY, b"second")
    evil.ask()
    assert len(orders.app.wires) == 1
    assert orders.app.got().body == b"first"
    assert orders.inbound.bad_frames == 2
    evil.end(0)
    assert orders.app.got().whole
    evil.send(Kind.RESET, 1, b"")
    world.over()


def test_streams_count_among_the_requests_at_work(world: World) -> None:
    orders = world.instance("orders-1", app=WiredApp, max_active=3)
    evil = Peer(world, orders)
    for stream in range(5):
        evil.open(ANY, stream=stream)
        if stream < len(orders.app.wires):
            orders.app.wires[stream].arrive(ok("Transfer-Encoding: chunked"))
            world.pump()
    assert len(orders.app.wires) == 3
    refusals = [decode_refusal(p) for kind, _, p in evil.answers() if kind == Kind.REFUSAL]
    assert [refusal.code for refusal in refusals] == ["overflow"] * 2
    assert orders.inbound._windows.streams == 3


_PARTS = st.lists(
    st.tuples(
        st.sampled_from(
            [Kind.REQUEST, Kind.REQUEST_OPENING, Kind.DATA, Kind.END, Kind.CREDIT, Kind.RESET, 77]
        ),
        st.integers(0, 3),
        st.sampled_from([b"", b"a", b"abc", b"0\r\n\r\n", b"X: y\r\n", b"Host: a\r\n"]),
    ),
    max_size=8,
)
_OPENINGS = st.sampled_from([ANY, Opening(3), Opening(0), Opening(None, True), Opening(upgrade=b"websocket")])


@settings(max_examples=300, deadline=None)
@given(opening=_OPENINGS, first=st.sampled_from([b"", b"a", b"abc"]), parts=_PARTS, replies=st.data())
def test_whatever_a_caller_seals_the_application_gets_one_request_or_a_cut_one(
    opening: Opening, first: bytes, parts: list[tuple[int, int, bytes]], replies: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch)
        orders = world.instance("orders-1", app=WiredApp)
        evil = Peer(world, orders)
        evil.open(opening, first)
        sent, numbers = first, 0
        for kind, number, data in parts:
            if kind in (Kind.REQUEST, Kind.REQUEST_OPENING):
                evil.send(kind, 1, data)
            elif kind in (Kind.DATA, Kind.END):
                evil.send(kind, 1, encode_data(number, data))
                if kind == Kind.DATA and number == numbers:
                    sent, numbers = sent + data, numbers + 1
            elif kind == Kind.CREDIT:
                evil.send(kind, 1, encode_credit(number * 1000))
            else:
                evil.send(kind, 1, data)
            if orders.app.wires and replies.draw(st.booleans()):
                orders.app.wire.arrive(
                    replies.draw(st.sampled_from([b"HTTP/1.1 ", ok("Content-Length: 2"), SWITCH, b"hi"]))
                )
            world.pump()
        for wire in orders.app.wires:
            if not opening.upgrade and wire.written:
                message = read_message(wire.written)
                assert message.rest == b"", "something that could be another request"
                assert sent.startswith(message.body)
        world.after(7.0, 1.0)
        evil.answers()
        assert orders.inbound.active == 0
        assert orders.inbound._windows.streams == 0


# -- hostile instances -----------------------------------------------------------------------------


class Villain:
    """The agent of the one instance, which has a request and answers what the test says."""

    def __init__(self, world: World, client: FakeTransport) -> None:
        self.world = world
        self.client = client
        [self.instance] = world.instances.values()
        *_, self.work = self.instance.inbound._work.values()

    def send(self, kind: int, plaintext: bytes) -> None:
        self.instance.inbound.send(self.work.peer, cast(Kind, kind), self.work.stream, plaintext)
        self.world.pump()

    def open(self, opening: Opening = ANY, status: int = 200, headers: bytes = b"") -> None:
        self.send(
            Kind.RESPONSE_OPENING, encode_opening(opening, encode_response(status, b"OK", headers, b""))
        )

    def data(self, number: int, data: bytes) -> None:
        self.send(Kind.DATA, encode_data(number, data))

    def end(self, number: int, trailers: bytes = b"") -> None:
        self.send(Kind.END, encode_end(number, trailers))


def villain(world: World, asked: bytes | None = None) -> Villain:
    world.instance("orders-1")
    return Villain(world, ask(world, asked if asked is not None else request(line="POST / HTTP/1.1")))


@pytest.mark.parametrize(
    ("asked", "opening", "status"),
    [
        (request(line="HEAD / HTTP/1.1"), ANY, 200),
        (request(line="POST / HTTP/1.1"), ANY, 204),
        (request(line="POST / HTTP/1.1"), Opening(3), 304),
        (request(line="POST / HTTP/1.1"), ANY, 101),
        (request(line="POST / HTTP/1.1"), ANY, 100),
        (request(line="POST / HTTP/1.1"), ANY, 600),
        (request(line="POST / HTTP/1.1"), Opening(upgrade=b"websocket"), 101),
        (request(line="POST / HTTP/1.1"), Opening(upgrade=b"websocket"), 200),
        (CHAT, Opening(upgrade=b"mqtt"), 101),
        (CHAT, Opening(upgrade=b"websocket"), 200),
        (CHAT, ANY, 101),
    ],
)
def test_a_beginning_that_no_agent_sends_fails_the_try(
    world: World, asked: bytes, opening: Opening, status: int
) -> None:
    evil = villain(world, asked)
    client = evil.client
    for _ in range(3):
        if not client.written:  # what is idempotent is tried again
            evil = Villain(world, client)
            evil.open(opening, status)
            assert evil.work not in evil.instance.inbound._work.values(), "it hears that nobody waits"
    assert client.written.startswith(b"HTTP/1.1 502 ")
    assert b"malformed_response" in client.written or asked.startswith(b"HEAD")
    world.settled()


def evil_parts(*parts: tuple[str, int, bytes]) -> Any:
    def send(evil: Villain) -> None:
        for what, number, data in parts:
            getattr(evil, what)(number, data)

    return send


@pytest.mark.parametrize(
    ("opening", "send"),
    [
        (Opening(3), evil_parts(("data", 0, b"abcd"))),
        (Opening(3), evil_parts(("data", 0, b"ab"), ("data", 1, b"cd"))),
        (Opening(3), evil_parts(("end", 0, b""))),
        (Opening(3), evil_parts(("data", 0, b"ab"), ("end", 1, b""))),
        (ANY, evil_parts(("data", 0, b""))),
        (ANY, evil_parts(("data", 0, b"a"), ("data", 1, b""))),
        (ANY, evil_parts(("data", 1, b"a"))),
        (ANY, evil_parts(("data", 0, b"a"), ("data", 0, b"a"))),
        (ANY, evil_parts(("end", 1, b""))),
        (ANY, evil_parts(("data", 0, b"a"), ("end", 0, b""))),
        (ANY, evil_parts(("end", 0, b"Set-Cookie: a=b\r\n"))),
        (ANY, evil_parts(("end", 0, b"X: a\r\n\r\nHTTP/1.1 200 OK\r\n"))),
        (ANY, lambda evil: evil.send(Kind.DATA, b"\x00")),
        (ANY, lambda evil: evil.send(Kind.END, b"")),
        (ANY, lambda evil: evil.send(Kind.RESET, b"junk")),
        (ANY, lambda evil: evil.send(Kind.PROBE_RESULT, b"")),
        (ANY, lambda evil: evil.send(Kind.PROBE_RESULT, b"\xff\xff")),
    ],
)
def test_parts_that_no_agent_sends_break_the_response(world: World, opening: Opening, send: Any) -> None:
    evil = villain(world)
    evil.open(opening)
    send(evil)
    broken(evil.client)
    assert evil.client.written.count(b"HTTP/1.1 ") == 1
    assert got(evil.client).body in (b"", b"a", b"ab")
    assert world.notes.requests == ["200 DPE"]
    [reset] = [message for message in world.bus.log if message.kind == Kind.RESET and message.reply]
    assert reset.subject == b"busmesh.local.relay.orders-1", "it is told that nobody listens any more"
    world.settled()


def kinds_sent(world: World, kind: Kind) -> int:
    return sum(message.kind == kind for message in world.bus.log)


@pytest.mark.parametrize(
    ("kind", "plaintext"),
    [
        (Kind.INTERIM, encode_response(103, b"Early", b"", b"")),
        (Kind.RESPONSE, encode_response(200, b"OK", b"", b"another")),
        (Kind.RESPONSE_OPENING, encode_opening(ANY, encode_response(200, b"OK", b"", b""))),
        (Kind.REFUSAL, encode_refusal(Refusal(False, 503, "UH", "not_serving", ""))),
        (Kind.REQUEST, b"junk"),
        (Kind.PROBE, b"junk"),
        (Kind.CREDIT, encode_credit(10)),
        (77, b"junk"),
    ],
)
def test_what_does_not_belong_into_a_response_is_passed_over(
    world: World, kind: int, plaintext: bytes
) -> None:
    evil = villain(world)
    evil.open()
    evil.data(0, b"abc")
    evil.send(kind, plaintext)
    evil.data(1, b"def")
    evil.end(2)
    assert (got(evil.client).body, got(evil.client).whole, got(evil.client).rest) == (b"abcdef", True, b"")
    world.settled()


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.END, Kind.RESET])
def test_parts_before_the_beginning_change_nothing(world: World, kind: Kind) -> None:
    evil = villain(world)
    evil.send(kind, encode_data(0, b""))
    assert evil.client.written == b""
    assert world.outbound.tries.bad_frames == 1
    evil.open()
    evil.data(0, b"abc")
    evil.end(1)
    assert got(evil.client).body == b"abc"


def test_parts_behind_the_end_are_late(world: World) -> None:
    evil = villain(world)
    evil.open()
    evil.end(0)
    before = evil.client.written
    evil.data(0, b"abc")
    evil.end(0)
    evil.end(1)
    assert evil.client.written == before
    assert world.outbound.tries.late_replies == 3
    world.settled()


@pytest.mark.parametrize("status", [99, 101, 104, 200])
def test_an_interim_response_that_is_none_fails_the_try(world: World, status: int) -> None:
    evil = villain(world)
    evil.send(Kind.INTERIM, encode_response(status, b"", b"", b""))
    assert error(evil.client) == (502, "malformed_response")
    world.settled()


def test_more_than_was_granted_breaks_the_response(world: World) -> None:
    """A client that does not read costs so much memory and no more."""
    evil = villain(world)
    evil.client.blocked = True
    evil.open()
    for number in range(100):
        if evil.client.is_lost():
            break
        evil.data(number, b"x" * 30_000)
    broken(evil.client)
    assert evil.client.unread < INITIAL_CREDIT + MAX_WINDOW + 200_000
    world.settled()


def test_a_client_that_was_behind_before_its_response_began_is_waited_for(world: World) -> None:
    """It has left its last answer unread, so with the head of this one too much waits already."""
    world.instance("orders-1")
    client = world.client()
    client.blocked = True
    client.arrive(request(line="POST / HTTP/1.1") * 2)
    world.pump()
    first = Villain(world, client)
    first.send(Kind.RESPONSE, encode_response(200, b"OK", b"", b"x" * 65_000))
    first.instance.app.calls.clear()
    first.instance.inbound._cancelled(first.work)
    evil = Villain(world, client)
    evil.open(headers=b"X: " + b"a" * 1000 + b"\r\n")
    assert kinds_sent(world, Kind.CREDIT) == 0
    for number in range(10):
        evil.data(number, b"x" * 30_000)
    assert client.is_lost()
    assert client.unread < 4 * INITIAL_CREDIT


def test_interim_responses_do_not_pile_up(world: World) -> None:
    """They cost no credit, and a client need not get them."""
    evil = villain(world)
    evil.client.blocked = True
    for _ in range(200):
        evil.send(Kind.INTERIM, encode_response(103, b"", b"X: " + b"a" * 1000 + b"\r\n", b""))
    assert evil.client.unread < 70_000


def test_an_instance_that_only_says_that_it_is_at_work_is_not_waited_for_for_ever(world: World) -> None:
    evil = villain(world)
    evil.work.deadline = math.inf
    evil.open()
    world.after(STREAM_IDLE_S - 1, 1.0)
    assert not evil.client.is_lost()
    world.after(3.0, 1.0)
    broken(evil.client)
    assert world.notes.requests == ["200 UT"]
    world.settled()


def test_a_switched_connection_takes_nothing_behind_its_end(world: World) -> None:
    evil = villain(world, CHAT)
    evil.open(Opening(upgrade=b"websocket"), 101)
    evil.data(0, b"abc")
    evil.end(1)
    assert evil.client.is_ended()
    evil.data(1, b"def")
    assert evil.client.is_lost()
    assert told(evil.client) == b"abc"
    world.settled()


_ANSWERS = st.lists(
    st.tuples(
        st.sampled_from([*list(Kind)[:-1], 77]),
        st.integers(0, 3),
        st.sampled_from([b"", b"a", b"abc", b"0\r\n\r\n", b"X: y\r\n"]),
        st.sampled_from([200, 204, 103, 101, 503]),
    ),
    max_size=10,
)


@settings(max_examples=400, deadline=None)
@given(
    asked=st.sampled_from(
        [request(line=f"{method} / HTTP/1.1") for method in ("GET", "POST", "HEAD")]
        + [CHAT, request("Transfer-Encoding: chunked", line="POST / HTTP/1.1") + chunks(b"abc")]
    ),
    answers=_ANSWERS,
)
def test_whatever_an_instance_seals_a_client_gets_one_response_or_a_cut_one(
    asked: bytes, answers: list[tuple[int, int, bytes, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch)
        world.instance("orders-1")
        client = ask(world, asked)
        for kind, number, data, status in answers:
            if not world.instances["orders-1"].inbound.active:
                break
            evil = Villain(world, client)
            if kind in (Kind.RESPONSE, Kind.INTERIM):
                evil.send(kind, encode_response(status, b"", b"", data if kind == Kind.RESPONSE else b""))
            elif kind == Kind.RESPONSE_OPENING:
                upgrade = b"websocket" if status == 101 else b""
                evil.open(Opening(number if number else None, upgrade=upgrade), status)
            elif kind in (Kind.DATA, Kind.END):
                evil.send(kind, encode_data(number, data))
            elif kind == Kind.CREDIT:
                evil.send(kind, encode_credit(number * 1000))
            elif kind == Kind.PROBE_RESULT:
                evil.send(kind, bytes([number]))
            elif kind == Kind.REFUSAL:
                evil.send(kind, encode_refusal(Refusal(bool(number), 503, "UF", "code", "")))
            else:
                evil.send(kind, data)
        judge(client, asked)
        if not client.is_lost():
            client.lose()
        world.pump()
        world.settled()


def judge(client: FakeTransport, asked: bytes) -> None:
    """What a client got is interim responses, and at most one other, whole or behind a cut."""
    data = client.written
    while data.startswith(b"HTTP/1.1 10") and not data.startswith(b"HTTP/1.1 101"):
        data = data.partition(b"\r\n\r\n")[2]
    if not data:
        return
    message = read_message(data)
    if message.status == 101:
        assert asked == CHAT
        return
    headless = asked.startswith(b"HEAD") or message.status in (204, 304)
    if headless:
        assert data.endswith(b"\r\n\r\n")
        return
    assert message.rest == b""
    assert message.whole or client.is_lost() or not client.is_closing()
