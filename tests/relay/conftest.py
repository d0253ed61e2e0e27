"""Fixtures of the request path."""

from __future__ import annotations

import pytest

from tests.relay.world import World


@pytest.fixture(autouse=True)
def at_once(request: pytest.FixtureRequest) -> None:
    """The request path is tested without an event loop, but for what a turn of it is."""
    if request.node.path.stem not in ("test_outbox", "test_writer"):
        request.getfixturevalue("no_turns")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A caller on a bus without a network, and a clock of the test's own."""
    return World(monkeypatch)
