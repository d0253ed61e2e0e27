"""The policy log against those who can publish to it and are no operators."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import nats

from tests.e2e.test_split import VIRTUAL_SERVICE
from tests.support.bus import NatsServer
from tests.support.mesh import Mesh

TIMEOUT = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: slow}
spec:
  hosts: [slow-service]
  http:
  - timeout: 3s
    route: [{destination: {host: slow-service}}]
"""


async def append(url: str, entries: list[bytes]) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    for entry in entries:
        await stream.publish("busmesh.local.policy.revision", entry)
    await client.close()


async def stored(url: str) -> list[bytes]:
    client = await nats.connect(url)
    manager = client.jsm()
    info = await manager.stream_info("BUSMESH_local_POLICY")
    found = [await manager.get_msg("BUSMESH_local_POLICY", n) for n in range(1, info.state.last_seq + 1)]
    await client.close()
    return [message.data or b"" for message in found]


def test_junk_and_replays_in_the_log_count_for_nothing(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        mesh.instance("product-service", "product-v1-0", "--labels", "version=v1")
        early = mesh.instance("product-service", "product-v2-0", "--labels", "version=v2")
        mesh.publish(VIRTUAL_SERVICE)
        (first,) = asyncio.run(stored(nats_server.url))
        flipped = first[:-40] + bytes([first[-40] ^ 1]) + first[-39:]
        asyncio.run(append(nats_server.url, [b"", b"junk" * 100, first, flipped]))
        mesh.publish(TIMEOUT)
        late = mesh.agent("shopper", "shopper-0", "--upstreams", "product-service")
        for instance in (early, late):
            page = instance.page("/policies")
            assert page["revision"] == 2
            assert page["refused"] is None
            assert {document["metadata"]["name"] for document in page["documents"]} == {
                "product-service",
                "slow",
            }
        rows = [json.loads(line) for line in mesh.run("policy", "status", "-o", "json").stdout.splitlines()]
        assert {row["state"] for row in rows} == {"SYNCED"}
        assert len(rows) == 3
