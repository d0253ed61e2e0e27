"""Where an answer goes is chosen by whoever asks, and must not be a way to cut the one who answers off."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import msgpack
import pytest

from busmesh.relay.replies import Replies
from tests.security.rogue import Rogue
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Mesh

ROOT = "busmesh.local"


@pytest.mark.parametrize(
    ("reply", "taken"),
    [
        (b"busmesh.local.inbox.orders-0.0a1b.key", True),
        (b"busmesh.local.inbox." + b"a" * 236, True),
        (b"busmesh.local.inbox." + b"a" * 237, False),
        (b"busmesh.local.inbox.", False),
        (b"busmesh.local.inbox.a\xff", False),
        (b"busmesh.local.inbox.*", False),
        (b"busmesh.local.inbox.>", False),
        (b"busmesh.local.inbox..a", False),
        (b"busmesh.local.inbox.a.", False),
        (b"busmesh.local.inbox.a\n", False),
        (b"busmesh.local.relay.orders-0", False),
        (b"busmeshxlocal.inbox.a", False),
    ],
)
def test_answerable(reply: bytes, taken: bool) -> None:
    answer = Replies(ROOT, "inbox", "orders-1").to(reply)
    assert answer == (reply + b".orders-1" if taken else None)


def test_no_reply_subject_cuts_agents_off_the_bus(tmp_path: Path, nats_server: NatsServer) -> None:
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(tmp_path, nats_server))
        orders = mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        caller = stack.enter_context(closing(Caller(client.outbound, "orders")))
        assert caller.call("/")[0] == 200
        rogue = stack.enter_context(Rogue(nats_server.port))
        hello = msgpack.packb([1, b"i" * 16, b"not a client hello"])
        frame = b"\x01\x01" + b"\x00" * 60
        for tail in (b"\xff" * 3000, b"a" * 3900, b"*", b">", b"a..b", b"\x00"):
            rogue.publish(f"{ROOT}.roll", reply=b"busmesh.local.inbox." + tail)
            rogue.publish(f"{ROOT}.who.default.orders", reply=b"busmesh.local.inbox." + tail)
            rogue.publish(f"{ROOT}.session.orders-0", hello, reply=b"busmesh.local.inbox." + tail)
            rogue.publish(f"{ROOT}.relay.orders-0", frame, reply=b"busmesh.local.reply." + tail)
        rogue.flush()
        # Answered over the bus, after all of the above in the order of the subscriptions.
        assert [caller.call("/")[0] for _ in range(20)] == [200] * 20
        for instance in (orders, client):
            assert instance.page("/config")["bus"]["reconnects"] == 0
