"""Fixtures of the agent's parts."""

from __future__ import annotations

import pytest

from busmesh.relay.outbox import Outbox


@pytest.fixture(autouse=True)
def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an event loop there is no end of a turn: what is sent is written at once."""
    monkeypatch.setattr(Outbox, "send", lambda _, transport, data: transport.write(data))
