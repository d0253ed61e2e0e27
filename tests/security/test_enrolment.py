"""A forger on the bus is always faster than the authority, and still keeps nobody out of the mesh."""

from __future__ import annotations

from pathlib import Path

import pytest

from busmesh.identity.fields import pack
from tests.security.rogue import Rogue
from tests.support.bus import NatsServer
from tests.support.mesh import Mesh

FORGED = {
    "junk": b"junk",
    "denied": pack(0, b"", b"", b""),
    "granted": pack(1, b"certificate", b"roots", b"m" * 32),
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
