"""Fixtures of the request path."""

from __future__ import annotations

import pytest

from busmesh.relay.outbox import Outbox
from tests.relay.world import World


@pytest.fixture(autouse=True)
def no_turns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an event loop there is no end of a turn: what is sent is written at once."""
    if request.node.path.stem not in ("test_outbox", "test_writer"):
        monkeypatch.setattr(Outbox, "send", lambda _, transport, data: transport.write(data))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A caller on a bus without a network, and a clock of the test's own."""
    return World(monkeypatch)
