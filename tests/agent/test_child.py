"""The application as a child of its agent: how each of them ends."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.bus import NatsServer
from tests.support.mesh import Mesh, eventually
from tests.support.processes import Process


def start(mesh: Mesh, tmp_path: Path, code: str, port: int = 9) -> Process:
    return mesh._stack.enter_context(
        Process.busmesh(
            *("agent", "run", "--bus", mesh.url, "--service", "orders", "--app", f"http://127.0.0.1:{port}"),
            *("--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--", sys.executable, "-c", code),
            directory=tmp_path,
            home=mesh.home,
            name="wrapping-agent",
        )
    )


@pytest.mark.parametrize("status", [0, 7])
def test_the_agent_ends_with_the_applications_status(
    tmp_path: Path, nats_server: NatsServer, status: int
) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        agent = start(mesh, tmp_path, f"raise SystemExit({status})")
        agent.ready()
        assert agent.wait() == status


def test_a_killed_application_is_told_as_a_shell_does(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        agent = start(mesh, tmp_path, "import os; os.kill(os.getpid(), 9)")
        agent.ready()
        assert agent.wait() == 128 + signal.SIGKILL


def test_sigterm_ends_an_application_without_a_handler_in_order(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        agent = start(mesh, tmp_path, "import time; print('up', flush=True); time.sleep(60)")
        agent.ready()
        eventually(lambda: "up" in agent.stderr, "the application runs")
        assert agent.terminate() == 0
