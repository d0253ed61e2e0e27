"""Fixtures of the request path."""

from __future__ import annotations

import pytest

from tests.relay.world import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A caller on a bus without a network, and a clock of the test's own."""
    return World(monkeypatch)
