"""The shop as what it is: processes that speak HTTP over sockets. No mesh is needed to test it."""

from __future__ import annotations

import ast
import http.client
import json
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from busmesh.demo import shop
from tests.support.http import EchoApp
from tests.support.ports import free_port
from tests.support.processes import Process

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Shop = Callable[..., tuple[Process, int]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Shop]:
    with ExitStack() as stack:

        def launch(service: str, *args: str, env: dict[str, str] | None = None) -> tuple[Process, int]:
            process = Process.python(
                "busmesh.demo.shop", service, *args, directory=tmp_path, name=service, env=env
            )
            stack.enter_context(process)
            return process, process.ready()["port"]

        yield launch


def ask(
    port: int,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


def test_each_answer_names_who_took_part(start: Shop) -> None:
    _, payments = start("payments", "--version", "v3", "--instance", "payments-0")
    _, orders = start(
        "orders", "--version", "v2", "--instance", "orders-0", "--mesh", f"http://127.0.0.1:{payments}"
    )
    process, web = start("web", "--instance", "web-0", "--mesh", f"http://127.0.0.1:{orders}")
    for path in ("/", "/checkout", "/checkout?item=7"):
        assert ask(web, path) == (
            200,
            {
                "service": "web",
                "version": "v1",
                "instance": "web-0",
                "below": {
                    "service": "orders",
                    "version": "v2",
                    "instance": "orders-0",
                    "below": {"service": "payments", "version": "v3", "instance": "payments-0"},
                },
            },
        )
    assert ask(web, "/healthz")[1]["healthy"] is True
    assert ask(web, "/charge")[0] == 404
    assert process.terminate() == 0
    assert process.stderr == ""


def test_the_ready_line_says_which_port(start: Shop) -> None:
    port = free_port()
    process, said = start("orders", "--port", str(port), "--version", "v2")
    assert said == port
    assert json.loads(process.stdout[0]) == {
        "event": "ready",
        "service": "orders",
        "version": "v2",
        "instance": f"orders-v2-{process.pid}",
        "port": port,
    }


def test_calls_go_through_the_proxy_of_the_environment(start: Shop, echo_app: EchoApp) -> None:
    _, web = start("web", env={"http_proxy": echo_app.url})
    status, answer = ask(web, "/checkout", "POST", b"two", {"traceparent": TRACE, "authorization": "secret"})
    seen = echo_app.received[0]
    assert (status, answer["below"]["app"]) == (200, "echo")
    assert (seen.method, seen.target, seen.header("host")) == ("POST", "http://orders/orders", "orders")
    assert (seen.header("traceparent"), seen.header("authorization")) == (TRACE, None)
    assert seen.body_length == 3


def test_calls_go_to_the_address_of_the_mesh_with_the_host_of_the_service(
    start: Shop, echo_app: EchoApp
) -> None:
    _, orders = start("orders", "--mesh", echo_app.url, env={"http_proxy": "http://127.0.0.1:1"})
    assert ask(orders, "/orders", headers={"x-canary": "yes"})[0] == 200
    seen = echo_app.received[0]
    assert (seen.target, seen.header("host"), seen.header("x-canary")) == ("/charge", "payments", "yes")


def test_connections_are_kept_and_replaced_when_the_other_end_goes(start: Shop, echo_app: EchoApp) -> None:
    _, web = start("web", "--mesh", echo_app.url)
    client = http.client.HTTPConnection("127.0.0.1", web, timeout=10)

    def status() -> int:
        client.request("GET", "/")
        response = client.getresponse()
        response.read()
        return response.status

    assert [status() for _ in range(5)] == [200] * 5
    assert echo_app.connections == 1
    echo_app.stop()
    assert status() == 502
    echo_app.start()
    assert [status() for _ in range(5)] == [200] * 5
    assert echo_app.connections == 2
    echo_app.stop()
    echo_app.start()  # the connection that was kept is dead, and nobody has noticed
    assert status() == 200
    client.close()


def test_a_failure_below_is_told_and_survived(start: Shop) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    process, orders = start("orders", "--mesh", nobody)
    _, web = start("web", "--mesh", f"http://127.0.0.1:{orders}")
    status, answer = ask(web, "/")
    assert (status, answer["error"]) == (502, "orders answered 502")
    assert answer["below"]["service"] == "orders"
    assert answer["below"]["error"].startswith("no answer from payments: ")
    assert answer["below"]["below"] is None
    process.kill()
    status, answer = ask(web, "/")
    assert (status, answer["below"]) == (502, None)
    assert ask(web, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnot",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_nonsense_below_is_a_502(start: Shop, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, web = start("web", "--mesh", f"http://127.0.0.1:{server.getsockname()[1]}")
        outcome: list[int] = []
        client = threading.Thread(target=lambda: outcome.append(ask(web, "/")[0]))
        client.start()
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)
        client.join(10)
    assert outcome == [502]


def test_sigterm_lets_the_request_in_flight_finish(start: Shop, echo_app: EchoApp) -> None:
    process, web = start("web", "--mesh", echo_app.url)
    echo_app.freeze()
    outcome: list[int] = []
    client = threading.Thread(target=lambda: outcome.append(ask(web, "/")[0]))
    client.start()
    while echo_app.count == 0:
        assert client.is_alive()
    process.signal(signal.SIGTERM)
    while _accepts(web):
        assert process.running
    echo_app.thaw()
    client.join(10)
    assert (outcome, process.wait()) == ([200], 0)


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_bodies_that_cannot_be_read_are_refused(start: Shop) -> None:
    _, payments = start("payments")
    assert ask(payments, "/charge", "POST", headers={"content-length": str(shop.MAX_BODY + 1)})[0] == 413
    assert ask(payments, "/charge", "POST", headers={"content-length": "-1"})[0] == 411
    assert ask(payments, "/charge", "POST", headers={"transfer-encoding": "chunked"})[0] == 411


def test_a_client_that_resets_leaves_no_trace(start: Shop) -> None:
    process, payments = start("payments")
    with socket.create_connection(("127.0.0.1", payments)) as sock:
        sock.sendall(b"GET /charge HTTP/1.1\r\nhost: x\r\n\r\n")
        sock.recv(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ask(payments, "/charge")[0] == 200
    assert process.terminate() == 0
    assert process.stderr == ""


def test_the_shop_is_plain_standard_library() -> None:
    tree = ast.parse(Path(shop.__file__).read_text())
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= sys.stdlib_module_names


def test_usage_errors_end_with_status_2(tmp_path: Path) -> None:
    for args, env in (
        (["nothing"], {}),
        (["web", "--mesh", "ftp://x"], {}),
        (["web"], {"http_proxy": "ftp://x"}),
    ):
        with Process.python("busmesh.demo.shop", *args, directory=tmp_path, env=env) as process:
            assert process.wait() == 2
