"""One mesh for all tests of clients: an application, its agent, and the agent that clients call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.drivers import WAYS, Client, Curl, Httpx2, Node, Requests, Where
from tests.clients.origin import Origin
from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh


@pytest.fixture(scope="package")
def origin() -> Iterator[Origin]:
    """The application itself."""
    with Origin() as app:
        yield app


@pytest.fixture(scope="package")
def agent(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Instance]:
    """The agent that clients send their requests to; it reaches the application as ``origin``."""
    directory = tmp_path_factory.mktemp("clients")
    with NatsServer(directory / "bus") as server, Mesh(directory, server) as mesh:
        mesh.agent("origin", "origin-0", application=origin.url)
        yield mesh.agent("shopper", "shopper-0", "--upstreams", "origin")


@pytest.fixture(params=["curl", "requests", "httpx2", "node-http", "node-fetch"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    """Each client in turn. None is left out where it is not installed: that is a failure."""
    made: dict[str, Client] = {
        "curl": Curl(tmp_path),
        "requests": Requests(),
        "httpx2": Httpx2(),
        "node-http": Node("http"),
        "node-fetch": Node("fetch"),
    }
    return made[request.param]


@pytest.fixture(params=WAYS)
def where(request: pytest.FixtureRequest, agent: Instance) -> Where:
    """Both ways in which a client may address a service."""
    return Where(request.param, agent.outbound, admin=agent.admin)


@pytest.fixture
def itself(origin: Origin) -> Where:
    """The application without a mesh, to compare with."""
    return Where("none", origin.authority)
