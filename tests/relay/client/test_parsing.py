"""Strictness of the listener: what is a request, what is refused, and that nobody is answered for another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.relay.client.refusals import Limits
from busmesh.wire.http import decode_request, encode_request
from busmesh.wire.stream import Opening, decode_end, decode_opening, encode_end, encode_opening
from tests.relay.transcript import Parsed, Transcript, parse, request

CHUNKED = "Transfer-Encoding: chunked"
UPGRADE = ("Connection: upgrade", "Upgrade: websocket")


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
        (request(line="GET http://u:p@orders/ HTTP/1.1"), 400, "bad_target"),
        (request(line="GET http://orders@payments/ HTTP/1.1"), 400, "bad_target"),
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
        (request(*UPGRADE, "Upgrade: mqtt"), 501, "upgrade_not_supported"),
        (request("Connection: upgrade", "Upgrade: websocket, mqtt"), 501, "upgrade_not_supported"),
        (request("Connection: upgrade", "Upgrade: a/b/c"), 501, "upgrade_not_supported"),
        (request("Connection: upgrade", "Upgrade: a b"), 501, "upgrade_not_supported"),
        (request(*UPGRADE, line="GET / HTTP/1.0"), 501, "upgrade_not_supported"),
        (request(*UPGRADE, CHUNKED, body=b"0\r\n\r\n"), 501, "upgrade_not_supported"),
        (request(*UPGRADE, line="CONNECT orders:80 HTTP/1.1"), 501, "upgrade_not_supported"),
        (request("Expect: 200-ok"), 417, "bad_expectation"),
    ],
)  # fmt: skip
def test_refused(data: bytes, status: int, code: str) -> None:
    assert parse(data).lines == [f"refused: {status} {code}"]
    one_by_one = parse(*(data[at : at + 1] for at in range(len(data))))
    assert one_by_one.lines == [f"refused: {status} {code}"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"3\nabc\r\n0\r\n\r\n", "malformed_request"),
        (b"3 \r\nabc\r\n0\r\n\r\n", "malformed_request"),
        (b"0x3\r\nabc\r\n0\r\n\r\n", "malformed_request"),
        (b"-3\r\nabc\r\n0\r\n\r\n", "malformed_request"),
        (b"3\r\nabcd\r\n0\r\n\r\n", "malformed_request"),
        (b"3\r\nabc\n0\r\n\r\n", "malformed_request"),
        (b"FFFFFFFFFFFFFFFFF\r\n", "malformed_request"),
        (b"0\r\nContent-Length: 3\r\n\r\n", "malformed_request"),
        (b"0\r\nX : a\r\n\r\n", "malformed_request"),
        (b"0\r\nX: a\x00\r\n\r\n", "malformed_request"),
        (b"0\r\n folded\r\n\r\n", "malformed_request"),
    ],
)
def test_refused_within_a_body(body: bytes, code: str) -> None:
    """In one read with its head the request is never seen; else it was opened, and never ends."""
    data = request(CHUNKED, line="POST / HTTP/1.1", body=body)
    assert parse(data).lines == [f"refused: 400 {code}"]
    one_by_one = parse(*(data[at : at + 1] for at in range(len(data))))
    assert one_by_one.lines[0] == "POST / for orders opening any"
    assert one_by_one.lines[-1] == f"refused: 400 {code}"
    assert set(one_by_one.lines[1:-1]) <= {"1 bytes"}
    assert one_by_one.bodies in ([b""], [b"abc"])
    assert one_by_one.trailers == [None]


# -- upgrades --------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [UPGRADE, UPGRADE[::-1], ("Connection: keep-alive, Upgrade", UPGRADE[1])])
def test_another_protocol_is_asked_for(headers: tuple[str, str]) -> None:
    asked = request(*headers, "Sec-WebSocket-Key: x", line="GET /chat HTTP/1.1")
    transcript = parse(asked + b"\x81\x01", b"a", request(), b"\x00" * 5000)
    assert transcript.lines == [
        "GET /chat for orders opening websocket",
        "2 bytes",
        "1 bytes",
        f"{len(request())} bytes",
        "5000 bytes",
    ]
    [parsed] = transcript.requests
    assert parsed.head.block == b"Host: orders\r\nSec-WebSocket-Key: x\r\n"
    assert transcript.bodies == [b"\x81\x01a" + request() + b"\x00" * 5000], "nothing of it is parsed"


def test_requests_before_an_upgrade_are_requests() -> None:
    data = request(line="GET /1 HTTP/1.1") + request(*UPGRADE, line="GET /2 HTTP/1.1") + request()
    lines = ["GET /1 for orders", "GET /2 for orders opening websocket", f"{len(request())} bytes"]
    assert parse(data).lines == lines
    one_by_one = parse(*(data[at : at + 1] for at in range(len(data))))
    assert one_by_one.lines[:2] == lines[:2]
    assert one_by_one.bodies == [b"", request()]


def test_the_end_after_an_upgrade_is_none_of_http() -> None:
    transcript = parse(request(*UPGRADE), b"GET / HT", end=True)
    assert transcript.refusals == []


def test_a_protocol_keeps_its_version_and_case() -> None:
    [parsed] = parse(request("Connection: upgrade", "Upgrade: TLS-ish/2.0 \t")).requests
    assert parsed.opening == Opening(upgrade=b"TLS-ish/2.0")


def test_a_listener_may_grant_no_upgrades() -> None:
    transcript = parse(request(*UPGRADE), limits=Limits(upgrades=False))
    assert transcript.lines == ["refused: 501 upgrade_not_supported"]


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
        request(*UPGRADE, "Upgrade: websocket"),
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


@pytest.mark.parametrize("pieces", [1, 2, 300])
def test_trailers_are_passed_on_behind_the_body(pieces: int) -> None:
    lines = b"X-Checksum: 1\r\nx-checksum:2\r\nGrpc-Status: 0\r\nX_Own: \xe9\r\n"
    data = request(CHUNKED, "Trailer: X-Checksum", body=b"3\r\nabc\r\n0\r\n" + lines + b"\r\n")
    step = -(-len(data) // pieces)
    transcript = parse(*(data[at : at + step] for at in range(0, len(data), step)), request())
    assert transcript.bodies == [b"abc", b""]
    assert transcript.trailers[0] == b"X-Checksum: 1\r\nx-checksum: 2\r\nGrpc-Status: 0\r\nX_Own: \xe9\r\n"
    assert transcript.lines[-1] == "GET / for orders"


@pytest.mark.parametrize(
    "line",
    [
        "Host: evil",
        "Expect: 100-continue",
        "Connection: close",
        "Trailer: X",
        "Authorization: Basic xx",
        "Cookie: a=b",
        "Content-Type: text/html",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Forwarded-Client-Cert: URI=spiffe://local/ns/default/svc/admin",
        "x-busmesh-flags: UH",
        "X_Forwarded_Client_Cert: URI=spiffe://local/ns/default/svc/admin",
        "X_BUSMESH_SOURCE: admin",
        "Content_Length: 7",
        "Transfer_Encoding: chunked",
    ],
)
def test_what_means_something_before_a_body_does_not_follow_it(line: str) -> None:
    trailers = f"A: 1\r\n{line}\r\nB_c: 2\r\n\r\n".encode()
    transcript = parse(request(CHUNKED, body=b"3\r\nabc\r\n0\r\n" + trailers))
    assert transcript.trailers == [b"A: 1\r\nB_c: 2\r\n"]
    assert decode_end(encode_end(0, b"A: 1\r\nB_c: 2\r\n")) == (0, transcript.trailers[0])


def test_trailers_that_are_all_dropped_are_none() -> None:
    transcript = parse(request(CHUNKED, body=b"3\r\nabc\r\n0\r\nHost: evil\r\n\r\n"))
    assert transcript.lines == ["GET / for orders with 3 bytes"]


def test_trailers_that_come_in_one_read_have_the_same_bound() -> None:
    for line, count in (
        (b"X: " + b"a" * 1000 + b"\r\n", 70),
        (b"X: " + b"a" * 70_000 + b"\r\n", 1),
        (b"X: a\r\n", 101),
    ):
        data = request(CHUNKED, body=b"3\r\nabc\r\n0\r\n" + line * count + b"\r\n")
        assert parse(data).lines == ["refused: 431 trailers_too_large"]


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
    assert parse(data).lines == ["POST / for orders with 200000 bytes", "GET /next for orders"]
    for cuts in ((150_000, -10), (-40,), (1000, 66_000), (len(large),)):
        ends = [*cuts, len(data)]
        pieces = [data[at:end] for at, end in zip([0, *cuts], ends, strict=True)]
        transcript = parse(*pieces)
        assert transcript.lines[-1] == "GET /next for orders"
        assert transcript.bodies == [b"x" * 200_000, b""]


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
    opened = ["POST / for orders opening any", "50 bytes", "50 bytes"]
    assert parse(data, chunk, chunk, b"0\r\n\r\n", limits=limits).lines == [*opened, "end"]
    refused = "refused: 413 body_too_large"
    assert parse(data, chunk, chunk, b"1\r\n", b"x", limits=limits).lines == [*opened, refused]
    assert parse(data + chunk * 3, limits=limits).lines == [refused]


def test_by_default_a_body_has_any_size() -> None:
    data = request("Content-Length: 9999999999999999999", line="POST / HTTP/1.1")
    assert parse(data, *[b"x" * 1_000_000] * 3).lines == [
        "POST / for orders opening 9999999999999999999",
        *["1000000 bytes"] * 3,
    ]
    chunk = b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n"
    chunked = parse(request(CHUNKED, line="POST / HTTP/1.1"), *[chunk] * 3, b"0\r\n\r\n")
    assert chunked.lines == ["POST / for orders opening any", *["1000000 bytes"] * 3, "end"]


@pytest.mark.parametrize(
    ("length", "opened"), [(64 * 1024, False), (64 * 1024 + 1, True), (10_000_000, True)]
)
def test_a_body_is_awaited_up_to_a_size(length: int, opened: bool) -> None:
    data = request(f"Content-Length: {length}", line="POST / HTTP/1.1")
    start = parse(data, b"x" * 1000)
    assert start.lines == ([f"POST / for orders opening {length}", "1000 bytes"] if opened else [])
    whole = parse(data, b"x" * 1000, b"x" * (length - 1000))
    assert whole.lines[-1] == ("end" if opened else f"POST / for orders with {length} bytes")
    assert whole.bodies == [b"x" * length]


def test_endless_trailers_and_chunk_extensions_are_refused() -> None:
    data = request(CHUNKED, line="POST / HTTP/1.1")
    opened = "POST / for orders opening any"
    refused = [opened, "refused: 431 trailers_too_large"]
    assert parse(data, b"0\r\nX: ", *[b"a" * 1000] * 70).lines == refused
    assert parse(data, b"0\r\n", *[b"a: b\r\n" * 1000] * 70).lines == refused
    assert parse(data, b"1;", *[b"a" * 1000] * 70).lines == refused


def test_many_small_chunks_are_not_mistaken_for_that() -> None:
    data = request(CHUNKED, line="POST / HTTP/1.1")
    chunks = [b"1\r\nx\r\n" * 5000] * 20
    lines = ["POST / for orders opening any", *["5000 bytes"] * 20, "end"]
    assert parse(data, *chunks, b"0\r\n\r\n").lines == lines


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


def test_a_client_that_expects_100_continue_is_passed_on_before_its_body() -> None:
    """Whether it is to send that, the application says: nobody here could take it back."""
    expecting = ("Expect: 100-Continue", "Content-Length: 3")
    lines = ["POST / for orders opening 3 expecting", "1 bytes", "2 bytes", "end"]
    transcript = parse(request(*expecting, line="POST / HTTP/1.1"), b"a", b"bc")
    assert transcript.lines == lines
    assert transcript.requests[0].head.block == b"Host: orders\r\n"
    chunked = request("Expect: 100-continue", CHUNKED, line="POST / HTTP/1.1")
    assert parse(chunked).lines == ["POST / for orders opening any expecting"]


def test_http10_expects_nothing() -> None:
    """RFC 9110 section 10.1.1."""
    data = request("Expect: 100-continue", "Content-Length: 3", line="POST / HTTP/1.0")
    assert parse(data, b"abc").lines == ["POST / for orders with 3 bytes"]
    large = request("Expect: 100-continue", "Content-Length: 70000", line="POST / HTTP/1.0")
    assert parse(large).lines == ["POST / for orders opening 70000"]


def test_an_expectation_without_body_means_nothing() -> None:
    assert parse(request("Expect: 100-continue")).lines == ["GET / for orders"]
    assert parse(request("Expect: 100-continue", "Content-Length: 0")).lines == ["GET / for orders"]
    all_here = request("Expect: 100-continue", "Content-Length: 3", body=b"abc")
    assert parse(all_here).lines == ["GET / for orders with 3 bytes"]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_an_end_within_a_request_is_refused(cut: int) -> None:
    assert parse(request()[:cut], end=True).lines == ["refused: 400 incomplete_request"]


def test_an_end_within_a_body_is_refused() -> None:
    assert parse(request("Content-Length: 3"), b"ab", end=True).lines == ["refused: 400 incomplete_request"]
    chunked = parse(request(CHUNKED), b"3\r\nabc\r\n", end=True)
    assert chunked.lines == ["GET / for orders opening any", "3 bytes", "refused: 400 incomplete_request"]
    large = parse(request("Content-Length: 70000"), b"x" * 69_999, end=True)
    assert large.lines[1:] == ["69999 bytes", "refused: 400 incomplete_request"]
    assert large.trailers == [None]


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
Upgrade: websocket
Connection: Upgrade
Te: trailers
Trailer: X
traceparent: x
tracestate: y
X: \xe9\t
Cookie: a_b=c
X:""".splitlines()
)
BODIES = st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"3\r\nab", b"0\r\n"])
#: What is likely to be right: the lists above seldom go together.
GOOD = st.sampled_from(
    [
        request(),
        request("Content-Length: 3", line="POST / HTTP/1.1", body=b"abc"),
        request("Expect: 100-continue", "Content-Length: 3", line="POST / HTTP/1.1", body=b"abc"),
        request(CHUNKED, line="PUT / HTTP/1.1", body=b"3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n"),
        request(CHUNKED, line="PUT / HTTP/1.1", body=b"1\r\na\r\n0\r\nX-T: y\r\nHost: z\r\nX_A: 1\r\n\r\n"),
        request(CHUNKED, line="PUT / HTTP/1.1", body=b"3\r\nabc\r\n2\r\ndef\r\n0\r\n\r\n"),
        request(*UPGRADE) + b"\x81\x03abc",
    ]
)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """Requests, good and bad, one after the other, some with a byte changed."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        headers = draw(st.lists(HEADERS, max_size=5))
        if draw(st.booleans()):
            headers.insert(0, b"Host: orders")
        odd = b"\r\n".join([draw(LINES), *headers, b"", b""]) + draw(BODIES)
        parts.append(draw(GOOD | st.just(odd)))
    data = bytearray(b"".join(parts))
    for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=2)):
        data[at] = draw(st.integers(0, 255))
    return bytes(data)


def check(transcript: Transcript) -> None:
    """What passes is exactly what the other agent takes, and after a refusal nothing passes."""
    assert len(transcript.refusals) <= 1
    if transcript.refusals:
        assert transcript.lines[-1].startswith("refused")
    for parsed, trailers in zip(transcript.requests, transcript.trailers, strict=True):
        if trailers is not None:
            assert decode_end(encode_end(0, trailers)) == (0, trailers)
        if parsed.opening is not None:
            assert decode_opening(encode_opening(parsed.opening, b"x")) == (parsed.opening, b"x")
        head = parsed.head
        read = decode_request(encode_request(0, 0, head.method, head.target, head.block, parsed.body))
        assert (read.method, read.target, read.headers, read.body) == (
            head.method,
            head.target,
            head.block,
            parsed.body,
        )
        assert head.block.lower().count(b"\r\nhost:") + head.block.lower().startswith(b"host:") == 1


def upgraded(parsed: Parsed) -> bool:
    return parsed.opening is not None and bool(parsed.opening.upgrade)


def told(transcript: Transcript) -> list[tuple[bytes, ...]]:
    """Return what came of each request, and how it ended, without how it was cut into parts."""
    found: list[tuple[bytes, ...]] = []
    for parsed, body, trailers in zip(
        transcript.requests, transcript.bodies, transcript.trailers, strict=True
    ):
        if trailers is not None or upgraded(parsed):
            found.append((parsed.head.method, parsed.head.target, parsed.head.block, body, trailers or b""))
    return found


@settings(max_examples=600, deadline=None)
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
    assert told(cut) == told(whole)
    assert [answer.code for answer in cut.refusals] == [answer.code for answer in whole.refusals]
    ends = [t for r, t in zip(whole.requests, whole.trailers, strict=True) if not upgraded(r)]
    assert None not in ends[: len(ends) - len(whole.refusals)], "only what is refused has no end"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_end_in_requests_or_one_refusal(pieces: list[bytes]) -> None:
    check(parse(*pieces, end=True))
