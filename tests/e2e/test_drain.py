"""SIGTERM under load: an instance leaves without one failed request, and without a retry either."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.bus import NatsServer
from tests.support.client import Result, at_rate
from tests.support.mesh import Instance, Mesh

RATE = 200.0
COUNT = 1600


async def load_with_restarts(mesh: Mesh, client: Instance, instances: list[Instance]) -> list[Result]:
    def make(number: int) -> dict[str, object]:
        path = "/?delay=0.1" if number % 10 == 0 else "/"
        return {"method": "POST", "path": path, "headers": {"x-id": str(number)}}

    done = asyncio.Event()
    load = asyncio.create_task(
        at_rate(client.outbound, "orders", rate=RATE, count=COUNT, make=make, until=done)
    )
    for old in instances:
        await asyncio.sleep(1.0)
        new = await asyncio.to_thread(mesh.instance, "orders", f"{old.name}-next")
        assert new.page("/readyz")["ready"]
        assert await asyncio.to_thread(old.agent.terminate) == 0
    done.set()
    return await load


def test_a_rolling_restart_loses_nothing(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        instances = [mesh.instance("orders", f"orders-{number}") for number in range(2)]
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        results = asyncio.run(load_with_restarts(mesh, client, instances))
        assert [result for result in results if result.status != 200] == []
        assert {result.by for result in results} > {"orders-0-next", "orders-1-next"}
        tries = client.metric("busmesh_requests_total", 'reporter="source"')
        assert tries == len(results) >= COUNT, "a try for each request, and no more"
