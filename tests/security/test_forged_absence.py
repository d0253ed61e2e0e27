"""Whoever writes "no responders" for an instance that lives takes it out for a moment, and no longer."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path

from busmesh.members.announcement import Announcement, State
from busmesh.members.table import MemberTable
from busmesh.names import ServiceName, SpiffeId
from tests.security.rogue import NO_RESPONDERS, Rogue
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Mesh

COUNT = 200
EVERY_S = 0.1


def test_an_instance_called_gone_is_back_at_once(tmp_path: Path, nats_server: NatsServer) -> None:
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(tmp_path, nats_server))
        for number in range(2):
            mesh.instance("orders", f"orders-{number}")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        caller = stack.enter_context(closing(Caller(client.outbound, "orders")))
        assert caller.call("/")[0] == 200
        writer = stack.enter_context(Rogue(nats_server.port))
        forged = [0.0]

        def forge(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
            if reply and time.monotonic() - forged[-1] > EVERY_S:
                forged.append(time.monotonic())
                writer.publish(reply, headers=NO_RESPONDERS)

        with Rogue(nats_server.port, "busmesh.local.relay.*", forge):
            answered = [caller.call("/?delay=0.01")[0] for _ in range(COUNT)]
        assert len(forged) > 10
        assert answered == [200] * COUNT


def announced(sequence: int, state: State = State.HEALTHY) -> Announcement:
    return Announcement(
        namespace="default",
        service="orders",
        instance="orders-0",
        incarnation=1,
        sequence=sequence,
        interval=1,
        state=state,
    )


def test_what_was_said_before_the_last_word_brings_nobody_back() -> None:
    orders = ServiceName("orders")
    signer = SpiffeId.workload("local", orders, "orders-0")
    table = MemberTable()
    for sequence in (1, 2, 3):
        table.apply(announced(sequence), signer, 0.0)
    table.lost(orders, "orders-0", 1.0)
    assert not any(member.ready for member in table.of(orders))
    assert not table.apply(announced(2), signer, 1.0)
    assert table.apply(announced(3), signer, 1.0), "asked again, it repeats itself"
    assert [member.ready for member in table.of(orders)] == [True]
    table.apply(announced(4, State.LEFT), signer, 2.0)
    table.lost(orders, "orders-0", 2.0)
    assert not table.apply(announced(3), signer, 2.0)
    table.apply(announced(4, State.LEFT), signer, 2.0)
    assert not any(member.ready for member in table.of(orders))
