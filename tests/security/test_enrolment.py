"""A forger on the bus is always faster than the authority, and still keeps nobody out of the mesh."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from busmesh.identity.enrol import SeenNonces, answer
from busmesh.identity.fields import pack
from busmesh.identity.store import Home
from tests.security.rogue import Rogue
from tests.support.bus import NatsServer
from tests.support.mesh import Mesh

FORGED = {
    "junk": b"junk",
    "denied": pack(0, b"", b"", b"", b""),
    "granted": pack(1, b"certificate", b"roots", b"", b"m" * 32),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_answer_keeps_nobody_out(tmp_path: Path, nats_server: NatsServer, kind: str) -> None:
    with Mesh(tmp_path, nats_server) as mesh, Rogue(nats_server.port) as writer:
        forged = 0

        def forge(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
            nonlocal forged
            if reply:
                forged += 1
                writer.publish(reply, FORGED[kind])

        with Rogue(nats_server.port, "busmesh.local.authority.enrol", forge):
            agent = mesh.agent("shopper", "shopper-0")
        assert forged
        assert agent.page("/readyz")["ready"]


def test_a_copy_of_the_old_home_wins_nobody_back(tmp_path: Path, nats_server: NatsServer) -> None:
    """Root key, join tokens and all, stolen before the root was rotated; and faster than the authority."""
    with Mesh(tmp_path, nats_server) as mesh, Rogue(nats_server.port) as writer:
        stolen = shutil.copytree(mesh.home, tmp_path / "stolen")
        ca, grants = Home(stolen).authority("local"), Home(stolen).grants()
        agent = mesh.agent("shopper", "shopper-0")
        mesh.run("identity", "rotate")
        agent.agent.terminate()
        (mesh.home / "agents" / "shopper-0" / "svid.key").unlink()
        granted = 0

        def forge(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
            nonlocal granted
            if reply:
                forged = answer(payload, grants, ca, time.time(), SeenNonces())
                granted += forged.refusal is None
                writer.publish(reply, forged.reply)

        mesh.authority.signal(signal.SIGSTOP)
        back = threading.Timer(1.5, mesh.authority.signal, (signal.SIGCONT,))
        back.start()
        with Rogue(nats_server.port, "busmesh.local.authority.enrol", forge):
            agent = mesh.agent("shopper", "shopper-0")
        assert granted, "the thief's answers are genuine but for the root"
        shown = agent.page("/certs")
        assert shown["issuer"] == Home(mesh.home).trust("local").issuer != ca.bundle.issuer
        assert shown["trust"]["version"] == 4
