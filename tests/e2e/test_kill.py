"""SIGKILL under load: no idempotent request fails, and no POST reaches an application twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.support.bus import NatsServer
from tests.support.client import Result, at_rate
from tests.support.mesh import Instance, Mesh

RATE = 100.0
COUNT = 1000


def kill(victim: Instance, what: str) -> None:
    if what == "agent":
        victim.agent.kill()
    else:
        assert victim.application is not None
        victim.application.kill()


async def load_with_a_kill(client: Instance, victim: Instance, what: str, method: str) -> list[Result]:
    def make(number: int) -> dict[str, object]:
        # Some take a while, so that the kill meets requests at work, not only idle processes.
        path = "/?delay=0.05" if number % 5 == 0 else "/"
        return {"method": method, "path": path, "headers": {"x-id": str(number)}}

    load = asyncio.create_task(at_rate(client.outbound, "orders", rate=RATE, count=COUNT, make=make))
    await asyncio.sleep(4.0)
    kill(victim, what)
    return await load


@pytest.mark.parametrize("what", ["agent", "application"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_sigkill_of_one_of_three(tmp_path: Path, nats_server: NatsServer, what: str, method: str) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        instances = [mesh.instance("orders", f"orders-{number}") for number in range(3)]
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        results = asyncio.run(load_with_a_kill(client, instances[0], what, method))
        seen = Counter(entry["id"] for instance in instances for entry in instance.seen())
        assert len(results) == COUNT
        failed = [result for result in results if result.status != 200]
        answered = Counter(result.by for result in results)
        assert all(answered[instance.name] > COUNT / 10 for instance in instances[1:]), answered
        if method == "GET":
            assert failed == []
        else:
            assert [number for number, times in seen.items() if times > 1] == []
            # Only what the dead one had at work may fail, and the answer says what is known.
            assert len(failed) <= 10, failed
            assert all(result.status in (502, 503) and result.flags == "UF" for result in failed), failed
