"""``busmesh services`` and ``busmesh instances`` against a real bus, with doubles for the agents only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from busmesh.cli.figures import age, milliseconds, percent
from busmesh.cli.main import main
from busmesh.identity.ca import CertificateAuthority
from busmesh.members.announcement import State
from busmesh.names import ServiceName
from busmesh.telemetry.metrics import Registry
from tests.operator.fakes import MESH, FakeMesh, fake_mesh
from tests.support.bus import NatsServer

Said = tuple[int, str, str]
Session = Callable[[FakeMesh, Callable[..., Coroutine[Any, Any, Said]]], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(MESH, time.time())


@pytest.fixture
def in_mesh(
    nats_server: NatsServer,
    ca: CertificateAuthority,
    busmesh_home: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Session], None]:
    """Run a session that may type commands."""

    async def busmesh(*words: str) -> Said:
        capsys.readouterr()
        status = await asyncio.to_thread(main, words)
        return status, *capsys.readouterr()

    def play(session: Session) -> None:
        async def scene() -> None:
            async with fake_mesh(nats_server, ca) as mesh:
                mesh.fill_home(busmesh_home)
                await session(mesh, busmesh)

        asyncio.run(scene())

    return play


async def shop(mesh: FakeMesh) -> None:
    """Orders in two versions, one of them unhealthy, and a client."""
    await mesh.agent("orders", "orders-v1-0", version="v1")
    sick = await mesh.agent("orders", "orders-v2-0", version="v2", tier="gold")
    sick.state = State.UNHEALTHY
    await mesh.agent("cart.shop", "cart-0")


async def tell_metrics(mesh: FakeMesh) -> None:
    """Publish what an agent of web would, each 100 ms: 100 tries to orders a second, one of them failed."""
    registry = Registry()
    metrics = registry.requests("source", "web", "spiffe://local/web", "orders", "v1", "all")
    inbound = registry.requests("destination", "web", "spiffe://local/web", "orders", "v1", "inbound")
    while True:
        for number in range(100):
            metrics.record(503 if number == 0 else 200, "", 0.012)
            inbound.record(200, "", 0.004)
        message = json.dumps(registry.tick(time.time(), 1.0)).encode()
        mesh.bus.publish(mesh.subjects.telemetry("metrics", ServiceName("web"), "web-0"), message)
        await asyncio.sleep(0.1)


def test_services(in_mesh: Callable[[Session], None]) -> None:
    async def session(mesh: FakeMesh, busmesh: Any) -> None:
        await shop(mesh)
        telling = asyncio.create_task(tell_metrics(mesh))
        status, out, err = await busmesh("services", "-o", "table")
        telling.cancel()
        assert (status, err) == (0, "")
        lines = [line.split() for line in out.splitlines()]
        assert lines[0] == ["NAME", "VERSIONS", "READY", "SUCCESS", "RPS", "P50", "P95", "P99"]
        assert lines[1] == ["cart.shop", "-", "1/1", "-", "-", "-", "-", "-"]
        assert lines[2][:5] == ["orders", "v1,v2", "1/2", "99.00%", "100.0"]
        assert [figure.endswith("ms") for figure in lines[2][5:]] == [True] * 3

    in_mesh(session)


def test_services_as_json_without_metrics(in_mesh: Callable[[Session], None]) -> None:
    async def session(mesh: FakeMesh, busmesh: Any) -> None:
        await shop(mesh)
        status, out, _ = await busmesh("services", "--no-metrics")
        assert status == 0
        rows = [json.loads(line) for line in out.splitlines()]
        assert rows[1] == {
            "name": "orders",
            "versions": ["v1", "v2"],
            "ready": 1,
            "instances": 2,
            "clients": 0,
            "success": None,
            "rps": 0.0,
            "p50_ms": None,
            "p95_ms": None,
            "p99_ms": None,
        }

    in_mesh(session)


def test_instances(in_mesh: Callable[[Session], None]) -> None:
    async def session(mesh: FakeMesh, busmesh: Any) -> None:
        await shop(mesh)
        status, out, _ = await busmesh("instances", "orders", "--no-metrics", "-o", "wide")
        assert status == 0
        header, one, two = (line.split() for line in out.splitlines())
        assert header[:6] == ["INSTANCE", "SERVICE", "VERSION", "STATE", "WEIGHT", "REVISION"]
        assert "LABELS" in header
        assert one[:6] == ["orders-v1-0", "orders", "v1", "healthy", "100", "0"]
        assert two[3] == "unhealthy"
        assert "tier=gold,version=v2" in two
        _, out, _ = await busmesh("instances", "--no-metrics")
        assert [json.loads(line)["instance"] for line in out.splitlines()] == [
            *("cart-0", "orders-v1-0", "orders-v2-0"),
        ]
        status, _, err = await busmesh("instances", "cart", "--no-metrics")
        assert status == 6
        assert "no instance of cart answers" in err
        assert (await busmesh("instances", "*"))[0] == 2

    in_mesh(session)


def test_an_empty_mesh_and_noise(in_mesh: Callable[[Session], None]) -> None:
    async def session(mesh: FakeMesh, busmesh: Any) -> None:
        status, out, err = await busmesh("services", "--no-metrics", "-o", "table")
        assert (status, out) == (0, "")
        assert "busmesh agent run" in err
        await mesh.bus.subscribe(
            mesh.subjects.roll_call,
            lambda subject, reply, payload, headers: mesh.bus.publish(reply.decode(), b"I am orders"),
        )
        await mesh.bus.round_trip()
        _, out, err = await busmesh("services", "--no-metrics")
        assert out == ""
        assert "left out 1 answer without proof" in err

    in_mesh(session)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (age(None), ""),
        (age(0.2), "0s"),
        (age(119), "119s"),
        (age(120), "2m"),
        (age(7200), "2h"),
        (age(86400 * 12), "12d"),
        (percent(None), ""),
        (percent(1), "100.00%"),
        (percent(0.999999), "99.99%"),
        (percent(0.991), "99.10%"),
        (percent(0), "0.00%"),
        (milliseconds(None), ""),
        (milliseconds(0.31), "0.3ms"),
        (milliseconds(13.7), "14ms"),
        (milliseconds(1250), "1.25s"),
    ],
)
def test_figures(written: str, text: str) -> None:
    assert written == text
