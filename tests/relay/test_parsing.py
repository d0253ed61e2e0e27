"""Strictness of the listener: what is a request, what is refused, and that nobody is answered for another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.relay.refusals import Limits
from busmesh.wire.http import decode_request, encode_request
from tests.relay.transcript import Transcript, parse, request

CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (request(), "GET / for orders"),
        (request(line="GET /a%2Fb?x=1&y=%20 HTTP/1.1"), "GET /a%2Fb?x=1&y=%20 for orders"),
        (request(line="OPTIONS * HTTP/1.1"), "OPTIONS * for orders"),
        (request(line="GET http://orders/a?b HTTP/1.1"), "GET /a?b for orders"),
        (request(line="GET HTTP://ORDERS/a HTTP/1.1"), "GET /a for ORDERS"),
        (request(line="GET http://orders HTTP/1.1"), "GET / for orders"),
        (request(line="GET http://orders?q HTTP/1.1"), "GET /?q for orders"),
        # Clients leave the default port out of Host and not of the URL, or the other way round.
        (request(line="GET http://orders:80/ HTTP/1.1"), "GET / for orders:80"),
        (request(line="GET http://orders/ HTTP/1.1", host="Host: orders:80"), "GET / for orders"),
        (request(line="GET http://orders/ HTTP/1.0", host=""), "GET / for orders"),
        (request(line="PURGE / HTTP/1.1"), "PURGE / for orders"),
        (request("Content-Length: 3", line="POST / HTTP/1.1", body=b"abc"), "POST / for orders with 3 bytes"),
        (
            request(CHUNKED, line="POST / HTTP/1.1", body=b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
            "POST / for orders with 5 bytes",
        ),
        (request("Content-Length: 0", line="POST / HTTP/1.1"), "POST / for orders"),
        (b"\r\n" + request(), "GET / for orders"),  # RFC 9112 section 2.2
    ],
)
def test_requests(data: bytes, line: str) -> None:
    assert parse(data).lines == [line]


def test_the_url_gives_the_host_that_http10_left_out() -> None:
    [parsed] = parse(request(line="GET http://orders/ HTTP/1.0", host="")).requests
    assert parsed.head.block == b"Host: orders\r\n"
    assert parsed.http10


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        # Host and target
        (request(host=""), 400, "bad_host"),
        (request("Host: orders"), 400, "bad_host"),
        (request("Host: payments"), 400, "bad_host"),
        (request(line="GET / HTTP/1.0", host=""), 400, "bad_host"),
        (request(line="GET http://payments/ HTTP/1.1"), 400, "conflicting_host"),
        (request(line="GET http://orders:81/ HTTP/1.1"), 400, "conflicting_host"),
        (request(line="GET http://u:p@orders/ HTTP/1.1"), 400, "conflicting_host"),
        (request(line="GET https://orders/ HTTP/1.1"), 400, "bad_target"),
        (request(line="GET ftp://orders/ HTTP/1.1"), 400, "bad_target"),
        (request(line="GET * HTTP/1.1"), 400, "bad_target"),
        (request(line="GET orders HTTP/1.1"), 400, "malformed_request"),
        (request(line="GET /a b HTTP/1.1"), 400, "malformed_request"),
        (request(line="GET /a\x00 HTTP/1.1"), 400, "malformed_request"),
        (request(line="GET /a#b HTTP/1.1"), 400, "bad_target"),
        # Framing
        (request("Content-Length: 5", "Content-Length: 5", body=b"abcde"), 400, "malformed_request"),
        (request("Content-Length: 5", "content-length: 6", body=b"abcde"), 400, "malformed_request"),
        (request("Content-Length: +5", body=b"abcde"), 400, "malformed_request"),
        (request("Content-Length: -1"), 400, "malformed_request"),
        (request("Content-Length: 5,5", body=b"abcde"), 400, "malformed_request"),
        (request("Content-Length: 5 5", body=b"abcde"), 400, "malformed_request"),
        (request("Content-Length: 0x5", body=b"abcde"), 400, "malformed_request"),
        (request("Content-Length:"), 400, "malformed_request"),
        (request("Content-Length: 99999999999999999999"), 400, "malformed_request"),
        (request("Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"), 400, "malformed_request"),
        (request(CHUNKED, "Content-Length: 5", body=b"0\r\n\r\n"), 400, "malformed_request"),
        (request("Transfer-Encoding: gzip, chunked"), 501, "bad_transfer_encoding"),
        (request("Transfer-Encoding: identity"), 501, "bad_transfer_encoding"),
        (request("Transfer-Encoding: chunked, chunked"), 400, "malformed_request"),
        (request(CHUNKED, CHUNKED), 400, "malformed_request"),
        (request("Transfer-Encoding: xchunked"), 501, "bad_transfer_encoding"),
        (request("Transfer-Encoding: chunked;q=1"), 501, "bad_transfer_encoding"),
        (request(CHUNKED, line="POST / HTTP/1.0", body=b"0\r\n\r\n"), 400, "ambiguous_length"),
        (request(CHUNKED, body=b"3\nabc\r\n0\r\n\r\n"), 400, "malformed_request"),
        (request(CHUNKED, body=b"3 \r\nabc\r\n0\r\n\r\n"), 400, "malformed_request"),
        (request(CHUNKED, body=b"0x3\r\nabc\r\n0\r\n\r\n"), 400, "malformed_request"),
        (request(CHUNKED, body=b"-3\r\nabc\r\n0\r\n\r\n"), 400, "malformed_request"),
        (request(CHUNKED, body=b"3\r\nabcd\r\n0\r\n\r\n"), 400, "malformed_request"),
        (request(CHUNKED, body=b"FFFFFFFFFFFFFFFFF\r\n"), 400, "malformed_request"),
        (request(CHUNKED, body=b"0\r\nContent-Length: 3\r\n\r\n"), 400, "malformed_request"),
        # Lines
        (b"GET / HTTP/1.1\nHost: orders\n\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nHost: orders\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nHost: orders\r\r\n\r\n", 400, "malformed_request"),
        (request("X: a", " b"), 400, "malformed_request"),
        (request("X: a", "\tb"), 400, "malformed_request"),
        (request("X: a\x00b"), 400, "malformed_request"),
        (request("X: a\x7fb"), 400, "malformed_request"),
        (request("X: a\x0bb"), 400, "malformed_request"),
        (request("X : a"), 400, "malformed_request"),
        (request("X y: a"), 400, "malformed_request"),
        (request(": a"), 400, "malformed_request"),
        (request("X"), 400, "malformed_request"),
        (request(" X: a"), 400, "malformed_request"),
        (request("X\xe9: a"), 400, "malformed_request"),
        (request("Connection: close, a b"), 400, "bad_connection_header"),
        # Version and method
        (request(line="GET / HTTP/1.2"), 400, "malformed_request"),
        (request(line="GET / HTTP/0.9"), 505, "bad_version"),
        (request(line="GET / HTTP/2.0"), 505, "bad_version"),
        (b"GET /\r\n\r\n", 505, "bad_version"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed_request"),  # TLS
        (request(line="get / HTTP/1.1"), 400, "malformed_request"),
        (request(line="GET/ HTTP/1.1"), 400, "malformed_request"),
        # What is understood and not done
        (request(line="CONNECT orders:443 HTTP/1.1", host="Host: orders:443"), 400, "bad_target"),
        (request(line="CONNECT orders:80 HTTP/1.1", host="Host: payments:80"), 400, "conflicting_host"),
        (request(line="CONNECT orders:80 HTTP/1.1", host=""), 400, "bad_host"),
        (request("Content-Length: 3", line="CONNECT orders:80 HTTP/1.1"), 501, "upgrade_not_supported"),
        (request(CHUNKED, line="CONNECT orders:80 HTTP/1.1"), 501, "upgrade_not_supported"),
        (request("Connection: upgrade", "Upgrade: websocket"), 501, "upgrade_not_supported"),
        (
            request("Connection: upgrade", "Upgrade: h2c", "Content-Length: 3", body=b"abc"),
            501,
            "upgrade_not_supported",
        ),
        (
            request("Connection: upgrade", "Upgrade: x", "Content-Length: 3", body=b"abc"),
            501,
            "upgrade_not_supported",
        ),
        (request("Expect: 200-ok"), 417, "bad_expectation"),
    ],
)  # fmt: skip
def test_refused(data: bytes, status: int, code: str) -> None:
    assert parse(data).lines == [f"refused: {status} {code}"]
    one_by_one = parse(*(data[at : at + 1] for at in range(len(data))))
    assert one_by_one.lines == [f"refused: {status} {code}"]


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA")


def test_an_offer_of_http2_is_ignored() -> None:
    """``curl --http2`` makes one with each direct request; RFC 9110 section 7.8 lets a server ignore it."""
    transcript = parse(request(*H2C, line="GET /1 HTTP/1.1") + request(line="GET /2 HTTP/1.1"), request(*H2C))
    assert transcript.lines == ["GET /1 for orders", "GET /2 for orders", "GET / for orders"]
    assert {parsed.head.block for parsed in transcript.requests} == {b"Host: orders\r\n"}
    assert all(parsed.keep_alive for parsed in transcript.requests)


@pytest.mark.parametrize(("line", "host"), [("orders:80", "orders"), ("orders:8080", "orders:8080")])
def test_a_tunnel_carries_requests(line: str, host: str) -> None:
    """Node's fetch asks a proxy for a tunnel also for ``http://`` URLs."""
    connect = request("Connection: close", line=f"CONNECT {line} HTTP/1.1", host=f"Host: {host}")
    inside = request(line="GET /in HTTP/1.1") + request(
        "Content-Length: 3", line="POST / HTTP/1.1", body=b"abc"
    )
    lines = ["tunnel", "GET /in for orders", "POST / for orders with 3 bytes"]
    assert parse(connect, inside).lines == lines
    assert parse(connect + inside).lines == lines
    assert parse(*((connect + inside)[at : at + 1] for at in range(len(connect + inside)))).lines == lines
    bad = parse(connect + b"\x16\x03\x01\x02\x00\x01\x00", inside)
    assert bad.lines == ["tunnel", "refused: 400 malformed_request"]


def test_many_tunnels_in_one_read_do_not_nest() -> None:
    connect = request(line="CONNECT orders:80 HTTP/1.1")
    assert parse(connect * 5000 + request()).lines == ["tunnel"] * 5000 + ["GET / for orders"]


def test_a_listener_may_grant_no_tunnels() -> None:
    transcript = parse(request(line="CONNECT orders:80 HTTP/1.1"), limits=Limits(tunnels=False))
    assert transcript.lines == ["refused: 501 upgrade_not_supported"]


def test_tls_to_the_mesh_is_told_what_to_do() -> None:
    [answer] = parse(request(line="GET https://orders/ HTTP/1.1")).refusals
    assert "http://" in answer.message
    assert "encrypts by itself" in answer.message


@pytest.mark.parametrize(
    "bad",
    [
        request("Host: payments"),
        request(host=""),
        request("Content-Length: 3", "Expect: x", body=b"abc"),
        request(line="GET https://orders/ HTTP/1.1"),
        request(*(f"X-{n}: 1" for n in range(101))),
        request("Connection: a b"),
        request("Connection: upgrade", "Upgrade: websocket"),
        request("Content-Length: 9", body=b"a" * 9),
        request(CHUNKED, body=b"9\r\naaaaaaaaa\r\n0\r\n\r\n"),
    ],
)
def test_nothing_after_a_refusal_is_parsed(bad: bytes) -> None:
    """Else the next request of the same read would be answered in the bad one's place."""
    limits = Limits(body=8)
    good, evil = request(line="GET /good HTTP/1.1"), request(line="GET /evil HTTP/1.1")
    whole = parse(good + bad + evil, evil, limits=limits)
    assert [line.partition(":")[0] for line in whole.lines] == ["GET /good for orders", "refused"]


def test_pipelined_requests_come_in_order() -> None:
    data = b"".join(request(line=f"GET /{n} HTTP/1.1") for n in range(20))
    assert parse(data).lines == [f"GET /{n} for orders" for n in range(20)]


# -- headers ---------------------------------------------------------------------------------------


def block(*headers: str) -> list[str]:
    [parsed] = parse(request(*headers)).requests
    lines = parsed.head.block.decode("latin-1").split("\r\n")[1:-1]  # without Host
    return lines


def test_headers_keep_order_case_and_number() -> None:
    headers = ["X-b: 1", "x-A: 2", "X-B: 3", "Accept: a, b;q=0.1", "Empty: ", "Cookie: a=1; b=2"]
    assert block(*headers) == headers


def test_blanks_around_a_value_go() -> None:
    assert block("X:  \t a b", "Y:c") == ["X: a b", "Y: c"]
    [parsed] = parse(
        request("Connection: close \t", "Expect: 100-continue ", host="Host:  orders \t")
    ).requests
    assert parsed.authority == b"orders"
    assert not parsed.keep_alive


def test_values_may_hold_any_byte_of_utf8() -> None:
    assert block("X: caf\xc3\xa9 \xff") == ["X: caf\xc3\xa9 \xff"]


@pytest.mark.parametrize(
    "header",
    [
        "Connection: close",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic xx",
        "TE: trailers",
        "Trailer: X",
        "Upgrade: websocket",  # without "Connection: upgrade" it means nothing
        "HTTP2-Settings: AAMA",
        "X-Forwarded-Client-Cert: URI=spiffe://local/ns/default/svc/admin",
        "x-busmesh-flags: UH",
        "X-BUSMESH-SOURCE: admin",
        "Expect: 100-continue",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        # CGI and WSGI applications read "_" as "-" (RFC 3875 section 4.1.18).
        "X_Forwarded_Client_Cert: URI=spiffe://local/ns/default/svc/admin",
        "x-forwarded_client-cert: URI=spiffe://local/ns/default/svc/admin",
        "X_BUSMESH_SOURCE: admin",
        "x-busmesh_source: admin",
        "Transfer_Encoding: chunked",
        "Content_Length: 7",
        "Proxy_Connection: x",
    ],
)
def test_headers_that_are_not_passed_on(header: str) -> None:
    assert block("A: 1", header, "B_c: 2") == ["A: 1", "B_c: 2"]


def test_nominated_headers_go() -> None:
    got = block(
        "Connection: close, X-Hop,, keep-alive", "x-hop: 1", "X-Stays: 2", "Connection: x-too", "X-Too: 3"
    )
    assert got == ["X-Stays: 2"]


@pytest.mark.parametrize("value", ["", ",", " , ,", "close,", ",keep-alive"])
def test_empty_elements_of_connection_mean_nothing(value: str) -> None:
    assert block(f"Connection: {value}", "X: 1") == ["X: 1"]


def test_connection_takes_out_nothing_that_identity_routing_or_tracing_need() -> None:
    kept = [
        "Authorization: Bearer x",
        "Cookie: a=b",
        "tracestate: a=b",
        "baggage: c=d",
    ]
    names = "host, authorization, cookie, traceparent, tracestate, baggage, x-forwarded-client-cert"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    [parsed] = parse(request(f"Connection: {names}", f"traceparent: {trace}", *kept)).requests
    assert parsed.head.block.decode().split("\r\n")[:-1] == ["Host: orders", *kept]
    assert parsed.traceparent == trace.encode()
    assert parsed.tracestate


@pytest.mark.parametrize("count", [2, 3])
def test_of_several_traceparents_none_counts(count: int) -> None:
    trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    [parsed] = parse(request(*[trace] * count)).requests
    assert not parsed.traceparent


def test_trailers_never_become_headers() -> None:
    body = b"3\r\nabc\r\n0\r\nHost: evil\r\nX-Forwarded-For: 1.2.3.4\r\nExpect: x\r\nConnection: host\r\n\r\n"
    [parsed] = parse(request(CHUNKED, body=body)).requests
    assert parsed.head.block == b"Host: orders\r\n"
    assert parsed.authority == b"orders"
    assert parsed.keep_alive


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_headers_up_to_the_limit_pass_and_above_it_do_not(pieces: int) -> None:
    limit = Limits().header_bytes
    spare = len("/Host: orders\r\nX: \r\n")

    def fed(value: str) -> list[str]:
        data = request(f"X: {value}")
        step = -(-len(data) // pieces)
        return parse(*(data[at : at + step] for at in range(0, len(data), step))).lines

    assert fed("a" * (limit - spare)) == ["GET / for orders"]
    assert fed("a" * (limit - spare + 1)) == ["refused: 431 headers_too_large"]
    assert fed("a" * 1_000_000) == ["refused: 431 headers_too_large"]


def test_a_long_target_counts_as_header() -> None:
    assert parse(request(line=f"GET /{'a' * 70_000} HTTP/1.1")).lines == ["refused: 431 headers_too_large"]


def test_a_head_without_end_is_refused_before_it_is_whole() -> None:
    start = b"GET / HTTP/1.1\r\nHost: orders\r\nX: "
    assert parse(start, *[b"a" * 1000] * 70).lines == ["refused: 431 headers_too_large"]


def test_large_bodies_before_do_not_count_as_headers() -> None:
    large = request("Content-Length: 200000", line="POST / HTTP/1.1", body=b"x" * 200_000)
    small = request(line="GET /next HTTP/1.1")
    data = large + small
    lines = ["POST / for orders with 200000 bytes", "GET /next for orders"]
    assert parse(data).lines == lines
    assert parse(data[:150_000], data[150_000:-10], data[-10:]).lines == lines
    assert parse(data[:-40], data[-40:]).lines == lines


def test_100_header_lines_pass_and_101_do_not() -> None:
    assert parse(request(*(f"X-{n}: 1" for n in range(99)))).lines == ["GET / for orders"]
    assert parse(request(*(f"X-{n}: 1" for n in range(100)))).lines == ["refused: 431 too_many_headers"]


def test_endless_header_lines_are_refused_before_the_head_is_whole() -> None:
    """A line of four bytes costs hundreds in memory, so the count is bounded as well as the size."""
    start = b"GET / HTTP/1.1\r\nHost: orders\r\n" + b"a:\r\n" * 5000
    assert parse(start).lines == ["refused: 431 too_many_headers"]


def test_a_declared_body_is_refused_before_it_comes() -> None:
    data = request("Content-Length: 101", "Expect: 100-continue", line="POST / HTTP/1.1")
    assert parse(data, limits=Limits(body=100)).lines == ["refused: 413 body_too_large"]


def test_a_chunked_body_is_refused_when_it_grows_too_large() -> None:
    data = request(CHUNKED, line="POST / HTTP/1.1")
    chunk = b"32\r\n" + b"x" * 50 + b"\r\n"
    limits = Limits(body=100)
    assert parse(data, chunk, chunk, b"0\r\n\r\n", limits=limits).lines == [
        "POST / for orders with 100 bytes"
    ]
    assert parse(data, chunk, chunk, b"1\r\n", b"x", limits=limits).lines == ["refused: 413 body_too_large"]


def test_endless_trailers_and_chunk_extensions_are_refused() -> None:
    data = request(CHUNKED, line="POST / HTTP/1.1")
    refused = ["refused: 431 trailers_too_large"]
    assert parse(data, b"0\r\nX: ", *[b"a" * 1000] * 70).lines == refused
    assert parse(data, b"0\r\n", *[b"a: b\r\n" * 1000] * 70).lines == refused
    assert parse(data, b"1;", *[b"a" * 1000] * 70).lines == refused


def test_many_small_chunks_are_not_mistaken_for_that() -> None:
    data = request(CHUNKED, line="POST / HTTP/1.1")
    chunks = [b"1\r\nx\r\n" * 5000] * 20
    assert parse(data, *chunks, b"0\r\n\r\n").lines == ["POST / for orders with 100000 bytes"]


# -- life of a connection --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "keep_alive"),
    [
        (request(), True),
        (request("Connection: keep-alive"), True),
        (request("Connection: close"), False),
        (request("Connection: CLOSE, x"), False),
        (request("Connection: x", "Connection: close"), False),
        (request(line="GET / HTTP/1.0"), False),
        (request("Connection: keep-alive", line="GET / HTTP/1.0"), True),
        (request("Connection: close", line="GET / HTTP/1.0"), False),
    ],
)
def test_keep_alive(data: bytes, keep_alive: bool) -> None:
    [parsed] = parse(data).requests
    assert parsed.keep_alive is keep_alive


def test_100_continue_is_asked_for_once_and_not_by_http10() -> None:
    expecting = ("Expect: 100-Continue", "Content-Length: 3")
    lines = ["100 Continue", "POST / for orders with 3 bytes"]
    assert parse(request(*expecting, line="POST / HTTP/1.1"), b"a", b"bc").lines == lines
    assert parse(request(*expecting, line="POST / HTTP/1.0"), b"abc").lines == lines[1:]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_an_end_within_a_request_is_refused(cut: int) -> None:
    assert parse(request()[:cut], end=True).lines == ["refused: 400 incomplete_request"]


def test_an_end_within_a_body_is_refused() -> None:
    assert parse(request("Content-Length: 3"), b"ab", end=True).lines == ["refused: 400 incomplete_request"]
    assert parse(request(CHUNKED), b"3\r\nabc\r\n", end=True).lines == ["refused: 400 incomplete_request"]


def test_an_end_between_requests_is_none() -> None:
    assert parse(request(), end=True).lines == ["GET / for orders"]
    assert parse(end=True).lines == []


# -- properties ------------------------------------------------------------------------------------

LINES = st.sampled_from(
    rb"""GET / HTTP/1.1
POST /a?b=c HTTP/1.1
HEAD http://orders/ HTTP/1.1
OPTIONS * HTTP/1.1
GET / HTTP/1.0
PUT http://orders HTTP/1.1
CONNECT a:1 HTTP/1.1
GET /a_b HTTP/1.1""".splitlines()
)
HEADERS = st.sampled_from(
    b"""Host: orders
Host: a
Content-Length: 3
Content-Length: 0
Transfer-Encoding: chunked
Connection: close
Connection: x-a, host
Connection: upgrade
X-A: 1
x_busmesh_a: 1
X_Forwarded_Client_Cert: a
Content_Length: 1
Expect: 100-continue
Expect: x
Upgrade: h2c
Te: trailers
Trailer: X
traceparent: x
tracestate: y
X: \xe9\t
Cookie: a_b=c
X:""".splitlines()
)
BODIES = st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"3\r\nab", b"0\r\n"])


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """Requests, good and bad, one after the other, some with a byte changed."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        headers = draw(st.lists(HEADERS, max_size=5))
        if draw(st.booleans()):
            headers.insert(0, b"Host: orders")
        parts.append(b"\r\n".join([draw(LINES), *headers, b"", b""]) + draw(BODIES))
    data = bytearray(b"".join(parts))
    for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=2)):
        data[at] = draw(st.integers(0, 255))
    return bytes(data)


def check(transcript: Transcript) -> None:
    """What passes is exactly what the other agent takes, and after a refusal nothing passes."""
    assert len(transcript.refusals) <= 1
    if transcript.refusals:
        assert transcript.lines[-1].startswith("refused")
    for parsed in transcript.requests:
        head = parsed.head
        read = decode_request(encode_request(0, 0, head.method, head.target, head.block, parsed.body))
        assert (read.method, read.target, read.headers, read.body) == (
            head.method,
            head.target,
            head.block,
            parsed.body,
        )
        assert head.block.lower().count(b"\r\nhost:") + head.block.lower().startswith(b"host:") == 1


@settings(max_examples=400, deadline=None)
@given(conversations(), st.lists(st.integers(1, 40), max_size=12))
def test_how_the_bytes_are_cut_changes_nothing(data: bytes, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    cut = parse(*pieces, data[at:], end=True)
    whole = parse(data, end=True)
    check(whole)
    check(cut)
    assert cut.lines == whole.lines
    assert [r.head.block for r in cut.requests] == [r.head.block for r in whole.requests]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_end_in_requests_or_one_refusal(pieces: list[bytes]) -> None:
    check(parse(*pieces, end=True))
