"""Responses of the application, parsed strictly: whatever it sends, each call ends once and as its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.relay.application.call import AppFailure, AppResponse, Call, Consumer
from busmesh.relay.application.connection import AppConnection
from busmesh.relay.application.parsing import MAX_INTERIM
from busmesh.relay.flow import Receiver
from busmesh.relay.outbox import Outbox
from busmesh.wire.http import decode_response, encode_response
from busmesh.wire.stream import Opening, decode_end, encode_end
from tests.relay.wires import FakeTransport, freed_when_lost

REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Desk:
    """The pool, as a connection sees it: notes what it is told."""

    def __init__(self, max_body: int = 1000) -> None:
        self.outbox = Outbox()
        self.max_body = max_body
        self.resting = 0
        self.forgotten = 0
        self.ended: list[AppResponse | AppFailure] = []
        self.transport = FakeTransport(AppConnection(self))
        self.connection: AppConnection = self.transport.protocol

    def rest(self, connection: AppConnection) -> None:
        assert connection is self.connection
        self.resting += 1

    def forget(self, connection: AppConnection) -> None:
        self.forgotten += 1

    def end(self, call: Call, result: AppResponse | AppFailure) -> None:
        call.connection = None
        if not call.cancelled:
            call.done(result)

    def call(self, method: str = "GET") -> Call:
        call = Call(method.encode(), REQUEST, self.ended.append)
        self.connection.start(call)
        return call

    def send(self, *pieces: bytes) -> None:
        """The application sends; the network stops delivering when the connection is closed."""
        for piece in pieces:
            if not self.transport.is_closing():
                self.connection.data_received(piece)


def ask(*pieces: bytes, method: str = "GET", close: bool = False, max_body: int = 1000) -> Desk:
    """Make one call and let the application send ``pieces``, and then close if asked."""
    desk = Desk(max_body)
    desk.call(method)
    desk.send(*pieces)
    if close:
        desk.transport.lose()
    return desk


def the_response(desk: Desk) -> AppResponse:
    [result] = desk.ended
    assert isinstance(result, AppResponse), result
    return result


def the_failure(desk: Desk) -> AppFailure:
    [result] = desk.ended
    assert isinstance(result, AppFailure), result
    assert desk.resting == 0
    assert desk.transport.is_closing()
    return result


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


# -- responses -----------------------------------------------------------------------------------


def test_a_response_keeps_its_headers_and_loses_those_of_the_hop() -> None:
    desk = ask(
        head(
            "Server: x",
            "Date: now",
            "Set-Cookie: a=1",
            "set-cookie: b=2",
            "Connection: keep-alive, x",
            "Keep-Alive: timeout=5",
            "x-busmesh-flags: UH",
            "X_Busmesh_Flags: UH",
            "X-Forwarded-Client-Cert: x",
            "Content_Length: 5",
            "Expect: x",
            "X_Own: 1",
            "Content-Length: 2",
            status="200 Fine indeed",
        )
        + b"ok"
    )
    response = the_response(desk)
    kept = b"Server: x\r\nDate: now\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX_Own: 1\r\n"
    assert response.headers == kept
    assert (response.status, response.reason, response.body) == (200, b"Fine indeed", b"ok")
    assert desk.resting == 1


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([head("Content-Length: 3"), b"abc"], b"abc"),
        ([head("Content-Length: 3 \t"), b"a", b"bc"], b"abc"),
        ([head("Content-Length: 0")], b""),
        ([head("Transfer-Encoding: chunked"), b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"], b"abcd"),
        ([head("Transfer-Encoding: Chunked "), b"3;a=b\r\nabc\r\n0\r\nX: trailer\r\n\r\n"], b"abc"),
        ([head(status="204 No Content")], b""),
        ([head(status="304 Not Modified")], b""),
        ([head("Content-Length: 77", status="304 Not Modified")], b""),
        ([head("Content-Length: 3", status="404 Not Found"), b"no!"], b"no!"),
        ([head("Content-Length: 3", status="200 "), b"abc"], b"abc"),
        ([b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", b"abc"], b"abc"),
    ],
)
def test_where_a_body_ends(pieces: Sequence[bytes], body: bytes) -> None:
    desk = ask(*pieces)
    assert the_response(desk).body == body
    assert desk.resting == 1, "the connection takes the next call"
    assert not desk.transport.is_closing()


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.0 200 OK\r\n\r\n", b"abc"],
        [head("Connection: close"), b"abc"],
        [head(), b"a", b"bc"],
    ],
)
def test_a_body_without_length_ends_with_the_connection(pieces: list[bytes]) -> None:
    desk = ask(*pieces)
    assert desk.ended == []
    desk.transport.lose()
    assert the_response(desk).body == b"abc"
    assert desk.resting == 0
    reset = ask(*pieces)
    reset.transport.lose(ConnectionResetError())
    assert the_failure(reset).code == "application_reset"


@pytest.mark.parametrize(
    ("lines", "declared"),
    [(["Content-Length: 12345"], 12345), (["Transfer-Encoding: chunked"], None), ([], None)],
)
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_head_has_a_length_and_no_body(lines: list[str], declared: int | None, status: str) -> None:
    desk = ask(head(*lines, status=status), method="HEAD")
    response = the_response(desk)
    assert (response.declared, response.body) == (declared, b"")


def test_calls_after_a_head_get_their_own_responses() -> None:
    """A parser that waits for the body that HEAD announced takes the next response for it."""
    desk = Desk()
    for method, answer, body in [
        ("GET", OK, b"ok"),
        ("HEAD", head("Content-Length: 30", "X: 1"), b""),
        ("GET", OK, b"ok"),
        ("HEAD", head("Transfer-Encoding: chunked"), b""),
        ("HEAD", head("Content-Length: 0"), b""),
        ("GET", head("Content-Length: 3") + b"end", b"end"),
    ]:
        desk.call(method)
        desk.send(answer)
        assert the_response(desk).body == body
        desk.ended.clear()
    assert desk.resting == 6


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_interim_responses_are_not_the_response(interim: str) -> None:
    first = head("Link: </a>", "Content-Length: 5", status=interim)
    final = head("Date: now", "Content-Length: 2") + b"ok"
    for pieces in ([first + final], [first, final], [first, first, final]):
        response = the_response(ask(*pieces))
        assert (response.status, response.headers, response.body) == (200, b"Date: now\r\n", b"ok")


def test_a_response_without_a_date_gets_the_time_at_which_it_came() -> None:
    """RFC 9110 section 6.6.1: whoever passes it on adds it, as the caller has no way to know."""
    before = int(time.time())
    name, _, value = the_response(ask(OK)).headers.partition(b": ")
    assert name == b"date"
    assert before <= parsedate_to_datetime(value.decode().strip()).timestamp() <= time.time()


def test_an_interim_response_alone_is_none() -> None:
    assert the_failure(ask(head(status="100 Continue"), close=True)).code == "application_reset"


@pytest.mark.parametrize("reason", ["Caf\xe9", "a b-c!", "\t"])
def test_reasons_pass(reason: str) -> None:
    response = the_response(ask(head("Content-Length: 0", status=f"200 {reason}")))
    assert response.reason.strip() == reason.encode("latin-1").strip()


def test_a_reason_that_nobody_may_write_is_left_out() -> None:
    """Else the caller's agent would take the frame for forged and the response for lost."""
    assert the_response(ask(head("Content-Length: 0", status="200 a\x01b"))).reason == b""


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        head("Content-Length: 2", "Content-Length: 2") + b"ok",
        head("Content-Length: 2", "Content-Length: 3") + b"ok",
        head("Content-Length: +2") + b"ok",
        head("Content-Length: 2, 2") + b"ok",
        head("Content-Length: 99999999999999999999999") + b"ok",
        head("Content-Length: 2", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked", "Content-Length: 2") + b"0\r\n\r\n",
        head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: gzip") + b"ok",
        head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"zz\r\n",
        head("Transfer-Encoding: chunked") + b"3\r\nabcd\r\n",
        head("Content-Length: 0", "X : a"),
        head("Content-Length: 0", "X: a\x00b"),
        head("Content-Length: 0", "X: a", " folded"),
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        head("Content-Length: 0", status="600 Strange"),
        head("Content-Length: 0", status="999 Strange"),
        head("Content-Length: 0", status="000 Strange"),
        head("Content-Length: 0", status="150 Strange"),
    ],
)
def test_bad_responses(data: bytes) -> None:
    failure = the_failure(ask(data))
    assert (failure.code, failure.processed) == ("bad_response", True)
    assert "application" in failure.message
    one_by_one = the_failure(ask(*(data[at : at + 1] for at in range(len(data)))))
    assert one_by_one.code == "bad_response"


def test_switching_protocols_is_not_relayed() -> None:
    data = head("Connection: upgrade", "Upgrade: websocket", status="101 Switching Protocols")
    assert the_failure(ask(data + b"\x81\x00")).code == "upgrade_not_supported"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"HTTP/1.1 200 OK\r\nContent-"],
        [head("Content-Length: 3"), b"ab"],
        [head("Transfer-Encoding: chunked"), b"3\r\nabc\r\n"],
    ],
)
def test_closed_before_the_end(pieces: list[bytes]) -> None:
    """The application may have done the work: the outcome is unknown."""
    failure = the_failure(ask(*pieces, close=True))
    assert (failure.code, failure.processed) == ("application_reset", True)


@pytest.mark.parametrize("start", [head("Content-Length: 1001"), head("Transfer-Encoding: chunked"), head()])
def test_a_body_too_large(start: bytes) -> None:
    chunk = b"64\r\n" + b"x" * 100 + b"\r\n" if b"chunked" in start else b"x" * 100
    failure = the_failure(ask(start, *[chunk] * 11))
    assert failure.code == "response_too_large"
    assert "1000 bytes" in failure.message


@pytest.mark.parametrize("cut", [1_000_000, 1000])
@pytest.mark.parametrize(
    "data",
    [
        head("X: " + "a" * 70_000, "Content-Length: 0"),
        head("X: " + "a" * 500_000),
        head(*["X: a"] * 201, "Content-Length: 0"),
        head(*["X: a"] * 100_000),
        head("Content-Length: 0", status="200 " + "a" * 70_000),
    ],
)
def test_heads_too_large(data: bytes, cut: int) -> None:
    failure = the_failure(ask(*(data[at : at + cut] for at in range(0, len(data), cut))))
    assert failure.code == "response_headers_too_large"


@pytest.mark.parametrize("endless", [b"1;", b"0\r\nX: ", b"0\r\n"])
def test_endless_trailers_and_chunk_extensions(endless: bytes) -> None:
    more = b"a: b\r\n" * 1000 if endless == b"0\r\n" else b"a" * 6000
    failure = the_failure(ask(head("Transfer-Encoding: chunked") + endless, *[more] * 12))
    assert failure.code == "response_headers_too_large"


def test_headers_up_to_the_limit_pass() -> None:
    data = head("X: " + "a" * 65_000, "Content-Length: 0")
    assert the_response(ask(data)).status == 200
    assert the_response(ask(data[:40_000], data[40_000:])).status == 200
    assert the_response(ask(head(*["X: a"] * 199, "Content-Length: 0"))).status == 200


# -- one response answers one call -------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra", [OK, b"HTTP/1.1 200 OK\r\nX: smuggled\r\n\r\n", b"\r\n\r\n", b"junk", b"HTTP/1.1 2", b"\x00"]
)
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", OK),
        ("GET", head("Transfer-Encoding: chunked") + b"2\r\nok\r\n0\r\n\r\n"),
        ("GET", head(status="204 No Content")),
        ("GET", head("Content-Length: 5", status="304 Not Modified")),
        ("HEAD", head("Content-Length: 500")),
        ("HEAD", head("Transfer-Encoding: chunked")),
        ("GET", head("Content-Length: 2", "Connection: close") + b"ok"),
    ],
)
def test_what_comes_with_a_response_never_answers_the_next_call(
    method: str, answer: bytes, extra: bytes
) -> None:
    desk = ask(answer + extra, method=method)
    assert the_response(desk).status in (200, 204, 304)
    if extra == b"\r\n\r\n":  # blank lines between messages mean nothing, but then nothing else may follow
        return
    assert desk.resting == 0
    assert desk.transport.is_closing()


def test_what_comes_while_nothing_was_asked_closes_the_connection() -> None:
    desk = ask(OK)
    desk.send(OK)
    assert desk.transport.is_lost()
    assert len(desk.ended) == 1
    assert not desk.connection.usable


def test_a_response_that_closes_is_the_last() -> None:
    desk = ask(head("Content-Length: 2", "Connection: close") + b"ok")
    assert the_response(desk).body == b"ok"
    assert desk.resting == 0
    assert desk.transport.is_closing()


# -- cancelling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[], [OK], [OK[:-1]], [head("Connection: close")], [b"nonsense"]])
def test_a_connection_that_ends_leaves_nothing_for_the_collector(pieces: list[bytes]) -> None:
    """An application that closes after each response has one for each request."""
    desk = ask(*pieces)
    del desk.connection
    assert freed_when_lost(desk.transport)


def test_cancelling_closes_the_connection_and_tells_nothing() -> None:
    desk = Desk()
    call = desk.call()
    desk.send(head("Content-Length: 2"), b"o")
    call.cancel()
    assert desk.transport.is_lost()
    assert (desk.ended, desk.forgotten) == ([], 1)


def test_cancelling_a_finished_call_leaves_the_connection() -> None:
    desk = Desk()
    call = desk.call()
    desk.send(OK)
    desk.call()
    call.cancel()
    assert not desk.transport.is_closing()


# -- responses in parts ------------------------------------------------------------------------------


class Taker:
    """A consumer that notes what it is told, and holds to what it is promised."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.head: AppResponse | None = None
        self.opening: Opening | None = None
        self.body = b""
        self.trailers = b""
        self.over = False

    def interim(self, status: int, reason: bytes, headers: bytes) -> None:
        assert self.head is None
        self.lines.append(f"interim {status} {headers.decode()}".strip())

    def begin(self, response: AppResponse, opening: Opening) -> None:
        assert self.head is None
        assert response.body == b""
        self.head, self.opening = response, opening
        self.lines.append(f"begin {response.status}")

    def data(self, data: bytes) -> None:
        assert self.head is not None
        assert not self.over
        if data:
            self.body += data
            self.lines.append(f"{len(data)} bytes")

    def end(self, trailers: bytes) -> None:
        assert self.head is not None
        assert not self.over
        self.over, self.trailers = True, trailers
        self.lines.append("end")

    def reset(self, failure: AppFailure) -> None:
        assert self.head is not None
        self.over = True
        self.lines.append(f"reset {failure.code}")


class Tide:
    """The receiver of an upload, as a connection sees it: notes whether it is to grant more."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pause(self) -> None:
        self.lines.append("pause")

    def resume(self) -> None:
        self.lines.append("resume")


def opened(
    desk: Desk, taker: Taker, method: str = "GET", opening: Opening | None = None, tide: Tide | None = None
) -> Call:
    """Make a call whose response may come in parts, with an open body if there is an ``opening``."""
    call = Call(
        method.encode(),
        REQUEST,
        desk.ended.append,
        opening=opening,
        consumer=cast(Consumer, taker),
        upload=cast(Receiver, tide) if tide is not None else None,
    )
    desk.connection.start(call)
    return call


def consume(*pieces: bytes, method: str = "GET", opening: Opening | None = None) -> tuple[Desk, Taker]:
    desk, taker = Desk(), Taker()
    opened(desk, taker, method, opening)
    desk.send(*pieces)
    return desk, taker


CHUNKED = head("Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("pieces", "length", "lines"),
    [
        ([head("Content-Length: 70000"), b"x" * 70_000], 70_000, ["begin 200", "70000 bytes", "end"]),
        (
            [head("Content-Length: 70000") + b"x" * 10, b"x" * 69_990],
            70_000,
            ["begin 200", "10 bytes", "69990 bytes", "end"],
        ),
        ([CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n"], None, ["begin 200", "3 bytes", "end"]),
        ([CHUNKED + b"3\r\nab", b"c\r\n0\r\n\r\n"], None, ["begin 200", "2 bytes", "1 bytes", "end"]),
        ([CHUNKED + b"1\r\na\r\n2\r\nbc\r\n", b"0\r\n", b"\r\n"], None, ["begin 200", "3 bytes", "end"]),
        ([CHUNKED, b"0\r\n\r\n"], None, ["begin 200", "end"]),
        (
            [head("Transfer-Encoding: chunked", status="404 Not Found"), b"0\r\n\r\n"],
            None,
            ["begin 404", "end"],
        ),
    ],
)
def test_a_response_that_is_not_awaited_comes_in_parts(
    pieces: list[bytes], length: int | None, lines: list[str]
) -> None:
    desk, taker = consume(*pieces)
    assert (taker.lines, taker.opening) == (lines, Opening(length))
    assert desk.ended == []
    assert desk.resting == 1, "the connection takes the next call"
    assert not desk.transport.is_closing()


@pytest.mark.parametrize(
    ("pieces", "method"),
    [
        ([OK], "GET"),
        ([head("Content-Length: 65536"), b"x" * 65_535, b"x"], "GET"),
        ([CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"], "GET"),
        ([head(status="204 No Content")], "GET"),
        ([head("Content-Length: 9000000", status="304 Not Modified")], "GET"),
        ([head("Content-Length: 9000000")], "HEAD"),
        ([CHUNKED], "HEAD"),
        ([head()], "HEAD"),
    ],
)
def test_a_response_that_is_small_or_here_is_whole(pieces: list[bytes], method: str) -> None:
    desk, taker = consume(*pieces, method=method)
    assert taker.lines == []
    assert the_response(desk).status in (200, 204, 304)
    assert desk.resting == (0 if pieces == [head()] else 1)


def test_a_response_without_length_ends_with_the_connection_in_parts_too() -> None:
    for error, last in ((None, "end"), (ConnectionResetError(), "reset application_reset")):
        desk, taker = consume(head(), b"abc", b"def")
        assert taker.lines == ["begin 200", "3 bytes", "3 bytes"]
        desk.transport.lose(error)
        assert taker.lines[3:] == [last]
        assert (desk.ended, desk.resting, desk.forgotten) == ([], 0, 1)


@pytest.mark.parametrize(
    "pieces", [[CHUNKED, b"3\r\nabc\r\n"], [head("Content-Length: 70000"), b"abc"], [CHUNKED, b"3\r\nabc"]]
)
def test_a_response_in_parts_that_is_cut_is_reset(pieces: list[bytes]) -> None:
    desk, taker = consume(*pieces)
    desk.transport.lose()
    assert taker.lines == ["begin 200", "3 bytes", "reset application_reset"]
    assert desk.ended == []


@pytest.mark.parametrize("bad", [b"zz\r\n", b"3\r\nabcd\r\n", b"0\r\nX : y\r\n\r\n", b"-1\r\n"])
def test_nonsense_within_a_response_in_parts_resets_it(bad: bytes) -> None:
    desk, taker = consume(CHUNKED, b"3\r\nabc\r\n", bad)
    assert (taker.lines[0], taker.lines[-1]) == ("begin 200", "reset bad_response")
    assert taker.body in (b"abc", b"abcabc")
    assert desk.ended == []
    assert desk.transport.is_lost()


@pytest.mark.parametrize("endless", [b"1;", b"0\r\nX: ", b"0\r\n"])
def test_endless_trailers_reset_a_response_in_parts(endless: bytes) -> None:
    more = b"a: b\r\n" * 1000 if endless == b"0\r\n" else b"a" * 6000
    desk, taker = consume(CHUNKED, b"3\r\nabc\r\n", endless, *[more] * 12)
    assert taker.lines == ["begin 200", "3 bytes", "reset response_headers_too_large"]
    assert desk.transport.is_lost()


def test_a_body_in_parts_has_any_size() -> None:
    desk = Desk(max_body=10)
    taker = Taker()
    opened(desk, taker)
    desk.send(CHUNKED, *[b"2710\r\n" + b"x" * 10_000 + b"\r\n"] * 50, b"0\r\n\r\n")
    assert (len(taker.body), taker.lines[-1]) == (500_000, "end")


@pytest.mark.parametrize("pieces", [1, 2, 500])
def test_trailers_come_with_the_end(pieces: int) -> None:
    lines = (
        b"X-Sum: 1\r\nContent-Type: x\r\nSet-Cookie: a=b\r\nKeep-Alive: a\r\nx-busmesh-a: 1\r\n"
        b"X_Forwarded_Client_Cert: x\r\nContent_Length: 3\r\nX_BUSMESH_A: 1\r\nx_own: 2\r\n"
    )
    data = CHUNKED + b"3\r\nabc\r\n0\r\n" + lines + b"\r\n"
    step = -(-len(data) // pieces)
    desk, taker = consume(*(data[at : at + step] for at in range(0, len(data), step)))
    assert (taker.body, taker.trailers) == (b"abc", b"X-Sum: 1\r\nx_own: 2\r\n")
    assert decode_end(encode_end(0, taker.trailers)) == (0, taker.trailers)
    assert taker.lines[-1] == "end"
    assert desk.resting == 1


def test_what_follows_the_head_for_a_head_request_is_no_trailer() -> None:
    desk, taker = consume(CHUNKED + b"0\r\nA: b\r\n\r\n", method="HEAD")
    assert the_response(desk).status == 200
    assert taker.head is None
    assert (desk.resting, desk.transport.is_closing()) == (0, True)


def test_trailers_that_come_in_one_read_have_the_same_bound() -> None:
    for lines in (b"X: " + b"a" * 70_000 + b"\r\n", b"X: y\r\n" * 300):
        desk, taker = consume(CHUNKED + b"3\r\nabc\r\n0\r\n" + lines + b"\r\n")
        assert the_failure(desk).code == "response_headers_too_large"
        assert taker.lines == []


def test_a_response_in_parts_before_the_request_is_whole_is_the_last() -> None:
    """The application may wait for the rest, or take it for another request."""
    desk, taker = consume(CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n", method="POST", opening=Opening())
    assert taker.lines == ["begin 200", "3 bytes", "end"]
    assert desk.resting == 0
    assert desk.transport.is_closing()
    whole, _ = consume(OK, method="POST", opening=Opening(3))
    assert the_response(whole).body == b"ok"
    assert whole.transport.is_closing()


def test_a_response_in_parts_that_closes_is_the_last() -> None:
    desk, taker = consume(head("Transfer-Encoding: chunked", "Connection: close"), b"0\r\n\r\n")
    assert taker.lines == ["begin 200", "end"]
    assert desk.resting == 0
    assert desk.transport.is_closing()


def test_a_connection_that_was_paused_is_read_on_by_the_next_call() -> None:
    desk, taker = consume(CHUNKED, b"3\r\nabc\r\n")
    desk.connection.pause_reading()
    assert not desk.transport.is_reading()
    desk.connection.pause_reading()
    desk.connection.resume_reading()
    assert desk.transport.is_reading()
    desk.connection.pause_reading()
    desk.connection.data_received(b"0\r\n\r\n")
    assert taker.over
    assert desk.transport.is_reading()
    assert desk.resting == 1


def test_calls_after_a_response_in_parts_get_their_own() -> None:
    desk = Desk()
    for n in range(3):
        taker = Taker()
        opened(desk, taker)
        desk.send(CHUNKED, b"1\r\n%d\r\n" % n, b"0\r\n\r\n")
        assert (taker.body, taker.over) == (b"%d" % n, True)
        desk.call()
        desk.send(OK)
        assert the_response(desk).body == b"ok"
        desk.ended.clear()
    assert desk.resting == 6


@pytest.mark.parametrize("extra", [OK, b"junk", b"\x00", b"0\r\n\r\n"])
def test_what_comes_with_the_end_of_a_response_in_parts_answers_nothing(extra: bytes) -> None:
    desk, taker = consume(CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n" + extra)
    assert taker.lines == ["begin 200", "3 bytes", "end"]
    assert desk.resting == 0
    assert desk.transport.is_closing()


def test_cancelling_within_a_response_in_parts_tells_nothing() -> None:
    desk, taker = Desk(), Taker()
    call = opened(desk, taker)
    desk.send(CHUNKED, b"3\r\nabc\r\n")
    call.cancel()
    assert desk.transport.is_lost()
    assert taker.lines == ["begin 200", "3 bytes"]
    assert desk.ended == []


# -- interim responses -------------------------------------------------------------------------------


def test_interim_responses_are_passed_on() -> None:
    first = head("Link: </a>", "x-busmesh-a: 1", "Connection: x", status="103 Early Hints")
    desk, taker = consume(first, first + head(status="102 Processing") + OK)
    hints = "interim 103 Link: </a>"
    assert taker.lines == [hints, hints, "interim 102"]
    assert the_response(desk).headers.startswith(b"date: "), "nothing of them is left in the final one"


@pytest.mark.parametrize(
    ("opening", "lines"),
    [(None, []), (Opening(3), []), (Opening(3, expects=True), ["interim 100"])],
)
def test_100_continue_is_for_those_who_expect_it(opening: Opening | None, lines: list[str]) -> None:
    _, taker = consume(head(status="100 Continue"), opening=opening)
    assert taker.lines == lines


def test_interim_responses_without_end_are_refused() -> None:
    desk, taker = consume(*[head(status="103 Early Hints")] * MAX_INTERIM)
    assert desk.ended == []
    assert len(taker.lines) == MAX_INTERIM
    desk.send(head(status="103 Early Hints"))
    assert the_failure(desk).code == "bad_response"


def test_the_count_of_interim_responses_begins_anew_with_each_call() -> None:
    desk = Desk()
    for _ in range(3):
        opened(desk, Taker())
        desk.send(*[head(status="103 Early Hints")] * (MAX_INTERIM - 1), OK)
        assert the_response(desk).status == 200
        desk.ended.clear()


def test_an_interim_response_that_is_too_large_is_not_passed_on() -> None:
    desk, taker = consume(head(*["X: a"] * 201, status="103 Early Hints"), OK)
    assert taker.lines == []
    assert desk.ended != []


# -- bodies of requests --------------------------------------------------------------------------------


def test_an_open_body_with_a_length_is_written_as_it_comes() -> None:
    desk = Desk()
    call = opened(desk, Taker(), "POST", Opening(6))
    call.write(b"abc")
    call.write(b"def")
    call.end(b"")
    assert desk.transport.written == REQUEST + b"abcdef"
    desk.send(OK)
    assert desk.resting == 1


def test_an_open_body_of_any_length_is_written_in_chunks() -> None:
    desk = Desk()
    call = opened(desk, Taker(), "POST", Opening())
    call.write(b"x" * 255)
    call.write(b"y")
    call.end(b"X-Sum: 1\r\n")
    assert desk.transport.written == (
        REQUEST + b"ff\r\n" + b"x" * 255 + b"\r\n1\r\ny\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    desk.send(OK)
    assert desk.resting == 1


def test_what_came_while_a_call_waited_is_written_when_it_starts() -> None:
    desk, taker, queue = Desk(), Taker(), deque[Call]()
    call = Call(b"POST", REQUEST, desk.ended.append, opening=Opening(), consumer=cast(Consumer, taker))
    call.wait(queue)
    call.write(b"ab")
    call.write(b"c")
    call.end(b"")
    queue.popleft()
    call.queue = None
    desk.connection.start(call)
    assert desk.transport.written == REQUEST + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


def test_what_comes_after_the_answer_is_dropped() -> None:
    desk = Desk()
    call = opened(desk, Taker(), "POST", Opening())
    desk.send(OK)
    before = desk.transport.written
    call.write(b"abc")
    call.end(b"")
    assert call.take_early() == []
    assert desk.transport.written == before


def test_an_application_that_does_not_keep_up_is_waited_for() -> None:
    desk, tide = Desk(), Tide()
    desk.transport.blocked = True
    call = opened(desk, Taker(), "POST", Opening(), tide)
    assert tide.lines == ["resume"]
    call.write(b"x" * 50_000)
    assert tide.lines == ["resume"]
    call.write(b"x" * 50_000)
    assert tide.lines == ["resume", "pause"]
    desk.transport.take()
    assert tide.lines == ["resume", "pause", "resume"]


def test_a_call_on_a_connection_that_is_behind_waits_from_the_beginning() -> None:
    """The application has answered and not read yet what it was sent; nobody will say so again."""
    desk, tide = Desk(), Tide()
    desk.transport.blocked = True
    call = opened(desk, Taker(), "POST", Opening())
    call.write(b"x" * 100_000)
    call.end(b"")
    desk.send(OK)
    assert desk.resting == 1
    opened(desk, Taker(), "POST", Opening(), tide)
    assert tide.lines == ["pause"]
    desk.transport.take()
    assert tide.lines == ["pause", "resume"]


# -- other protocols -----------------------------------------------------------------------------------

CHAT = Opening(upgrade=b"WebSocket")
SWITCH = head("Connection: upgrade", "Upgrade: websocket", "X: 1", status="101 Switching Protocols")


def test_after_a_switch_bytes_are_bytes() -> None:
    desk, taker = Desk(), Taker()
    call = opened(desk, taker, opening=CHAT)
    desk.send(SWITCH + b"HTTP/1.1 200", b"\x00" * 1000, OK)
    assert taker.head is not None
    assert (taker.head.status, taker.head.headers) == (101, b"X: 1\r\n")
    assert taker.opening == Opening(upgrade=b"websocket")
    assert taker.body == b"HTTP/1.1 200" + b"\x00" * 1000 + OK
    call.write(b"\x00\x01")
    assert desk.transport.written == REQUEST + b"\x00\x01"
    assert (desk.resting, desk.ended) == (0, [])


@pytest.mark.parametrize("first", ["application", "caller"])
def test_a_switched_connection_is_over_when_both_have_ended(first: str) -> None:
    desk, taker = Desk(), Taker()
    call = opened(desk, taker, opening=CHAT)
    desk.send(SWITCH)
    if first == "application":
        desk.transport.end()
        assert taker.lines == ["begin 101", "end"]
        assert not desk.transport.is_closing()
        call.write(b"more")
        call.end(b"")
    else:
        call.end(b"")
        assert desk.transport.is_ended()
        assert not desk.transport.is_closing()
        desk.send(b"more")
        desk.transport.end()
        assert taker.lines == ["begin 101", "4 bytes", "end"]
    assert desk.transport.is_lost()
    assert (desk.forgotten, desk.resting, desk.ended) == (1, 0, [])


def test_a_switched_connection_that_breaks_is_reset() -> None:
    desk, taker = Desk(), Taker()
    opened(desk, taker, opening=CHAT)
    desk.send(SWITCH + b"abc")
    desk.transport.lose(ConnectionResetError())
    assert taker.lines == ["begin 101", "3 bytes", "reset application_reset"]


@pytest.mark.parametrize(
    ("opening", "reply"),
    [
        (None, SWITCH),
        (Opening(), SWITCH),
        (CHAT, SWITCH.replace(b"websocket", b"mqtt")),
        (CHAT, SWITCH.replace(b"Upgrade: websocket\r\n", b"")),
        (CHAT, head(*["X: a"] * 201, "Upgrade: websocket", status="101 Switching Protocols")),
    ],
)
def test_a_switch_that_nobody_asked_for_fails(opening: Opening | None, reply: bytes) -> None:
    desk, taker = consume(reply, b"abc", opening=opening)
    failure = the_failure(desk)
    assert failure.code in ("upgrade_not_supported", "bad_response")
    assert taker.lines == []


def test_an_application_that_does_not_switch_answers_and_is_left() -> None:
    desk, taker = consume(
        head("Upgrade: websocket", "Content-Length: 2", status="426 No") + b"no", opening=CHAT
    )
    response = the_response(desk)
    assert (response.status, response.body, taker.lines) == (426, b"no", [])
    assert desk.transport.is_closing()


# -- properties ----------------------------------------------------------------------------------------

HEADS = st.sampled_from(
    [
        head("Content-Length: 2"),
        head("Content-Length: 0"),
        head("Transfer-Encoding: chunked"),
        head("Connection: close"),
        head("x-busmesh-a: 1", "X_Forwarded_Client_Cert: a", "Content-Length: 2"),
        head("Content-Length: 2", status="404 Not Found"),
        head(status="204 No Content"),
        head("Content-Length: 9", status="304 Not Modified"),
        head(status="100 Continue"),
        head(status="103 Early Hints"),
        head("Upgrade: x", "Connection: upgrade", status="101 Switching"),
        head("Content-Length: 2", "Transfer-Encoding: chunked"),
        b"HTTP/1.0 200 OK\r\n\r\n",
        head("Content-Length: 2", status="600 x"),
    ]
)
BODIES = st.sampled_from([b"", b"ok", b"2\r\nok\r\n0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"\r\n", b"2\r\no"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Responses, good and bad, one after the other, some with a byte changed."""
    data = bytearray(b"".join(draw(HEADS) + draw(BODIES) for _ in range(draw(st.integers(1, 3)))))
    for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=2)):
        data[at] = draw(st.integers(0, 255))
    return bytes(data)


def judge(desk: Desk) -> None:
    """The call has ended once, and what it got can go over the bus."""
    [result] = desk.ended
    if isinstance(result, AppResponse):
        sealed = encode_response(result.status, result.reason, result.headers, result.body, result.declared)
        read = decode_response(sealed)
        assert (read.status, read.headers, read.body) == (result.status, result.headers, result.body)
    else:
        assert result.processed
        assert result.code in (
            "bad_response",
            "application_reset",
            "upgrade_not_supported",
            "response_too_large",
        )


@settings(max_examples=400, deadline=None)
@given(
    data=streams() | st.binary(max_size=300),
    sizes=st.lists(st.integers(1, 40), max_size=10),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
)
def test_whatever_comes_a_call_ends_exactly_once(data: bytes, sizes: list[int], method: str) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    pieces.append(data[at:])
    desk = ask(*pieces, method=method, max_body=100)
    if not desk.transport.is_lost():
        desk.transport.lose()
    judge(desk)
    assert desk.forgotten == 1


@settings(max_examples=200, deadline=None)
@given(data=streams(), method=st.sampled_from(["GET", "HEAD"]))
def test_the_next_call_never_gets_what_was_sent_before_it(data: bytes, method: str) -> None:
    desk = ask(data, method=method)
    first = list(desk.ended)
    if desk.resting and not desk.transport.is_closing():
        desk.call()
        assert desk.ended == first, "answered before it was asked"
        desk.send(head("X-Mine: 1", "Content-Length: 4") + b"mine")
        assert len(desk.ended) == 2
        second = desk.ended[1]
        assert isinstance(second, AppFailure) or second.body == b"mine"


@settings(max_examples=400, deadline=None)
@given(
    data=streams() | st.binary(max_size=300),
    sizes=st.lists(st.integers(1, 40), max_size=10),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    opening=st.sampled_from([None, Opening(), Opening(3, True), Opening(upgrade=b"x")]),
)
def test_however_it_is_cut_a_call_ends_once_and_with_the_same(
    data: bytes, sizes: list[int], method: str, opening: Opening | None
) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    found = []
    for cut in ([data], [*pieces, data[at:]]):
        desk, taker = Desk(), Taker()
        opened(desk, taker, method, opening)
        desk.send(*cut)
        if not desk.transport.is_lost():
            desk.transport.lose()
        assert len(desk.ended) + taker.over == 1
        assert desk.forgotten == 1
        found.append(outcome_of(desk, taker))
    whole, in_pieces = found
    assert in_pieces[0] == whole[0]
    if whole[0] == "response":
        assert in_pieces == whole


def outcome_of(desk: Desk, taker: Taker) -> tuple[str, int, bytes, bytes]:
    """Return how a call ended, whether in one piece or in parts."""
    if taker.head is not None:
        kind = "failure" if taker.lines[-1].startswith("reset") else "response"
        return kind, taker.head.status, taker.body, taker.trailers
    [result] = desk.ended
    if isinstance(result, AppResponse):
        return "response", result.status, result.body, b""
    return "failure", 0, b"", b""
