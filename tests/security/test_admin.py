"""A web page on this machine's browser can reach loopback addresses, and must not reach the agent."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh


def status(agent: Instance, method: str, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection(agent.admin, timeout=5)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers={"Host": agent.admin, **named})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def client(tmp_path: Path, nats_server: NatsServer) -> Iterator[Instance]:
    with Mesh(tmp_path, nats_server) as mesh:
        yield mesh.agent("shopper", "shopper-0")


def test_no_page_drains_the_agent(client: Instance) -> None:
    assert status(client, "POST", "/drain", Origin="http://evil.example") == 403
    assert status(client, "POST", "/drain", oRiGiN="null") == 403
    assert status(client, "POST", "/drain", Sec_Fetch_Site="cross-site") == 403
    assert status(client, "POST", "/drain", Sec_Fetch_Site="same-site") == 403
    assert status(client, "POST", "/drain", Host="evil.example") == 403
    assert status(client, "GET", "/config", Origin="http://evil.example") == 403
    assert status(client, "GET", "/readyz") == 200
    assert status(client, "GET", "/config", Sec_Fetch_Site="none") == 200, "typed by a person"
    assert status(client, "POST", "/drain") == 202
