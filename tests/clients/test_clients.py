"""Ordinary clients, through both addressing ways: what they see through the mesh is what they see without."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from tests.clients.drivers import Ask, Client, Got, Where
from tests.clients.origin import GZIPPED, some_bytes

#: What an agent writes anew on each hop, or adds.
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "proxy-connection", "date"}
ADDED = {"traceparent", "x-forwarded-client-cert", "host"}


def ask(client: Client, where: Where, *asks: Ask) -> list[Got]:
    got, _ = client.send(where, asks)
    assert len(got) == len(asks)
    return got


def one(client: Client, where: Where, wanted: Ask) -> Got:
    [got] = ask(client, where, wanted)
    return got


def arrived(got: Got) -> list[list[str]]:
    """Return the header lines that the application saw, but for those that belong to a hop or the mesh."""
    return [pair for pair in got.json["headers"] if pair[0].lower() not in HOP | ADDED]


def shown(got: Got, client: Client) -> list[tuple[str, str]]:
    """Return the header lines that the client saw, in order if it keeps it."""
    lines = [pair for pair in got.headers if pair[0].lower() not in HOP]
    return lines if client.raw else sorted((name.lower(), value) for name, value in lines)


def test_get(client: Client, where: Where) -> None:
    got = one(client, where, Ask("/echo?a=1"))
    assert got.status == 200
    assert (got.json["method"], got.json["target"]) == ("GET", "/echo?a=1")
    assert dict(got.json["headers"])["Host" if client.name != "node-fetch" else "host"] == "origin"
    assert got.header("x-busmesh-flags") is None


def test_post_json(client: Client, where: Where) -> None:
    body = json.dumps({"item": "caf\xe9", "count": 3}).encode()
    got = one(client, where, Ask("/echo", "POST", body, {"Content-Type": "application/json"}))
    assert (got.status, got.json["method"]) == (200, "POST")
    assert got.json["sha256"] == hashlib.sha256(body).hexdigest()
    assert ["content-type", "application/json"] in [[name.lower(), value] for name, value in arrived(got)]


def test_other_methods(client: Client, where: Where) -> None:
    methods = ["PUT", "PATCH", "DELETE", "OPTIONS"]
    asks = [Ask("/echo", method, b"body" if method.startswith("P") else None) for method in methods]
    got = ask(client, where, *asks)
    assert [(one.status, one.json["method"]) for one in got] == [(200, method) for method in methods]


def test_head(client: Client, where: Where) -> None:
    get, head, again = ask(client, where, Ask("/bytes/5000"), Ask("/bytes/5000", "HEAD"), Ask("/bytes/10"))
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-length") == get.header("content-length") == "5000"
    assert again.body == some_bytes(10)


def test_the_applications_own_status(client: Client, where: Where, itself: Where) -> None:
    statuses = [201, 204, 304, 400, 404, 418, 500, 503]
    asks = [Ask(f"/status/{status}") for status in statuses]
    through, without = (ask(client, target, *asks) for target in (where, itself))
    assert [got.status for got in through] == statuses
    assert [got.body for got in through] == [got.body for got in without]
    assert {got.header("x-busmesh-flags") for got in through} == {None}


def test_bodies_arrive_whole_both_ways(client: Client, where: Where) -> None:
    sizes = [0, 1, 500, 65_535, 65_536, 800_000]
    up = ask(client, where, *(Ask("/echo", "POST", some_bytes(size)) for size in sizes))
    assert [got.json["length"] for got in up] == sizes
    assert [got.json["sha256"] for got in up] == [
        hashlib.sha256(some_bytes(size)).hexdigest() for size in sizes
    ]
    for page in ("bytes", "chunked"):
        down = ask(client, where, *(Ask(f"/{page}/{size}") for size in sizes))
        assert [got.body for got in down] == [some_bytes(size) for size in sizes]


def test_a_chunked_upload(client: Client, where: Where) -> None:
    sizes = [1, 35_000, 800_000]
    got = ask(client, where, *(Ask("/echo", "POST", some_bytes(size), chunked=True) for size in sizes))
    assert [(one.status, one.json["length"]) for one in got] == [(200, size) for size in sizes]
    assert [one.json["sha256"] for one in got] == [hashlib.sha256(some_bytes(n)).hexdigest() for n in sizes]


def test_request_headers_keep_order_case_and_value(client: Client, where: Where, itself: Where) -> None:
    headers = {
        "X-First": "1",
        "x-lower": "2",
        "X-UPPER": 'a  b, c; d="e"',
        "Accept": "text/html;q=0.5, */*",
        "X_Under": "3",
        "Cookie": "a=1; b=two%20words",
        "Authorization": "Bearer a.b-c_d",
        "X-Forwarded-For": "1.2.3.4",
    }
    through, without = (one(client, target, Ask(headers=headers)) for target in (where, itself))
    assert arrived(through) == arrived(without)


def test_response_headers_keep_order_case_and_value(client: Client, where: Where, itself: Where) -> None:
    through, without = (one(client, target, Ask("/headers")) for target in (where, itself))
    assert shown(through, client) == shown(without, client)


def test_gzip_is_not_touched(client: Client, where: Where) -> None:
    got = one(client, where, Ask("/gzip", headers={"Accept-Encoding": "gzip"}))
    assert got.header("content-encoding") == "gzip"
    assert got.body == (gzip.decompress(GZIPPED) if client.decodes else GZIPPED)


PATHS = [
    "/echo/a%2Fb%20c/%C3%A9/~x;p=1?q=%26&r=a+b&s=%2520&t",
    "/echo//double///slash",
    "/echo?",
    "/echo?a=1&a=2&=&&",
    "/echo/%E2%82%AC?x=[1]&y={2}|^`",
    "/echo/" + "long/" * 1500,
    "/echo?q=http://other/path?x=1",
]


def test_paths_and_queries_are_not_touched(client: Client, where: Where, itself: Where) -> None:
    paths = [path for path in PATHS if (client.name, where.way, path) != ("curl", "proxy", "/echo?")]
    asks = [Ask(path) for path in paths]  # to a proxy curl sends no empty query
    through, without = (ask(client, target, *asks) for target in (where, itself))
    assert [got.json["target"] for got in through] == [got.json["target"] for got in without]
    if client.name == "curl":  # which sends them as they are
        assert [got.json["target"] for got in through] == paths


def test_cookies(client: Client, where: Where, itself: Where) -> None:
    through, without = (one(client, target, Ask("/cookies")) for target in (where, itself))
    cookies = [value for name, value in through.headers if name.lower() == "set-cookie"]
    assert cookies == [value for name, value in without.headers if name.lower() == "set-cookie"]
    assert any("a=1" in cookie for cookie in cookies)
    assert any("b=two%20words" in cookie for cookie in cookies)


def test_redirects_of_the_application(client: Client, where: Where) -> None:
    got = one(client, where, Ask("/redirect?to=/echo?x=1"))
    assert (got.status, got.header("location")) == (302, "/echo?x=1")
    if client.name == "node-http":  # it follows none
        return
    followed = one(client, where, Ask("/redirect?to=/echo?x=1", follow=True))
    assert (followed.status, followed.json["target"]) == (200, "/echo?x=1")
    if where.way == "proxy":
        absolute = one(client, where, Ask("/redirect?to=http://origin.default.mesh/echo?y=2", follow=True))
        assert (absolute.status, absolute.json["target"]) == (200, "/echo?y=2")
        assert absolute.url == "http://origin.default.mesh/echo?y=2"


def test_one_connection_carries_many_requests(client: Client, where: Where) -> None:
    asks = [
        Ask("/bytes/100"),
        Ask("/echo", "POST", b"x" * 1000),
        Ask("/status/404"),
        Ask("/status/204"),
        Ask("/chunked/20000"),
    ]
    if client.name != "node-fetch":  # it closes the connection after each HEAD, whoever answers
        asks.append(Ask("/bytes/100", "HEAD"))
    got, connections = client.send(where, asks * 5)
    assert [response.status for response in got] == [200, 200, 404, 204, 200, 200][: len(asks)] * 5
    # undici's pool opens a second one while the first is about to be free, whoever answers.
    assert connections in ((1, 2) if client.name == "node-fetch" else (1,))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_request_body(client: Client, where: Where, chunked: bool) -> None:
    body = some_bytes(1_500_000)
    got = one(client, where, Ask("/echo", "POST", body, chunked=chunked))
    assert got.status == 200
    assert got.json["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("page", ["bytes", "chunked"])
def test_a_large_response_body(client: Client, where: Where, page: str) -> None:
    got = one(client, where, Ask(f"/{page}/2000000"))
    assert got.status == 200
    assert got.body == some_bytes(2_000_000)


@pytest.mark.parametrize(
    ("service", "status", "flags", "code"),
    [("nobody", 503, "UH", "no_healthy_upstream"), ("example.com.org", 404, "NR", "no_route")],
)
def test_a_service_that_does_not_exist(
    client: Client, where: Where, service: str, status: int, flags: str, code: str
) -> None:
    got = one(client, Where(where.way, where.agent, service), Ask("/echo"))
    assert (got.status, got.header("x-busmesh-flags")) == (status, flags)
    assert got.header("content-type") == "application/json"
    assert set(got.json) == {"error", "message", "service", "instance"}
    assert got.json["error"] == code
    assert service in got.json["message"]


@pytest.mark.parametrize("service", ["origin:80", "ORIGIN.default.mesh"])
def test_spellings_of_a_service(client: Client, where: Where, service: str) -> None:
    assert one(client, Where(where.way, where.agent, service), Ask("/echo")).status == 200
