"""Connections of the listener: order, keep-alive, timeouts, and clients that go, stall or flood."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
import uvloop

from busmesh.relay.client.answers import Answer
from busmesh.relay.client.connection import LINGER_S, Connection
from busmesh.relay.client.listener import Listener, bind
from busmesh.relay.client.refusals import Limits
from busmesh.relay.client.request import Request
from busmesh.wire.stream import Opening
from tests.relay.transcript import request
from tests.relay.wires import FakeTransport, Response, freed_when_lost, responses

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Server:
    """A listener without a socket, whose clock belongs to the test; requests wait until they are answered."""

    def __init__(self, **limits: Any) -> None:
        self.waiting: list[Request] = []
        self.abandoned: list[Request] = []
        self.listener = Listener(self.waiting.append, self.abandoned.append, Limits(**limits))
        self.listener.now = 1000.0

    def client(self) -> FakeTransport:
        return FakeTransport(Connection(self.listener))

    def answer(self, body: bytes = b"ok", status: int = 200, declared: int | None = None) -> bytes:
        """Answer the oldest request that waits; return its target."""
        answered = self.waiting.pop(0)
        answered.respond(status, b"OK", b"x-app: 1\r\n", body, declared)
        return answered.head.target

    def after(self, seconds: float) -> None:
        """Let so much time pass."""
        self.listener.now += seconds
        for connection in [c for c in self.listener.connections if c.deadline < self.listener.now]:
            connection.expire()


def send(client: FakeTransport, data: bytes) -> None:
    client.protocol.data_received(data)


def received(client: FakeTransport, methods: str = "") -> list[Response]:
    return responses(client.written, methods)


def refusal(client: FakeTransport) -> tuple[int, str]:
    """Return status and error code of the mesh's own answer, the last one on this connection."""
    last = received(client)[-1]
    assert last.header("content-type") == "application/json"
    assert last.header("connection") == "close"
    body = json.loads(last.body)
    assert set(body) == {"error", "message", "service", "instance"}
    assert last.header("x-busmesh-flags") in ("DPE", "UO", "UF")
    return last.status, body["error"]


# -- order -----------------------------------------------------------------------------------------


def test_a_response_is_written_anew() -> None:
    server = Server()
    client = server.client()
    send(client, request())
    assert server.answer(b"hello") == b"/"
    assert client.written == b"HTTP/1.1 200 OK\r\nx-app: 1\r\ncontent-length: 5\r\n\r\nhello"
    assert not client.is_closing()


def test_pipelined_requests_are_served_one_after_the_other() -> None:
    server = Server()
    client = server.client()
    send(client, b"".join(request(line=f"GET /{n} HTTP/1.1") for n in range(5)))
    for n in range(5):
        assert [waiting.head.target for waiting in server.waiting] == [b"/%d" % n]
        assert server.answer(b"%d" % n) == b"/%d" % n
    assert [response.body for response in received(client)] == [b"0", b"1", b"2", b"3", b"4"]


def test_answers_given_at_once_do_not_nest() -> None:
    server = Server()
    server.listener.handle = lambda got: got.answer(Answer(404, "NR", "no_route", "nowhere"))
    client = server.client()
    send(client, request() * 3000)
    assert [response.status for response in received(client)] == [404] * 3000


def test_a_bad_request_is_answered_after_the_good_ones_before_it() -> None:
    server = Server()
    client = server.client()
    send(
        client,
        request(line="GET /1 HTTP/1.1") + request(line="GET /2 HTTP/1.1") + request("Host: b") + request(),
    )
    assert client.written == b""
    assert server.answer() == b"/1"
    assert server.answer() == b"/2"
    assert [response.status for response in received(client)] == [200, 200, 400]
    assert refusal(client) == (400, "bad_host")
    assert server.waiting == []
    send(client, request())
    assert server.waiting == [], "nothing on this connection is trusted any more"


def test_reading_pauses_while_many_requests_wait() -> None:
    server = Server(pipelined=4)
    client = server.client()
    send(client, request() * 3)
    assert client.is_reading()
    send(client, request() * 3)
    assert not client.is_reading()
    for _ in range(6):
        server.answer()
    assert client.is_reading()
    assert len(received(client)) == 6


def test_an_answer_that_comes_twice_or_late_is_written_once() -> None:
    server = Server()
    client = server.client()
    send(client, request() * 2)
    first = server.waiting[0]
    first.respond(200, b"OK", b"", b"a")
    first.respond(200, b"OK", b"", b"b")
    first.answer(Answer(504, "UT", "timeout", "late"))
    second = server.waiting[1]
    client.lose()
    second.respond(200, b"OK", b"", b"c")
    assert [response.body for response in received(client)] == [b"a"]


def test_a_tunnel_is_granted_in_its_turn() -> None:
    server = Server()
    client = server.client()
    send(client, request(line="GET /1 HTTP/1.1") + request(line="CONNECT orders:80 HTTP/1.1"))
    assert client.written == b""
    server.answer()
    assert client.written.endswith(b"ok" + b"HTTP/1.1 200 OK\r\n\r\n")
    send(client, request(line="GET /2 HTTP/1.1"))
    assert server.answer() == b"/2"
    assert len(received(client)) == 3
    assert server.listener.statistics() == {"connections": 1, "busy": 0, "refused": 0}


# -- framing of responses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "body", "declared", "length", "sent"),
    [
        ("GET", 200, b"abc", None, "3", b"abc"),
        ("GET", 200, b"", None, "0", b""),
        ("POST", 201, b"abc", None, "3", b"abc"),
        ("HEAD", 200, b"", 1234, "1234", b""),
        ("HEAD", 200, b"", None, None, b""),
        ("HEAD", 404, b"page", None, None, b""),
        ("GET", 304, b"", 99, "99", b""),
        ("GET", 304, b"", None, None, b""),
        ("GET", 204, b"", None, None, b""),
        ("GET", 204, b"junk", None, None, b""),
        ("OPTIONS", 200, b"", None, "0", b""),
    ],
)
def test_length(
    method: str, status: int, body: bytes, declared: int | None, length: str | None, sent: bytes
) -> None:
    server = Server()
    client = server.client()
    send(client, request(line=f"{method} / HTTP/1.1"))
    server.answer(body, status, declared)
    [response] = received(client, method)
    assert response.header("content-length") == length
    assert response.body == sent
    assert client.written.endswith(b"\r\n\r\n" + sent)


# -- keep-alive --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "connection", "closed"),
    [
        (request(), None, False),
        (request("Connection: close"), "close", True),
        (request(line="GET / HTTP/1.0"), "close", True),
        (request("Connection: keep-alive", line="GET / HTTP/1.0"), "keep-alive", False),
    ],
)
def test_who_closes(data: bytes, connection: str | None, closed: bool) -> None:
    """HTTP/1.0 closes unless the response says that it does not (RFC 9112 section 9.3)."""
    server = Server()
    client = server.client()
    send(client, data)
    server.answer()
    [response] = received(client)
    assert response.header("connection") == connection
    assert client.is_closing() is closed


def test_what_follows_a_close_is_not_served() -> None:
    server = Server()
    client = server.client()
    send(client, request("Connection: close") + request(line="GET /2 HTTP/1.1"))
    server.answer()
    assert len(received(client)) == 1
    assert server.waiting == []
    assert client.is_closing()


# -- 100 Continue --------------------------------------------------------------------------------------

UPLOAD = request("Expect: 100-continue", "Content-Length: 3", line="POST / HTTP/1.1")


def test_100_continue_is_the_word_of_the_application() -> None:
    server = Server()
    client = server.client()
    send(client, UPLOAD)
    [waiting] = server.waiting
    assert waiting.opening == Opening(3, expects=True)
    assert client.written == b""
    waiting.interim(100, b"Continue", b"")
    assert client.written == CONTINUE
    send(client, b"abc")
    assert (waiting.body, waiting.complete) == (b"abc", True)
    server.answer()
    assert [response.status for response in received(client)] == [100, 200]


def test_who_expects_100_continue_waits_for_the_answers_that_are_due() -> None:
    server = Server()
    client = server.client()
    send(client, request() + request() + UPLOAD)
    assert [waiting.head.method for waiting in server.waiting] == [b"GET"]
    server.answer()
    assert [waiting.head.method for waiting in server.waiting] == [b"GET"]
    server.answer()
    assert [response.status for response in received(client)] == [200, 200]
    [waiting] = server.waiting
    assert waiting.opening == Opening(3, expects=True)
    waiting.interim(100, b"Continue", b"")
    send(client, b"abc")
    assert waiting.body == b"abc"
    server.answer()
    assert [response.status for response in received(client)] == [200, 200, 100, 200]


def test_100_continue_is_left_out_if_the_body_came_anyway() -> None:
    server = Server()
    client = server.client()
    send(client, request() + UPLOAD)
    send(client, b"abc")
    server.answer()
    server.answer()
    assert [response.status for response in received(client)] == [200, 200]


def test_a_body_that_will_be_refused_is_not_invited() -> None:
    server = Server(body=2)
    client = server.client()
    send(client, UPLOAD)
    assert refusal(client) == (413, "body_too_large")
    assert CONTINUE not in client.written


# -- refusals ------------------------------------------------------------------------------------------


def test_a_refusal_lets_the_client_read_it() -> None:
    """Closing with unread bytes of the client on the way would reset the connection and lose the answer."""
    server = Server(body=10)
    client = server.client()
    send(client, request("Content-Length: 1000", line="POST / HTTP/1.1"))
    assert refusal(client) == (413, "body_too_large")
    assert client.is_ended()
    assert not client.is_closing()
    send(client, b"x" * 1000)
    assert not client.is_closing()
    server.after(LINGER_S + 0.1)
    assert client.is_closing()
    assert server.listener.statistics() == {"connections": 0, "busy": 0, "refused": 1}


def test_one_connection_too_many_is_told_so() -> None:
    server = Server(connections=2)
    clients = [server.client() for _ in range(3)]
    assert refusal(clients[2]) == (503, "too_many_connections")
    assert received(clients[2])[0].header("retry-after") == "1"
    send(clients[2], request())
    assert server.waiting == []
    clients[0].lose()
    clients[2].lose()
    last = server.client()
    send(last, request())
    assert len(server.waiting) == 1


def test_a_fault_of_the_agent_is_an_answer_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    def fails(got: Request) -> None:
        if got.head.target == b"/bad":
            raise ZeroDivisionError("the fault")
        server.waiting.append(got)

    server.listener.handle = fails
    client = server.client()
    with caplog.at_level(logging.ERROR):
        send(client, request(line="GET /bad HTTP/1.1") + request(line="GET /good HTTP/1.1"))
    assert "the fault" in caplog.text
    assert server.answer() == b"/good"
    first, second = received(client)
    assert (first.status, json.loads(first.body)["error"]) == (500, "internal_error")
    assert second.status == 200


# -- clients that go -----------------------------------------------------------------------------------


def test_a_client_that_goes_abandons_its_request() -> None:
    server = Server()
    client = server.client()
    send(client, request(line="GET /1 HTTP/1.1") + request(line="GET /2 HTTP/1.1"))
    [serving] = server.waiting
    assert server.abandoned == []
    client.lose(ConnectionResetError())
    assert server.abandoned == [serving]
    assert server.waiting == [serving], "the second was never begun"
    assert server.listener.connections == set()


def test_a_client_that_goes_between_requests_abandons_nothing() -> None:
    server = Server()
    client = server.client()
    send(client, request())
    server.answer()
    client.lose()
    assert server.abandoned == []


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        request(),
        request()[:-2],
        request("Host: b"),
        request("Transfer-Encoding: chunked") + b"5\r\nhello\r\n",
        request(line="CONNECT orders:80 HTTP/1.1"),
        request("Upgrade: websocket", "Connection: upgrade"),
    ],
)
def test_a_client_that_goes_leaves_nothing_for_the_collector(data: bytes, limit: int | None) -> None:
    """It comes so rarely that what 400 connections left behind made an agent grow by 2 MiB."""
    server = Server(body=limit)
    client = server.client()
    send(client, data)
    server.waiting.clear()
    client.lose()
    server.abandoned.clear()
    assert freed_when_lost(client)


def half_closed(client: FakeTransport) -> None:
    """The client ends its sending side; a timer of the loop looks whether it is there."""

    async def end() -> None:
        client.end()

    asyncio.run(end())


def test_a_half_closed_client_gets_all_its_answers() -> None:
    """``printf ... | nc`` ends its sending side first and then reads."""
    server = Server()
    client = server.client()
    send(client, request(line="GET /1 HTTP/1.1") + request(line="GET /2 HTTP/1.1"))
    half_closed(client)
    assert not client.is_closing()
    server.answer()
    assert not client.is_closing()
    server.answer()
    interim, first, second = received(client)
    assert interim.status == 100
    assert first.header("connection") is None
    assert second.header("connection") == "close"
    assert client.is_closing()


def test_an_http10_client_that_half_closes_is_written_no_interim_response() -> None:
    server = Server()
    client = server.client()
    send(client, request(line="GET / HTTP/1.0"))
    half_closed(client)
    server.answer()
    [response] = received(client)
    assert (response.status, response.body) == (200, b"ok")
    assert client.is_closing()


def test_nothing_is_written_into_a_response_to_find_out_about_its_client() -> None:
    server = Server()
    client = server.client()
    send(client, request())
    server.waiting[0].begin(200, b"OK", b"", Opening(4))
    server.waiting[0].write(b"ab")
    half_closed(client)
    server.waiting[0].write(b"cd")
    server.waiting[0].finish(b"")
    [response] = received(client)
    assert response.body == b"abcd"
    assert client.is_closing()


def test_an_idle_client_that_ends_is_closed() -> None:
    server = Server()
    client = server.client()
    send(client, request())
    server.answer()
    client.end()
    assert client.is_closing()


def test_an_end_within_a_request_is_a_bad_request() -> None:
    server = Server()
    client = server.client()
    send(client, request()[:-2])
    client.end()
    assert refusal(client) == (400, "incomplete_request")
    assert client.is_closing()


# -- time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"G", request()[:-2], request("Content-Length: 5", body=b"abc")])
def test_a_slow_request_gets_a_408(start: bytes) -> None:
    server = Server(header_timeout=10.0)
    client = server.client()
    server.after(100.0)  # resting before does not count
    send(client, start)
    server.after(9.0)
    assert client.written == b""
    server.after(1.5)
    assert refusal(client) == (408, "request_timeout")
    server.after(LINGER_S + 0.1)
    assert client.is_closing()


def test_drops_do_not_buy_a_slow_client_time() -> None:
    server = Server(header_timeout=10.0)
    client = server.client()
    for byte in request()[:11]:
        send(client, bytes([byte]))
        server.after(1.0)
    assert refusal(client) == (408, "request_timeout")


def test_a_request_that_begins_while_another_is_served_has_the_same_time() -> None:
    """Else one request and a half would hold a connection for as long as a resting one."""
    server = Server(header_timeout=10.0, idle_timeout=600.0)
    client = server.client()
    send(client, request() + request()[:-2])
    server.after(60.0)
    assert client.written == b"", "while the first is served the client waits for us"
    server.answer()
    server.after(9.0)
    assert not client.is_ended()
    server.after(2.0)
    assert [response.status for response in received(client)] == [200, 408]


def test_a_resting_connection_is_closed() -> None:
    server = Server(idle_timeout=60.0)
    fresh, used = server.client(), server.client()
    server.after(30.0)
    send(used, request())
    server.answer()
    server.after(31.0)
    assert (fresh.is_closing(), used.is_closing()) == (True, False)
    assert fresh.written == b""
    server.after(30.0)
    assert used.is_closing()


def test_blank_lines_do_not_keep_a_connection() -> None:
    server = Server(idle_timeout=60.0)
    client = server.client()
    for _ in range(7):
        send(client, b"\r\n" * 10)
        server.after(10.0)
    assert client.is_closing()


def test_a_request_that_is_served_has_all_the_time() -> None:
    """Its deadline is the route's; the listener's timeouts are for clients."""
    server = Server(header_timeout=10.0, idle_timeout=60.0)
    client = server.client()
    send(client, request())
    server.after(1000.0)
    assert not client.is_closing()
    server.answer()
    assert [response.status for response in received(client)] == [200]


# -- clients that do not read ---------------------------------------------------------------------------


def test_a_client_that_does_not_read_is_served_no_further() -> None:
    server = Server()
    client = server.client()
    client.blocked = True
    send(client, request() * 10)
    for _ in range(2):
        server.answer(b"x" * 50_000)
    assert client.unread > 64 * 1024
    assert server.waiting == [], "the third waits until the client has read"
    client.take()
    assert len(server.waiting) == 1


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    server = Server(rate_grace=5.0, idle_timeout=600.0)
    client = server.client()
    client.blocked = True
    send(client, request())
    server.answer(b"x" * 500_000)
    server.after(4.0)
    assert not client.is_lost()
    server.after(2.0)
    assert client.is_lost()


def test_a_client_that_reads_slowly_is_not() -> None:
    server = Server(rate_grace=5.0, min_rate=240, idle_timeout=600.0)
    client = server.client()
    client.blocked = True
    send(client, request())
    server.answer(b"x" * 500_000)
    for _ in range(20):
        client.take(1500)
        server.after(6.0)
        assert not client.is_lost()
    client.take()
    server.after(500.0)
    assert not client.is_lost()
    send(client, request())
    assert len(server.waiting) == 1


def test_an_answer_that_nobody_reads_does_not_hold_a_closing_connection() -> None:
    server = Server(rate_grace=5.0)
    client = server.client()
    client.blocked = True
    send(client, request("Connection: close"))
    server.answer(b"x" * 1000)
    assert client.is_closing()
    assert not client.is_lost()
    server.after(6.0)
    assert client.is_lost()


# -- the end -------------------------------------------------------------------------------------------


def test_closing_lets_requests_finish_and_says_that_it_closes() -> None:
    async def run() -> None:
        server = Server()
        resting, busy, half = server.client(), server.client(), server.client()
        send(busy, request() * 2)
        send(half, request()[:-2])
        closing = asyncio.get_running_loop().create_task(server.listener.close(grace=5.0))
        await asyncio.sleep(0)
        assert resting.is_closing()
        assert not busy.is_closing()
        assert not half.is_closing()
        server.answer()
        [response] = received(busy)
        assert response.header("connection") == "close"
        assert busy.is_closing()
        send(half, b"\r\n")
        server.answer()
        await closing
        assert half.is_closing()

    asyncio.run(run())


def test_closing_cuts_what_does_not_finish() -> None:
    async def run() -> None:
        server = Server()
        client = server.client()
        send(client, request())
        await server.listener.close(grace=0.05)
        assert client.is_lost()
        assert len(server.abandoned) == 1

    asyncio.run(run())


# -- sockets ---------------------------------------------------------------------------------------------


async def listening(answers: Any = None, **limits: Any) -> tuple[Listener, int]:
    listener = Listener(
        answers or (lambda got: got.respond(200, b"OK", b"", got.head.target)), limits=Limits(**limits)
    )
    _, port = await listener.serve(bind("127.0.0.1", 0))
    return listener, port


def test_over_a_socket() -> None:
    async def run() -> None:
        listener, port = await listening()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for n in range(3):
            writer.write(request(line=f"GET /{n} HTTP/1.1"))
            assert await reader.readuntil(b"/%d" % n)
        writer.write(request(line="GET /last HTTP/1.1"))
        writer.write_eof()
        rest = await reader.read()
        assert rest.endswith(b"\r\n\r\n/last")
        writer.close()
        await listener.close()

    uvloop.run(run())


def test_a_client_that_closed_and_is_gone_is_told_from_one_that_still_reads() -> None:
    """Both have sent the same; writing to the one that is gone makes its system reset the connection."""

    async def run() -> None:
        waiting: list[Request] = []
        gone: asyncio.Queue[Request] = asyncio.Queue(2)
        listener = Listener(waiting.append, gone.put_nowait)
        _, port = await listener.serve(bind("127.0.0.1", 0))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        _, vanished = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(line="GET /reads HTTP/1.1"))
        writer.write_eof()
        assert await reader.readuntil(b"\r\n\r\n") == CONTINUE
        vanished.write(request(line="GET /gone HTTP/1.1"))
        vanished.close()
        abandoned = await asyncio.wait_for(gone.get(), 5)
        first, second = waiting
        assert abandoned is second
        assert gone.empty(), "the first still reads"
        first.respond(200, b"OK", b"", b"still here")
        assert (await reader.read()).endswith(b"\r\n\r\nstill here")
        writer.close()
        await listener.close()

    uvloop.run(run())


def test_a_large_upload_that_is_refused_reads_its_413() -> None:
    """The client goes on sending for a while; closing at once would make that a reset."""

    async def run() -> None:
        listener, port = await listening(body=1000)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("Content-Length: 20000000", line="POST / HTTP/1.1"))
        for _ in range(40):
            writer.write(b"x" * 500_000)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413 ")
        writer.close()
        await listener.close()

    uvloop.run(run())


def test_a_flood_by_a_client_that_does_not_read_stays_bounded() -> None:
    async def run() -> None:
        body = b"x" * 100_000
        served = 0

        def answers(got: Request) -> None:
            nonlocal served
            served += 1
            got.respond(200, b"OK", b"", body)

        listener, port = await listening(answers)
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport, too
        for _ in range(200):
            writer.write(request() * 16)
            await asyncio.sleep(0)
        before = -1
        while served != before:  # until nothing moves any more
            before = served
            await asyncio.sleep(0.05)
        assert served < 200, "far less than the 3,200 that were asked for: the kernel's buffers and one more"
        writer.close()
        await listener.close()

    uvloop.run(run())
