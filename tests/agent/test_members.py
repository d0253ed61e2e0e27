"""Who may say that nobody serves a service: the bus alone, at the very subject where the answer is due."""

from __future__ import annotations

from typing import Any, cast

import pytest

from busmesh.agent.members import Members
from busmesh.names import ServiceName, Subjects

INBOX = "busmesh.local.inbox.shop-0.0123456789abcdef"
NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


class _Bus:
    def publish(self, subject: str, payload: bytes, reply: str) -> None:
        self.reply = reply


@pytest.mark.parametrize(("sender", "told"), [("", 1), (".orders-0", 0), (".default-orders", 0)])
def test_only_the_bus_says_that_nobody_serves(sender: str, told: int) -> None:
    """A login may write below an inbox, by its own name; an instance may be called as the key is."""
    bus, nothing = _Bus(), cast(Any, None)
    members = Members(cast(Any, bus), Subjects(), nothing, nothing, "shop-0", INBOX)
    members._ask(ServiceName("orders"))
    assert bus.reply.endswith("default-orders")
    members._on_answer(f"{bus.reply}{sender}".encode(), b"", b"", NO_RESPONDERS)
    assert members.mailbox.statistics()["waiting"] == told
