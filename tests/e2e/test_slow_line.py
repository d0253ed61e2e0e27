"""Large bodies on a slow line to the bus must not keep heartbeats and round trips from going ahead."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tests.support.bus import NatsServer
from tests.support.mesh import Mesh
from tests.support.processes import Process
from tests.support.throttle import SlowLine

MIB = 1024 * 1024


def test_the_bus_is_not_given_up_while_bodies_fill_the_line(tmp_path: Path, nats_server: NatsServer) -> None:
    with (
        SlowLine(nats_server.port, rate=MIB) as line,
        Mesh(tmp_path, nats_server, bus_url=f"nats://127.0.0.1:{line.port}", locked=True) as mesh,
        Process.python("tests.support.streamer", directory=tmp_path, name="streamer") as app,
    ):
        store = mesh.agent("store", "store-0", application=app.ready()["url"])
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "store")

        def upload(number: int) -> int:
            with closing(http.client.HTTPConnection(client.outbound, timeout=50)) as connection:
                connection.request("PUT", "/sha256", body=b"x" * MIB, headers={"Host": "store"})
                said = connection.getresponse().read()
                assert b"size" in said, said
                size: int = json.loads(said)["size"]
                return size

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(upload, range(8))) == [MIB] * 8
        for agent in (client, store):
            assert agent.page("/config")["bus"]["reconnects"] == 0
