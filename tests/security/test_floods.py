"""Floods of junk: what they cost is bounded, and honest requests go on."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import msgpack
import pytest

from busmesh.members.announcement import Announcement, State
from busmesh.members.table import MemberTable
from busmesh.names import ServiceName, SpiffeId
from busmesh.telemetry.tally import Tally
from tests.security.rogue import Rogue
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Mesh, eventually

FLOOD = 20_000


def test_a_flood_of_forged_announcements_fills_no_log(tmp_path: Path, nats_server: NatsServer) -> None:
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(tmp_path, nats_server))
        mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        caller = stack.enter_context(closing(Caller(client.outbound, "orders")))
        assert caller.call("/")[0] == 200
        rogue = stack.enter_context(Rogue(nats_server.port))
        junk = msgpack.packb([1, b"c" * 400, 1, b"body", b"s" * 70])
        for _ in range(FLOOD):
            rogue.publish("busmesh.local.member.default.orders.orders-0", junk)
        rogue.flush()
        answered = [caller.call("/")[0] for _ in range(50)]
        assert answered == [200] * 50
        eventually(lambda: client.page("/members")["statistics"]["forged"] > FLOOD / 4, "the junk is counted")
        assert len(client.agent.stderr) < 20_000


def test_a_tally_says_little_and_counts_all(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(logging.getLogger("busmesh.test"), "things")
    with caplog.at_level(logging.INFO, "busmesh.test"):
        for number in range(1000):
            tally.add(f"reason {number}")
    assert tally.count == 1000
    assert [record.getMessage() for record in caplog.records] == ["1 things refused, the last: reason 0"]


def test_only_the_instance_itself_makes_news() -> None:
    orders, evil = ServiceName("orders"), ServiceName("evil")
    said = Announcement(
        namespace="default",
        service="orders",
        instance="orders-0",
        incarnation=1,
        sequence=1,
        interval=1,
        state=State.HEALTHY,
        revision=10**6,
    )
    table = MemberTable()
    honest = SpiffeId.workload("local", orders, "orders-0")
    assert not table.is_news(said, SpiffeId.workload("local", evil, "orders-0"))
    assert not table.is_news(said, SpiffeId.workload("local", orders, "orders-1"))
    assert not table.is_news(said, SpiffeId("local", operator="admin"))
    assert table.is_news(said, honest)
    assert table.apply(said, honest, 0.0)
    assert not table.is_news(said, honest), "replayed"
    assert table.statistics() == {"members": 1, "rejected": 3, "stale": 1}


def test_junk_on_the_session_subject_shuts_no_newcomer_out(tmp_path: Path, nats_server: NatsServer) -> None:
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(tmp_path, nats_server))
        mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0")  # has no session yet
        rogue = stack.enter_context(Rogue(nats_server.port))
        over = threading.Event()

        def flood() -> None:
            number = 0
            while not over.wait(0.01):  # 5,000 a second
                for _ in range(50):
                    number += 1
                    junk = msgpack.packb([1, number.to_bytes(16), b"junk" * 50])
                    rogue.publish("busmesh.local.session.orders-0", junk, reply=b"busmesh.local.inbox.rogue")

        thread = threading.Thread(target=flood)
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)
        caller = stack.enter_context(closing(Caller(client.outbound, "orders")))
        assert [caller.call("/")[0] for _ in range(20)] == [200] * 20
