"""The admin endpoint: its pages, to whom it answers, and what it says while an agent is not ready."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from busmesh.agent.admin import Admin, Reply, as_json
from busmesh.relay.client.connection import Connection
from tests.relay.transcript import request
from tests.relay.wires import FakeTransport, Response, responses
from tests.support.bus import NatsServer
from tests.support.http import EchoApp
from tests.support.mesh import Instance, Mesh, eventually
from tests.telemetry import promtext

PAGES: dict[tuple[str, str], Callable[[], Reply]] = {
    ("GET", "/livez"): lambda: as_json({"alive": True}),
    ("GET", "/readyz"): lambda: as_json({"ready": False}, 503),
    ("POST", "/drain"): lambda: as_json({"draining": True}, 202),
    ("GET", "/broken"): lambda: as_json(1 / 0),
}


def ask(
    *headers: str,
    line: str = "GET /livez HTTP/1.1",
    host: str = "Host: 127.0.0.1:15000",
    at: str = "127.0.0.1",
) -> Response:
    """Ask an admin endpoint bound to ``at`` that has PAGES, without a network."""
    admin = Admin(PAGES, at)
    client = FakeTransport(Connection(admin._listener))
    client.protocol.data_received(request(*headers, line=line, host=host))
    [response] = responses(client.written, line.partition(" ")[0])
    return response


def error(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.body)["error"]


# -- to whom it answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:15000",
        "127.0.0.1",
        "localhost:15000",
        "LOCALHOST",
        "[::1]:15000",
        "10.1.2.3:80",
        "agent.internal:1",
    ],
)
def test_its_own_names(host: str) -> None:
    """An address in Host cannot come from DNS, so it cannot be rebound; a name counts if it was bound."""
    assert ask(host=f"Host: {host}", at="agent.internal").status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:15000",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "evil#127.0.0.1",
        "",
        "[::1",
        "[::1]x",
        "localhost:x",
        "a:b:c",
        "[x]",
    ],
)
def test_names_that_a_web_page_could_rebind(host: str) -> None:
    response = ask(host=f"Host: {host}")
    assert response.status in (400, 403)
    assert b"alive" not in response.body


@pytest.mark.parametrize("url", ["http://evil.example/livez", "http://evil.example:15000/livez"])
def test_a_foreign_name_in_the_url_is_no_way_around(url: str) -> None:
    assert error(ask(line=f"GET {url} HTTP/1.1", host=f"Host: {url[7:].partition('/')[0]}")) == (
        403,
        "foreign_host",
    )
    assert error(ask(line=f"GET {url} HTTP/1.1")) == (400, "conflicting_host")


def test_a_request_without_host_is_no_request() -> None:
    assert error(ask(host="")) == (400, "bad_host")
    assert error(ask("Host: evil.example")) == (400, "bad_host")


def test_nobody_gets_a_tunnel() -> None:
    response = ask(line="CONNECT 127.0.0.1:15000 HTTP/1.1")
    assert error(response) == (501, "upgrade_not_supported")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Origin: http://evil.example"], 403),
        (["origin: null"], 403),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: same-origin"], 403),
        (["Sec-Fetch-Site: none"], 202),
        (["X-Origin: http://evil.example"], 202),
        ([], 202),
    ],
)
def test_pages_of_a_browser_change_nothing(headers: list[str], status: int) -> None:
    """A simple POST to a loopback address needs neither CORS nor DNS."""
    assert ask(*headers, line="POST /drain HTTP/1.1").status == status


# -- pages ---------------------------------------------------------------------------------------------


def test_a_page() -> None:
    response = ask()
    assert (response.status, json.loads(response.body)) == (200, {"alive": True})
    assert response.header("content-type") == "application/json"
    assert response.header("cache-control") == "no-store"
    assert [name for name, _ in response.headers if name.lower().startswith("access-control")] == []


def test_a_page_has_a_status_of_its_own() -> None:
    assert ask(line="GET /readyz HTTP/1.1").status == 503


def test_a_query_changes_nothing() -> None:
    assert ask(line="GET /livez?verbose=1 HTTP/1.1").status == 200


def test_head_is_get_without_a_body() -> None:
    get, head = ask(), ask(line="HEAD /livez HTTP/1.1")
    assert (head.status, head.body) == (200, b"")
    assert head.header("content-length") == str(len(get.body))


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("POST /livez", "GET, HEAD"),
        ("DELETE /livez", "GET, HEAD"),
        ("OPTIONS /livez", "GET, HEAD"),
        ("GET /drain", "POST"),
        ("HEAD /drain", "POST"),
    ],
)
def test_methods_that_a_page_does_not_take(line: str, allowed: str) -> None:
    response = ask(line=f"{line} HTTP/1.1")
    assert (response.status, response.header("allow")) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/livez/", "/Livez", "/metrics/../livez", "/%6civez", "*"])
def test_pages_that_are_none(path: str) -> None:
    response = ask(line=f"{'OPTIONS' if path == '*' else 'GET'} {path} HTTP/1.1")
    assert error(response) == (404, "no_such_page")
    assert "/livez" in json.loads(response.body)["message"]


def test_a_page_that_fails_is_an_error_and_not_a_silence(caplog: pytest.LogCaptureFixture) -> None:
    assert error(ask(line="GET /broken HTTP/1.1")) == (500, "internal_error")
    assert "ZeroDivisionError" in caplog.text


# -- a real agent ------------------------------------------------------------------------------------------


class Page(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def page(agent: Instance, path: str, method: str = "GET") -> Page:
    connection = http.client.HTTPConnection(agent.admin, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return Page(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.fixture
def mesh(tmp_path: Path, nats_server: NatsServer) -> Iterator[Mesh]:
    with Mesh(tmp_path, nats_server) as made:
        yield made


def test_the_pages_of_an_agent(mesh: Mesh, echo_app: EchoApp, tmp_path: Path) -> None:
    definition = tmp_path / "orders.yaml"
    secret = mesh.url.replace("://", "://somebody:topsecret@")
    definition.write_text(
        "apiVersion: busmesh/v1\nkind: Agent\nservice: orders\ninstance: orders-0\n"
        f'bus: {{url: "{secret}"}}\n'
        f"app: {echo_app.url}\nhealth: {{path: /healthz}}\noutbound: 127.0.0.1:0\nadmin: 127.0.0.1:0\n"
    )
    process = mesh._process("agent", "run", str(definition), name="agent-orders-0")
    ready = process.ready()
    orders = Instance("orders-0", process, ready["outbound"], ready["admin"])
    caller = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
    answered = http.client.HTTPConnection(caller.outbound, timeout=10)
    for path in ("/", "/?status=500"):
        answered.request("GET", path, headers={"Host": "orders"})
        answered.getresponse().read()
    answered.close()

    assert page(orders, "/livez").json == {"alive": True}
    assert page(orders, "/readyz").json == {"ready": True, "awaited": {}}
    config = page(orders, "/config").json
    assert (config["definition"]["service"], config["instance"]) == ("orders", "orders-0")
    assert config["bus"]["connected"] is True
    members = page(caller, "/members").json
    assert [endpoint["instance"] for endpoint in members["endpoints"]] == ["orders-0"]
    assert members["endpoints"][0]["state"] == "usable"
    assert members["statistics"]["outbound"]["active"] == 0
    assert page(orders, "/policies").json["revision"] == 0
    breakers = page(caller, "/breakers").json
    assert breakers["endpoints"] == [{"service": "orders", "instance": "orders-0", "state": "usable"}]
    assert [(d["destination"], d["held"]) for d in breakers["destinations"]] == [("orders.default", {})]
    certificate = page(orders, "/certs").json
    assert certificate["id"] == "spiffe://local/ns/default/svc/orders/i/orders-0"
    assert certificate["seconds_left"] > 60
    for path in ("/config", "/members", "/policies", "/breakers", "/certs", "/metrics"):
        got = page(orders, path)
        assert got.status == 200
        for never in (b"topsecret", b"PRIVATE KEY", b"busmesh-join"):
            assert never not in got.body, path

    assert "topsecret" not in process.stderr
    for agent in (orders, caller):
        check_metrics(page(agent, "/metrics"))
    families = promtext.parse(page(caller, "/metrics").body.decode())
    assert families["busmesh_tasks"].by("busmesh_tasks")[()] > 1
    counted = families["busmesh_requests_total"].by("busmesh_requests_total")
    assert sum(counted.values()) == 2
    assert {dict(labels)["response_code"] for labels in counted} == {"200", "500"}


def check_metrics(got: Page) -> None:
    assert got.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    promtext.parse(got.body.decode())
    promtool = shutil.which("promtool")
    if promtool is not None:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=got.body, capture_output=True, timeout=20, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_readyz_says_what_is_awaited(mesh: Mesh, nats_server: NatsServer, echo_app: EchoApp) -> None:
    orders = mesh.agent("orders", "orders-0", "--health-path", "/healthz", application=echo_app.url)
    assert page(orders, "/readyz").json == {"ready": True, "awaited": {}}
    echo_app.healthy = False
    eventually(lambda: page(orders, "/readyz").status == 503, "the application counts as unhealthy")
    awaited = page(orders, "/readyz").json
    assert awaited["ready"] is False
    assert list(awaited["awaited"]) == ["application"]
    assert "503" in awaited["awaited"]["application"]
    echo_app.healthy = True
    eventually(lambda: page(orders, "/readyz").status == 200, "the application is healthy again")
    nats_server.kill()
    eventually(lambda: "bus" in page(orders, "/readyz").json["awaited"], "the bus is missed")
    assert page(orders, "/livez").status == 200, "an agent without a bus need not be restarted"
    nats_server.restart()
    eventually(lambda: page(orders, "/readyz").status == 200, "the bus is back")


def test_drain(mesh: Mesh) -> None:
    agent = mesh.agent("shopper", "shopper-0")
    assert page(agent, "/drain").status == 405
    done = page(agent, "/drain", "POST")
    assert (done.status, done.json) == (202, {"draining": True})
    assert agent.agent.wait() == 0
