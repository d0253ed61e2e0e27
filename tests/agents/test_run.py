"""Every definition under ``agents/``, run as its comment says, on a real bus, does what the comment says."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.agents.test_definitions import FOLDER, commands
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.http import EchoApp
from tests.support.mesh import Instance, Mesh, eventually
from tests.support.ports import free_port
from tests.support.processes import Process

Run = Callable[..., Instance]
SHOP = [sys.executable, "-m", "busmesh.demo.shop"]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("agents")
    with NatsServer(folder / "bus") as server, Mesh(folder, server) as mesh:
        yield mesh


@pytest.fixture
def run(mesh: Mesh, tmp_path: Path) -> Iterator[Run]:
    """Start ``busmesh agent run agents/FILE``, on free ports; ``wrap`` is the application's command."""
    with ExitStack() as stack:

        def start(
            file: str,
            *options: str,
            wrap: tuple[str, ...] = (),
            outbound: str = "127.0.0.1:0",
            home: Path = mesh.home,
            env: dict[str, str] | None = None,
        ) -> Instance:
            number = len(list(tmp_path.glob("*.err")))
            words = [
                "agent",
                "run",
                str(FOLDER / file),
                "--outbound",
                outbound,
                "--admin",
                "127.0.0.1:0",
                *options,
            ]
            process = Process.busmesh(
                *words,
                *(["--", *wrap] if wrap else []),
                directory=tmp_path,
                home=home,
                name=f"{file}-{number}",
                env=env,
            )
            stack.enter_context(process)
            ready = process.ready()
            return Instance(ready["instance"], process, ready["outbound"], ready["admin"])

        yield start


@pytest.fixture
def shop(run: Run) -> Callable[..., Instance]:
    """Start an instance of the shop with its application, and wait until it serves."""

    def start(file: str, service: str, *options: str) -> Instance:
        port = free_port()
        app = (*SHOP, service, "--port", str(port), *options)
        instance = run(file, "--app", f"http://127.0.0.1:{port}", wrap=app)
        eventually(lambda: instance.page("/readyz")["ready"], f"{file} is ready")
        return instance

    return start


def get(outbound: str, service: str, path: str = "/") -> tuple[int, Any, dict[str, str]]:
    caller = Caller(outbound, service)
    try:
        return caller.call(path)
    finally:
        caller.close()


def through_proxy(outbound: str, url: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(outbound, timeout=20)
    try:
        connection.request("GET", url)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_the_shop(run: Run, shop: Callable[..., Instance]) -> None:
    payments = shop("payments.yaml", "payments")
    for version in ("v1", "v2"):
        shop(f"orders-{version}.yaml", "orders", "--version", version)
    web = shop("web.yaml", "web")
    shopper = run("client-only.yaml")

    # web: upstreams are met in advance, before the first request.
    eventually(
        lambda: (
            [e["state"] for e in web.page("/members")["endpoints"] if e["service"] == "orders"]
            == ["usable", "usable"]
        ),
        "web has met orders",
    )
    assert web.page("/members")["statistics"]["outbound"]["active"] == 0
    # client-only: both ways to address a service; the application of web finds orders by http_proxy.
    status, answer = through_proxy(shopper.outbound, "http://web/")
    assert status == 200
    assert [answer["service"], answer["below"]["service"], answer["below"]["below"]["service"]] == [
        "web",
        "orders",
        "payments",
    ]
    # orders: both versions get the same share as long as no policy says otherwise.
    versions = Counter(get(shopper.outbound, "orders", "/orders")[1]["version"] for _ in range(200))
    assert set(versions) == {"v1", "v2"}
    assert min(versions.values()) > 60, versions
    # client-only: it has a name of its own, and nobody can send it anything.
    assert shopper.page("/certs")["id"] == "spiffe://local/ns/default/svc/shopper/i/shopper-0"
    status, answer, headers = get(shopper.outbound, "shopper")
    assert (status, headers["x-busmesh-flags"]) == (503, "UH")
    # payments is told to end: it leaves the mesh, and with the application's status.
    assert payments.agent.terminate() == 0


def test_orders_leaves_the_rotation_while_its_application_is_unhealthy(run: Run, echo_app: EchoApp) -> None:
    orders = run("orders-v1.yaml", "--app", echo_app.url)
    shopper = run("client-only.yaml")
    assert get(shopper.outbound, "orders")[0] == 200

    def refused() -> bool:
        status, _, headers = get(shopper.outbound, "orders")
        return status == 503 and headers["x-busmesh-flags"] == "UH"

    echo_app.healthy = False
    eventually(refused, "nobody sends requests to orders")
    echo_app.healthy = True
    eventually(lambda: get(shopper.outbound, "orders")[0] == 200, "they come again")
    echo_app.freeze()
    eventually(lambda: not orders.page("/readyz")["ready"], "a hung application is noticed")
    eventually(refused, "and nobody waits for it")
    echo_app.thaw()


def test_payments_refuses_what_is_too_much(run: Run, echo_app: EchoApp) -> None:
    run("payments.yaml", "--app", echo_app.url)
    shopper = run("client-only.yaml", "--upstreams", "payments")
    assert get(shopper.outbound, "payments")[0] == 200

    with ThreadPoolExecutor(150) as pool:
        headers = list(pool.map(lambda _: get(shopper.outbound, "payments", "/?delay=1")[2], range(150)))
    refused = [each["x-busmesh-flags"] for each in headers if "x-busmesh-flags" in each]
    assert refused == ["UO"] * (150 - 64 - 64)


def test_payments_finishes_what_is_at_work(run: Run, echo_app: EchoApp) -> None:
    payments = run("payments.yaml", "--app", echo_app.url)
    shopper = run("client-only.yaml", "--upstreams", "payments")
    assert get(shopper.outbound, "payments")[0] == 200
    with ThreadPoolExecutor(1) as pool:
        before = echo_app.count
        last = pool.submit(get, shopper.outbound, "payments", "/?delay=1.5")
        eventually(lambda: echo_app.count > before, "a request is at work")
        assert payments.agent.terminate() == 0
        assert last.result()[0] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8")
def test_the_gateway_listens_on_every_interface_but_for_its_admin_endpoint(
    run: Run, echo_app: EchoApp
) -> None:
    run("web.yaml", "--app", echo_app.url)
    gateway = run("gateway.yaml", outbound="0.0.0.0:0")
    port = gateway.outbound.rpartition(":")[2]
    assert gateway.outbound == f"0.0.0.0:{port}"
    status, answer, _ = get(f"127.0.0.2:{port}", "web")
    assert status == 200
    assert answer["app"] == echo_app.name
    admin = int(gateway.admin.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", admin), 2)


def test_the_sidecar_takes_from_the_environment_what_its_comment_says(
    run: Run, mesh: Mesh, echo_app: EchoApp, tmp_path: Path
) -> None:
    ((env, words),) = commands(FOLDER / "sidecar.yaml")
    assert words == ["agent", "run", "agents/sidecar.yaml"]
    here = {
        "BUSMESH_APP": echo_app.url,
        "BUSMESH_BUS": mesh.url,
        "BUSMESH_JOIN": str(mesh.home / "join-token"),
    }
    assert here.keys() <= env.keys()
    sidecar = run("sidecar.yaml", home=tmp_path / "container", env=env | here)
    assert sidecar.name.startswith("billing-")
    assert sidecar.page("/members")["self"]["labels"] == {"version": "v3", "tier": "gold"}
    assert sidecar.page("/config")["definition"]["upstreams"] == ["payments", "orders"]
    assert {received.target for received in echo_app.received} == {"/live"}
    shopper = run("client-only.yaml", "--upstreams", "billing")
    assert get(shopper.outbound, "billing", "/invoice")[1]["path"] == "/invoice"


def test_the_wrapped_application_lives_and_dies_with_its_agent(run: Run, mesh: Mesh, tmp_path: Path) -> None:
    port = str(free_port())
    served = tmp_path / "served"
    served.mkdir()
    (served / "hello.txt").write_text("hello")
    files = (sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", str(served))
    wrapped = run("wrapped.yaml", "--app", f"http://127.0.0.1:{port}", wrap=files)
    eventually(lambda: wrapped.page("/readyz")["ready"], "the file server is healthy")
    called = mesh.run("call", "files", "/hello.txt")
    assert called.stdout == "hello"
    assert "hello.txt" in mesh.run("call", "files", "/").stdout
    assert wrapped.agent.terminate() == 0  # the signal that ended the application was the agent's own
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=2).connect()


def test_the_wrapped_application_finds_the_mesh_and_its_status_is_the_agents(run: Run) -> None:
    look = (
        "import os, sys, time; time.sleep(0.5);"
        "sys.exit(7 if os.environ['http_proxy'] == 'http://' + os.environ['BUSMESH_OUTBOUND'] else 1)"
    )
    wrapped = run(
        "wrapped.yaml", "--app", f"http://127.0.0.1:{free_port()}", wrap=(sys.executable, "-c", look)
    )
    assert wrapped.agent.wait() == 7
