"""The desk: what it drops before any work, what it counts, and where its answers may go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.authority import desk as desk_module
from busmesh.authority.desk import ENROL_COSTS, MAX_REQUEST, RENEW_COSTS, Desk, Request
from busmesh.errors import BusUnavailable
from busmesh.identity.enrol import Answer, Refusal
from busmesh.names import ServiceName, SpiffeId, Subjects

SUBJECTS = Subjects("local")
INBOX = b"busmesh.local.inbox.orders-0.1a2b.3c4d"
ORDERS = SpiffeId.workload("local", ServiceName("orders"), "orders-0")


class FakeBus:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.down = False

    def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        if self.down:
            raise BusUnavailable("not connected", code="BM3003")
        self.sent.append((subject, payload))


class Clerk:
    """Answers as told, and counts what it was asked."""

    def __init__(self, refusal: Refusal | None = None) -> None:
        self.refusal = refusal
        self.asked = 0

    def __call__(self, request: bytes, now: float) -> Answer:
        self.asked += 1
        return Answer(b"answer to " + request, ORDERS, self.refusal)


class Watched(Desk):
    """Says when nothing waits any more."""

    idle: asyncio.Event

    async def receive(self, message: Request) -> None:
        await super().receive(message)
        if not self.mailbox.statistics()["waiting"]:
            self.idle.set()


def make(
    clerk: Clerk, *, costs: Mapping[Refusal, float] = ENROL_COSTS, rate: float = 1000
) -> tuple[Watched, FakeBus]:
    bus = FakeBus()
    desk = Watched("enrol", bus, SUBJECTS, clerk, costs=costs, rate=rate)  # type: ignore[arg-type]  # a bus
    return desk, bus


def work(desk: Watched) -> None:
    """Let the actor handle all that waits."""

    async def main() -> None:
        desk.idle = asyncio.Event()
        task = asyncio.create_task(desk.run())
        await desk.idle.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    if desk.mailbox.statistics()["waiting"]:
        asyncio.run(main())


def test_a_request_is_answered_at_its_inbox() -> None:
    desk, bus = make(Clerk())
    desk.on_message(b"", INBOX, b"hello", b"")
    work(desk)
    assert bus.sent == [(INBOX.decode(), b"answer to hello")]
    assert desk.statistics() == {"granted": 1}


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"busmesh.local.inbox",
        b"busmesh.local.inbox.",
        b"busmesh.local.inbox..a",
        b"busmesh.local.inbox.a.",
        b"busmesh.local.inbox.*",
        b"busmesh.local.inbox.a.>",
        b"busmesh.local.inbox.a b",
        b"busmesh.local.inbox.a\r\nPUB x 0",
        b"busmesh.local.inbox.\xff",
        b"busmesh.other.inbox.a.b",
        b"busmeshxlocal.inbox.a.b",
        b"busmesh.local.policy.revision",
        b"busmesh.local.authority.enrol",
        b"$JS.API.STREAM.DELETE.BUSMESH_local_POLICY",
        b"_INBOX.abc",
        b"x" + INBOX,
        b"busmesh.local.inbox." + b"a" * 300,
    ],
)
def test_no_answer_goes_anywhere_but_to_an_inbox_of_the_mesh(reply: bytes) -> None:
    clerk = Clerk()
    desk, bus = make(clerk)
    desk.on_message(b"", reply, b"hello", b"")
    work(desk)
    assert (bus.sent, clerk.asked, desk.statistics()) == ([], 0, {"no inbox": 1})


@given(reply=st.binary(max_size=300), payload=st.binary(max_size=64))
def test_whatever_comes_is_dropped_or_answered_inside_the_inboxes(reply: bytes, payload: bytes) -> None:
    desk, bus = make(Clerk())
    desk.on_message(b"", b"busmesh.local.inbox." + reply, payload, b"")
    work(desk)
    assert sum(desk.statistics().values()) == 1
    for subject, _ in bus.sent:
        assert subject.startswith("busmesh.local.inbox.")
        assert not set(subject) & set(" *>\r\n\t\0")
        assert "" not in subject.split(".")


def test_a_large_request_is_dropped_unread() -> None:
    clerk = Clerk()
    desk, _ = make(clerk)
    desk.on_message(b"", INBOX, bytes(MAX_REQUEST + 1), b"")
    desk.on_message(b"", INBOX, bytes(MAX_REQUEST), b"")
    work(desk)
    assert clerk.asked == 1
    assert desk.statistics() == {"too large": 1, "granted": 1}


def test_more_than_may_wait_is_dropped_and_counted() -> None:
    clerk = Clerk()
    desk, _ = make(clerk, rate=10_000)
    for _ in range(Desk.capacity + 7):
        desk.on_message(b"", INBOX, b"", b"")
    work(desk)
    assert clerk.asked == Desk.capacity
    assert desk.statistics() == {"overrun": 7, "granted": Desk.capacity}


@pytest.mark.parametrize(
    ("refusal", "costs", "most"),
    [
        (None, ENROL_COSTS, 1),
        (None, RENEW_COSTS, 1),
        (Refusal.INVALID, ENROL_COSTS, 1),
        (Refusal.DENIED, {}, 1),
        (Refusal.DENIED, {Refusal.DENIED: 0.25}, 1),
        (Refusal.DENIED, ENROL_COSTS, 20),
        (Refusal.REPLAYED, ENROL_COSTS, 20),
    ],
)
def test_work_with_public_keys_is_limited(
    refusal: Refusal | None, costs: Mapping[Refusal, float], most: int
) -> None:
    clerk = Clerk(refusal)
    desk, bus = make(clerk, costs=costs, rate=0.001)
    for _ in range(20):
        desk.on_message(b"", INBOX, b"", b"")
    work(desk)
    assert clerk.asked == len(bus.sent) == most
    assert desk.statistics().get("limited", 0) == 20 - most


def test_a_denied_renewal_costs_a_fifth_of_a_granted_one() -> None:
    clerk = Clerk(Refusal.DENIED)
    desk, _ = make(clerk, costs=RENEW_COSTS, rate=2)
    for _ in range(40):
        desk.on_message(b"", INBOX, b"", b"")
    work(desk)
    assert 16 <= clerk.asked < 40


def test_refusals_that_cost_nothing_take_no_tokens_from_others() -> None:
    clerk = Clerk(Refusal.REPLAYED)
    desk, bus = make(clerk, rate=0.001)
    for _ in range(50):
        desk.on_message(b"", INBOX, b"", b"")
    work(desk)
    clerk.refusal = None
    desk.on_message(b"", INBOX, b"honest", b"")
    work(desk)
    assert bus.sent[-1] == (INBOX.decode(), b"answer to honest")
    assert desk.statistics() == {"replayed": 50, "granted": 1}


def test_who_has_given_up_waiting_is_not_worked_for() -> None:
    clerk = Clerk()
    desk, bus = make(clerk)
    desk.mailbox.tell(Request(b"", INBOX.decode(), time.monotonic() - 2.5))
    desk.mailbox.tell(Request(b"", INBOX.decode(), time.monotonic() - 0.5))
    work(desk)
    assert (clerk.asked, len(bus.sent)) == (1, 1)
    assert desk.statistics() == {"stale": 1, "granted": 1}


def test_an_answer_that_cannot_be_sent_is_counted() -> None:
    desk, bus = make(Clerk())
    bus.down = True
    desk.on_message(b"", INBOX, b"", b"")
    work(desk)
    assert desk.statistics() == {"granted": 1, "not sent": 1}


def test_the_log_names_who_was_let_in_and_who_was_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clerk = Clerk()
    desk, _ = make(clerk)
    desk.on_message(b"", INBOX, b"", b"")
    work(desk)
    clerk.refusal = Refusal.EXPIRED
    desk.on_message(b"", INBOX, b"", b"")
    work(desk)
    assert [record.getMessage() for record in caplog.records] == [
        "enrol: granted to spiffe://local/ns/default/svc/orders/i/orders-0",
        "enrol: refused to spiffe://local/ns/default/svc/orders/i/orders-0: expired",
    ]


def test_a_flood_of_refusals_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "_LOG_BURST", 3)
    monkeypatch.setattr(desk_module, "_LOG_RATE_PER_S", 0.001)
    desk, _ = make(Clerk(Refusal.REPLAYED))
    for _ in range(500):
        desk.on_message(b"", INBOX, b"", b"")
    work(desk)
    asyncio.run(desk.tick())
    asyncio.run(desk.tick())
    assert len(caplog.records) == 4
    assert "497 more refusals" in caplog.records[-1].getMessage()
