"""A port that is taken is said before anything else happens, so that it costs no enrolment."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from busmesh.identity.jointoken import JoinToken
from busmesh.identity.store import save_join_token
from tests.support.bus import NatsServer
from tests.support.mesh import Mesh, eventually
from tests.support.ports import free_port
from tests.support.processes import Process


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@pytest.mark.parametrize("which", ["outbound", "admin"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_costs_no_enrolment(
    tmp_path: Path, nats_server: NatsServer, taken: str, which: str, workers: str
) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        other = "admin" if which == "outbound" else "outbound"
        with Process.busmesh(
            *("agent", "run", "--service", "orders", "--instance", "orders-0", "--bus", mesh.url),
            *(f"--{which}", taken, f"--{other}", "127.0.0.1:0", "--workers", workers),
            directory=tmp_path,
            home=mesh.home,
        ) as agent:
            assert agent.wait() == 2
            assert f"BM3201 {which} address {taken} cannot be used: Address already in use" in agent.stderr
            assert f"--{which} 127.0.0.1:0" in agent.stderr
        assert "granted" not in mesh.authority.stderr
        assert not (mesh.home / "agents" / "orders-0" / "svid.key").exists()


def test_it_is_said_without_a_bus_as_well(tmp_path: Path, busmesh_home: Path, taken: str) -> None:
    with Process.busmesh(
        *("agent", "run", "--service", "orders", "--bus", f"nats://127.0.0.1:{free_port()}"),
        *("--outbound", taken, "--admin", "127.0.0.1:0"),
        directory=tmp_path,
        home=busmesh_home,
    ) as agent:
        assert agent.wait() == 2
        assert "BM3201" in agent.stderr


def test_who_connects_before_the_agent_serves_is_refused_and_does_not_hang(
    tmp_path: Path, busmesh_home: Path
) -> None:
    outbound, token = free_port(), tmp_path / "token"
    save_join_token(token, JoinToken.generate("local"))
    with Process.busmesh(
        *("agent", "run", "--service", "orders", "--bus", f"nats://127.0.0.1:{free_port()}"),
        *("--outbound", f"127.0.0.1:{outbound}", "--admin", "127.0.0.1:0", "--join", str(token)),
        directory=tmp_path,
        home=busmesh_home,
    ) as agent:
        # It has the port from the beginning: nobody else can take it while it waits for the bus.
        eventually(lambda: is_taken(outbound), "the agent takes its port")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", outbound), timeout=1)
        assert agent.running
