"""The bus killed and back with an empty store: clear errors at once, then everything again without a hand."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing
from pathlib import Path

from tests.e2e.test_split import VIRTUAL_SERVICE
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Mesh, eventually


def test_an_outage_with_the_loss_of_the_store(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh, ExitStack() as stack:
        for version in ("v1", "v2"):
            mesh.instance("product-service", f"product-{version}-0", "--labels", f"version={version}")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "product-service")
        mesh.publish(VIRTUAL_SERVICE)
        caller = stack.enter_context(closing(Caller(client.outbound, "product-service")))
        assert caller.call("/")[0] == 200

        nats_server.kill()
        until = time.monotonic() + 2.0
        slowest = 0.0
        refused = 0
        while time.monotonic() < until:
            begin = time.perf_counter()
            status, body, headers = caller.call("/")
            slowest = max(slowest, time.perf_counter() - begin)
            assert status == 503
            assert body["error"] == "bus_unavailable"
            assert headers["x-busmesh-flags"] == "UF"
            refused += 1
        assert refused > 100
        assert slowest < bar(0.05)

        nats_server.restart(keep_store=False)
        back = time.monotonic()
        while caller.call("/")[0] != 200:
            assert time.monotonic() - back < bar(1.0), "no service within a second of the bus's return"
        # The log came back empty; the agents have given it their copy.
        eventually(
            lambda: (
                [row["revision"] for row in _lines(mesh.run("policy", "history", "-o", "json").stdout)] == [1]
            ),
            "the policy log is refilled",
        )
        assert client.page("/policies")["revision"] == 1
        newcomer = mesh.agent("shopper", "shopper-1", "--upstreams", "product-service")
        assert newcomer.page("/policies")["revision"] == 1


def _lines(text: str) -> list[dict[str, int]]:
    return [json.loads(line) for line in text.splitlines()]
