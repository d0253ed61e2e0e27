"""No word that anybody on the bus can write makes a request arrive twice that must not be repeated."""

from __future__ import annotations

import struct
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.security.rogue import NO_RESPONDERS, Rogue
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Mesh, eventually

HEADER = struct.Struct("!BBQQQ")
COUNT = 10


def unknown_session(frame: bytes) -> bytes:
    _, _, session, _, stream = HEADER.unpack_from(frame)
    return HEADER.pack(1, 0x80, session, 0, stream)


@pytest.mark.parametrize("sign", ["no responders", "unknown session"])
def test_a_forged_sign_of_loss_repeats_no_post(tmp_path: Path, nats_server: NatsServer, sign: str) -> None:
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(tmp_path, nats_server))
        writer = stack.enter_context(Rogue(nats_server.port))
        instances = [mesh.instance("orders", f"orders-{number}") for number in range(2)]
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        caller = stack.enter_context(closing(Caller(client.outbound, "orders")))
        forged = 0

        def forge(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
            nonlocal forged
            if not reply or len(payload) < HEADER.size:
                return
            forged += 1
            if sign == "no responders":
                writer.publish(reply, headers=NO_RESPONDERS)
            else:
                writer.publish(reply, unknown_session(payload))

        for number in range(COUNT):
            eventually(lambda: caller.call("/warm")[0] == 200, "the instances are back")
            with Rogue(nats_server.port, "busmesh.local.relay.*", forge):
                caller.call("/?delay=0.3", method="POST", body=b"x", x_id=f"post-{number}")
        seen = Counter(entry["id"] for instance in instances for entry in instance.seen() if entry["id"])
        assert forged >= COUNT
        assert seen == {f"post-{number}": 1 for number in range(COUNT)}


def test_a_post_to_an_agent_that_was_killed_is_tried_elsewhere(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(tmp_path, nats_server))
        instances = [mesh.instance("orders", f"orders-{number}") for number in range(2)]
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        caller = stack.enter_context(closing(Caller(client.outbound, "orders")))
        assert {caller.call("/")[1]["name"] for _ in range(40)} == {"orders-0", "orders-1"}
        instances[0].agent.kill()
        # The server must have noticed: only then is its "no responders" the sign that is tested here.
        subject = "busmesh.local.relay.orders-0"
        eventually(lambda: subject not in str(nats_server.monitor("subsz?subs=1")), "the bus knows")
        answered = [caller.call("/", method="POST", body=b"x")[0] for _ in range(20)]
        assert answered == [200] * 20
