"""A client's connection while bodies come and go in parts: framing, who waits for whom, and slow clients."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.errors import RemoteProtocolError
from busmesh.relay.client.connection import Connection
from busmesh.relay.client.listener import Listener
from busmesh.relay.client.refusals import Limits
from busmesh.relay.client.request import Request
from busmesh.relay.flow import Receiver
from busmesh.relay.upload import Upload
from busmesh.wire.stream import Opening
from tests.relay.bodies import LAST, chunks
from tests.relay.transcript import request
from tests.relay.wires import HIGH_WATER, FakeTransport, read_message


class Inlet:
    """Takes the body of a request, as an upload does."""

    def __init__(self) -> None:
        self.body = b""
        self.trailers: bytes | None = None

    def write(self, data: bytes) -> None:
        self.body += data

    def end(self, trailers: bytes) -> None:
        assert self.trailers is None
        self.trailers = trailers


class Tide:
    """The receiver of a response, as a connection sees it: whether it is to grant more."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pause(self) -> None:
        self.lines.append("pause")

    def resume(self) -> None:
        self.lines.append("resume")


class Server:
    """A listener whose requests wait until the test serves them, and whose clock is the test's."""

    def __init__(self, **limits: Any) -> None:
        self.waiting: list[Request] = []
        self.inlets: dict[Request, Inlet] = {}
        self.abandoned: list[Request] = []
        self.listener = Listener(self._take, self.abandoned.append, Limits(**limits))
        self.listener.now = 1000.0

    def _take(self, got: Request) -> None:
        self.waiting.append(got)
        if got.opening is not None:
            inlet = self.inlets[got] = Inlet()
            got.upload = cast(Upload, inlet)
            inlet.body = got.body
            if got.complete:
                inlet.end(got.trailers)

    def client(self, *data: bytes) -> FakeTransport:
        client = FakeTransport(Connection(self.listener))
        for piece in data:
            client.protocol.data_received(piece)
        return client

    @property
    def serving(self) -> Request:
        return self.waiting[-1]

    @property
    def inlet(self) -> Inlet:
        return self.inlets[self.serving]

    def after(self, seconds: float) -> None:
        """Let so much time pass, with a look each second."""
        for _ in range(round(seconds)):
            self.listener.now += 1.0
            for connection in [c for c in self.listener.connections if c.deadline < self.listener.now]:
                connection.expire()


HEAD = b"HTTP/1.1 200 OK\r\n"
POST = request("Transfer-Encoding: chunked", line="POST / HTTP/1.1")


# -- framing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "opening", "lines", "body", "closed"),
    [
        (
            request(),
            Opening(),
            b"transfer-encoding: chunked\r\n",
            b"2\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n",
            False,
        ),
        (request(), Opening(3), b"content-length: 3\r\n", b"abc", False),
        (
            request("Connection: close"),
            Opening(),
            b"transfer-encoding: chunked\r\nconnection: close\r\n",
            b"2\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n",
            True,
        ),
        (
            request("Connection: close"),
            Opening(3),
            b"content-length: 3\r\nconnection: close\r\n",
            b"abc",
            True,
        ),
        (request(line="GET / HTTP/1.0"), Opening(), b"connection: close\r\n", b"abc", True),
        (
            request("Connection: keep-alive", line="GET / HTTP/1.0"),
            Opening(),
            b"connection: close\r\n",
            b"abc",
            True,
        ),
        (
            request("Connection: keep-alive", line="GET / HTTP/1.0"),
            Opening(3),
            b"content-length: 3\r\nconnection: keep-alive\r\n",
            b"abc",
            False,
        ),
    ],
)
def test_a_response_in_parts(asked: bytes, opening: Opening, lines: bytes, body: bytes, closed: bool) -> None:
    server = Server()
    client = server.client(asked)
    serving = server.serving
    serving.begin(200, b"OK", b"X-App: 1\r\n", opening)
    assert client.written == HEAD + b"X-App: 1\r\n" + lines + b"\r\n"
    serving.write(b"ab")
    serving.write(b"c")
    assert not client.is_closing()
    serving.finish(b"X: y\r\n")
    assert client.written == HEAD + b"X-App: 1\r\n" + lines + b"\r\n" + body
    assert client.is_closing() is closed


def test_the_next_request_is_served_when_the_response_has_ended() -> None:
    server = Server()
    client = server.client(request(line="GET /1 HTTP/1.1") + request(line="GET /2 HTTP/1.1"))
    first = server.serving
    first.begin(200, b"OK", b"", Opening())
    first.write(b"abc")
    assert len(server.waiting) == 1
    first.finish(b"")
    assert [waiting.head.target for waiting in server.waiting] == [b"/1", b"/2"]
    first.write(b"late")
    first.finish(b"")
    first.break_off()
    server.serving.respond(200, b"OK", b"", b"second")
    assert read_message(read_message(client.written).rest).body == b"second"
    assert client.written.count(b"HTTP/1.1") == 2
    assert b"late" not in client.written


def test_more_than_was_declared_is_not_written() -> None:
    server = Server()
    client = server.client(request())
    server.serving.begin(200, b"OK", b"", Opening(3))
    server.serving.write(b"ab")
    before = client.written
    with pytest.raises(RemoteProtocolError, match="more"):
        server.serving.write(b"cd")
    assert client.written == before


def test_less_than_was_declared_does_not_end() -> None:
    server = Server()
    client = server.client(request() * 2)
    server.serving.begin(200, b"OK", b"", Opening(3))
    server.serving.write(b"ab")
    with pytest.raises(RemoteProtocolError, match="less"):
        server.serving.finish(b"")
    assert len(server.waiting) == 1
    server.serving.break_off()
    assert client.is_lost()
    assert len(server.waiting) == 1


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("HEAD", 404)])
def test_a_response_that_has_no_body_does_not_come_in_parts(method: str, status: int) -> None:
    server = Server()
    client = server.client(request(line=f"{method} / HTTP/1.1"))
    with pytest.raises(RemoteProtocolError):
        server.serving.begin(status, b"", b"", Opening())
    assert client.written == b""
    server.serving.respond(502, b"Bad", b"", b"")
    assert client.written.startswith(b"HTTP/1.1 502 Bad\r\n")


def test_a_response_that_is_broken_off_has_no_end() -> None:
    server = Server()
    client = server.client(request() * 2)
    server.serving.begin(200, b"OK", b"", Opening())
    server.serving.write(b"abc")
    server.serving.break_off()
    assert client.is_lost()
    assert client.written.endswith(b"3\r\nabc\r\n")
    assert server.abandoned == [], "whoever broke it off knows"
    assert len(server.waiting) == 1


def test_a_client_that_goes_within_its_response_is_written_no_more() -> None:
    server = Server()
    client = server.client(request())
    serving = server.serving
    serving.begin(200, b"OK", b"", Opening(10))
    client.lose()
    assert server.abandoned == [serving]
    serving.write(b"x" * 20)
    serving.finish(b"")
    serving.interim(103, b"", b"")
    serving.break_off()


def test_interim_responses_come_before_and_never_within() -> None:
    server = Server()
    client = server.client(request() * 2)
    first = server.serving
    first.interim(103, b"Early Hints", b"Link: </a>\r\n")
    first.begin(200, b"OK", b"", Opening())
    first.interim(103, b"Early Hints", b"")
    first.finish(b"")
    first.interim(103, b"Early Hints", b"")
    assert client.written.count(b"HTTP/1.1 103") == 1
    assert client.written.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")


# -- who waits for whom ----------------------------------------------------------------------------


def test_a_client_that_does_not_read_makes_its_response_wait() -> None:
    server, tide = Server(), Tide()
    client = server.client(request())
    client.blocked = True
    server.serving.begin(200, b"OK", b"", Opening())
    server.serving.download = cast(Receiver, tide)
    assert server.serving.reads
    server.serving.write(b"x" * HIGH_WATER)
    assert (tide.lines, server.serving.reads) == (["pause"], False)
    client.take()
    assert (tide.lines, server.serving.reads) == (["pause", "resume"], True)


def test_a_body_is_taken_as_it_comes() -> None:
    server = Server()
    client = server.client(POST + chunks(b"abc"))
    assert server.inlet.body == b"abc"
    client.protocol.data_received(chunks(b"def"))
    assert server.inlet.body == b"abcdef"
    client.protocol.data_received(b"0\r\nX-Sum: 1\r\n\r\n" + request(line="GET /next HTTP/1.1"))
    assert server.inlet.trailers == b"X-Sum: 1\r\n"
    server.serving.respond(200, b"OK", b"", b"")
    assert server.serving.head.target == b"/next"


def test_nothing_is_read_while_whoever_takes_the_body_is_behind() -> None:
    server = Server()
    client = server.client(POST)
    server.serving.pause_reading()
    server.serving.pause_reading()
    assert not client.is_reading()
    server.serving.resume_reading()
    assert client.is_reading()


def test_the_body_of_a_request_that_waits_its_turn_waits_with_it() -> None:
    server = Server()
    client = server.client(request(line="GET /1 HTTP/1.1") + POST + chunks(b"abc"))
    assert not client.is_reading(), "else it would pile up here"
    assert [waiting.head.method for waiting in server.waiting] == [b"GET"]
    server.serving.respond(200, b"OK", b"", b"")
    assert client.is_reading()
    assert server.inlet.body == b"abc"
    client.protocol.data_received(chunks(b"def") + LAST)
    assert (server.inlet.body, server.inlet.trailers) == (b"abcdef", b"")


def test_a_body_that_has_come_while_its_request_waited_is_whole() -> None:
    server = Server()
    client = server.client(request(line="GET /1 HTTP/1.1") + POST + chunks(b"abc"))
    client.protocol.data_received(b"0\r\nX: y\r\n\r\n")
    server.serving.respond(200, b"OK", b"", b"")
    assert (server.inlet.body, server.inlet.trailers) == (b"abc", b"X: y\r\n")


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_request_that_is_answered_before_its_body_has_come_is_the_last(in_parts: bool) -> None:
    server = Server()
    client = server.client(POST + chunks(b"abc"))
    serving, inlet = server.serving, server.inlet
    serving.pause_reading()
    if in_parts:
        serving.begin(200, b"OK", b"", Opening())
        serving.finish(b"")
    else:
        serving.respond(200, b"OK", b"", b"")
        assert read_message(client.written).header("connection") == "close"
    assert client.is_ended()
    assert client.is_reading(), "a client that still sends could not read its answer"
    client.protocol.data_received(chunks(b"def") + LAST + request())
    assert inlet.body == b"abc"
    assert server.waiting == [serving]
    server.after(4.0)
    assert client.is_closing()


def test_a_response_that_began_before_the_body_was_here_may_keep_the_connection() -> None:
    server = Server()
    client = server.client(POST)
    serving = server.serving
    serving.begin(200, b"OK", b"", Opening())
    client.protocol.data_received(chunks(b"abc") + LAST + request(line="GET /next HTTP/1.1"))
    assert server.waiting == [serving]
    serving.finish(b"")
    assert server.serving.head.target == b"/next"
    assert not client.is_closing()


@pytest.mark.parametrize("begun", [False, True])
def test_a_body_that_turns_bad_ends_the_request(begun: bool) -> None:
    server = Server()
    client = server.client(POST + chunks(b"abc"))
    serving = server.serving
    if begun:
        serving.begin(200, b"OK", b"", Opening())
    client.protocol.data_received(b"zz\r\n")
    assert server.abandoned == [serving]
    assert server.inlet.trailers is None
    if begun:
        assert client.is_lost()
    else:
        assert read_message(client.written).status == 400
        assert client.is_ended()


def test_a_body_that_turns_bad_while_its_request_waits_takes_its_place() -> None:
    server = Server()
    client = server.client(request() + POST + chunks(b"abc"), b"zz\r\n")
    server.serving.respond(200, b"OK", b"", b"")
    assert len(server.waiting) == 1
    assert read_message(read_message(client.written).rest).status == 400
    assert server.abandoned == []


def test_an_end_within_a_body_that_is_served_is_told() -> None:
    server = Server()
    client = server.client(POST + chunks(b"abc"))
    client.end()
    assert server.abandoned == [server.serving]
    assert read_message(client.written).status == 400


# -- slow clients ----------------------------------------------------------------------------------

RATES = {"min_rate": 100, "rate_grace": 5.0}


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    server = Server(**RATES)
    client = server.client(POST)
    for _ in range(4):
        client.protocol.data_received(chunks(b"x" * 20))
        server.after(1.0)
    assert client.written == b""
    server.after(3.0)
    assert read_message(client.written).status == 408
    assert server.abandoned == server.waiting
    assert server.inlet.trailers is None


def test_a_body_that_comes_fast_enough_has_any_time() -> None:
    server = Server(**RATES)
    client = server.client(POST)
    for _ in range(200):
        client.protocol.data_received(chunks(b"x" * 110))
        server.after(1.0)
    assert client.written == b""
    assert len(server.inlet.body) == 22_000


def test_a_body_may_come_in_bursts() -> None:
    server = Server(**RATES)
    client = server.client(POST)
    for _ in range(20):
        client.protocol.data_received(chunks(b"x" * 1000))
        server.after(4.0)
    assert client.written == b""


def test_a_client_is_not_blamed_for_an_application_that_is_behind() -> None:
    server = Server(**RATES)
    client = server.client(POST + chunks(b"abc"))
    server.serving.pause_reading()
    server.after(100.0)
    assert client.written == b""
    server.serving.resume_reading()
    server.after(4.0)
    assert client.written == b""
    server.after(3.0)
    assert read_message(client.written).status == 408


def test_a_client_that_waits_to_be_invited_is_not_slow() -> None:
    """It sends when the application says so, and that takes its time."""
    server = Server(**RATES)
    client = server.client(request("Expect: 100-continue", "Content-Length: 1000", line="POST / HTTP/1.1"))
    server.after(60.0)
    assert client.written == b""
    server.serving.interim(100, b"Continue", b"")
    server.after(4.0)
    assert read_message(client.written).status == 100
    server.after(3.0)
    assert read_message(read_message(client.written).rest).status == 408


def test_a_client_that_does_not_wait_to_be_invited_must_not_be_slow() -> None:
    server = Server(**RATES)
    client = server.client(request("Expect: 100-continue", "Content-Length: 1000", line="POST / HTTP/1.1"))
    server.after(60.0)
    client.protocol.data_received(b"x")
    server.after(4.0)
    assert client.written == b""
    server.after(3.0)
    assert read_message(client.written).status == 408


def test_a_client_that_reads_its_response_too_slowly_is_cut() -> None:
    server = Server(**RATES)
    client = server.client(request())
    client.blocked = True
    serving = server.serving
    serving.begin(200, b"OK", b"", Opening())
    serving.write(b"x" * 100_000)
    for _ in range(4):
        client.take(20)
        server.after(1.0)
    assert not client.is_lost()
    server.after(3.0)
    assert client.is_lost()
    assert not client.is_ended()
    assert server.abandoned == [serving]


def test_a_client_that_reads_its_response_fast_enough_has_any_time() -> None:
    server = Server(**RATES)
    client = server.client(request())
    client.blocked = True
    server.serving.begin(200, b"OK", b"", Opening())
    server.serving.write(b"x" * 100_000)
    for _ in range(200):
        client.take(110)
        server.after(1.0)
    assert not client.is_lost()


def test_a_response_that_rests_is_no_fault_of_its_client() -> None:
    """Events come when they come."""
    server = Server(**RATES)
    client = server.client(request())
    server.serving.begin(200, b"OK", b"", Opening())
    for _ in range(50):
        server.serving.write(b"tick")
        server.after(20.0)
    assert not client.is_lost()


def test_a_slow_body_within_a_response_is_cut() -> None:
    server = Server(**RATES)
    client = server.client(POST)
    server.serving.begin(200, b"OK", b"", Opening())
    server.after(7.0)
    assert client.is_lost()
    assert server.abandoned == [server.serving]


def test_a_switched_connection_may_rest() -> None:
    server = Server(**RATES)
    client = server.client(request("Connection: upgrade", "Upgrade: websocket"))
    server.serving.begin(101, b"", b"", Opening(upgrade=b"websocket"))
    server.after(1000.0)
    assert not client.is_lost()


def test_no_rate_means_any() -> None:
    server = Server(min_rate=0)
    client = server.client(POST)
    client.blocked = True
    server.serving.begin(200, b"OK", b"", Opening())
    server.serving.write(b"x" * 100_000)
    server.after(1000.0)
    assert not client.is_lost()


# -- properties ------------------------------------------------------------------------------------

_ANSWERS = st.lists(
    st.tuples(
        st.sampled_from(["whole", "chunked", "length", "broken"]),
        st.lists(st.binary(min_size=1, max_size=20), max_size=4),
        st.sampled_from([b"", b"X: y\r\n"]),
    ),
    max_size=4,
)
_ASKED = st.sampled_from(
    [
        request(),
        request(line="POST / HTTP/1.1") + b"",
        POST + chunks(b"abc") + LAST,
        request("Content-Length: 3", line="POST / HTTP/1.1", body=b"abc"),
        request("Connection: keep-alive", line="GET / HTTP/1.0"),
        request("Connection: close"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_ASKED, min_size=1, max_size=4), _ANSWERS, st.integers(1, 60), st.integers(0, 50))
def test_responses_come_in_order_each_as_it_was_given(
    asked: list[bytes], answers: list[tuple[str, list[bytes], bytes]], cut: int, early: int
) -> None:
    server = Server()
    data = b"".join(asked)
    client = server.client(*(data[at : at + cut] for at in range(0, len(data), cut)))
    served = 0
    given: list[tuple[bytes, bool]] = []
    for how, parts, trailers in answers:
        if served == len(server.waiting) or client.is_closing() or client.is_ended():
            break
        serving = server.waiting[served]
        served += 1
        body = b"".join(parts)
        given.append((body, how != "broken"))
        if how == "whole":
            serving.respond(200, b"OK", b"", body)
            continue
        serving.begin(200, b"OK", b"", Opening(len(body) if how == "length" else None))
        for part in parts:
            serving.write(part)
        if how == "broken":
            serving.break_off()
        else:
            serving.finish(trailers)
    rest = client.written
    for body, whole in given:
        message = read_message(rest)
        assert message.body == body
        until_close = message.header("transfer-encoding") is None and message.header("content-length") is None
        assert message.whole is (whole and not until_close)
        assert client.is_lost() or not until_close
        rest = b"" if until_close else message.rest
    assert rest == b""
    assert served <= len(server.waiting) <= served + 1
