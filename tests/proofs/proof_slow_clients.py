"""slowhttptest, the tool that others attack servers with, holds no connection of the agent and nobody up.

200 connections that send headers or bodies a few bytes at a time, or read a large answer as slowly: each is
closed within 15 seconds, and an ordinary client beside them notices nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.proofs.probe import Probe
from tests.proofs.sockets import connections_at
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.mesh import Mesh
from tests.support.processes import Process

TOOL = shutil.which("slowhttptest")
CONNECTIONS = 200
#: Opened within a second. A step each second at most: the tool notices a closed connection at its next step.
COMMON = ["-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-l", "40", "-i", "1", "-p", "5"]


@pytest.mark.skipif(TOOL is None, reason="slowhttptest is not installed: apt-get install slowhttptest")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("attack", "path"),
    [
        pytest.param(["-H"], "/now", id="headers"),
        pytest.param(["-B", "-s", "4096", "-x", "10"], "/sha256", id="small-body"),
        pytest.param(["-B", "-s", "100000000", "-x", "10"], "/sha256", id="large-body"),
        pytest.param(
            ["-X", "-n", "1", "-z", "32", "-w", "512", "-y", "1024"], "/bytes?n=5000000", id="slow-read"
        ),
        pytest.param(
            ["-X", "-n", "1", "-z", "32", "-w", "512", "-y", "1024"],
            "/bytes?n=60000",
            id="slow-read-of-little",
        ),
    ],
)
def proof_of_slow_clients(attack: list[str], path: str, tmp_path: Path, nats_server: NatsServer) -> None:
    with (
        Mesh(tmp_path, nats_server) as mesh,
        Process.python("tests.support.streamer", directory=tmp_path, name="streamer") as app,
    ):
        mesh.agent("store", "store-0", application=app.ready()["url"])
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "store")
        port = int(client.outbound.rpartition(":")[2])
        command = [str(TOOL), *attack, *COMMON, "-u", f"http://store{path}", "-d", client.outbound]
        with Probe(client.outbound, "store", "/now") as probe:
            time.sleep(1.0)
            calm, most = connections_at(port), 0
            with (tmp_path / "attack.log").open("wb") as log:
                attacker = subprocess.Popen(
                    command, stdout=log, stderr=log, env={**os.environ, "TERM": "dumb"}
                )
            begin = opened = time.monotonic()
            try:
                while (now := time.monotonic()) - begin < 45:
                    there = connections_at(port) - calm
                    if there > most:
                        most, opened = there, now
                    if there <= 0 and most:
                        break
                    time.sleep(0.1)
                lasted = time.monotonic() - opened
                left = connections_at(port) - calm
            finally:
                attacker.terminate()
                attacker.wait(10)
    said = (tmp_path / "attack.log").read_text(errors="replace")[-1500:]
    print(
        f"{most // 2} connections at most, all gone {lasted:.1f} s after the last came (left: {left}); "
        f"probe: {len(probe.took)} answers, p99 {1000 * probe.p99():.1f} ms, "
        f"most {1000 * max(probe.took):.1f} ms, failed {probe.failed[:3]}"
    )
    assert most >= 2 * CONNECTIONS * 0.9, said
    assert left <= 0, said
    assert lasted < bar(15), said
    assert probe.failed == []
    assert probe.p99() < bar(0.1)
