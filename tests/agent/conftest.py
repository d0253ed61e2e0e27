"""Fixtures of the agent's parts."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def at_once(no_turns: None) -> None:
    """The parts are tested without an event loop."""
