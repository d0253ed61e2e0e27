"""Sessions over the bus: who gets one, what strangers can cost, and that it is tried until one stands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import cast

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busmesh.bus.bus import Bus
from busmesh.bus.messages import Message
from busmesh.errors import BusmeshError, BusUnavailable, RemoteProtocolError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.handshake import Handshake
from busmesh.identity.holder import Identity
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.relay.session import accepting, opening
from busmesh.relay.session.accepting import HALF_WAY_MAX, HALF_WAY_S, NEW_PER_S, Acceptor
from busmesh.relay.session.handshakes import lot, worker_of
from busmesh.relay.session.opening import Sessions, open_session
from busmesh.wire.frame import Kind, Session, read_header

SUBJECTS = Subjects()
ORDERS = ServiceName("orders")
INBOX = b"busmesh.local.inbox.shop-1.abc.1"


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create("local", time.time())


@pytest.fixture(scope="module")
def orders(ca: CertificateAuthority) -> Identity:
    return identity(ca, "orders", "orders-1")


@pytest.fixture(scope="module")
def shop(ca: CertificateAuthority) -> Identity:
    return identity(ca, "shop", "shop-1")


def identity(ca: CertificateAuthority, service: str, instance: str) -> Identity:
    name = SpiffeId.workload("local", ServiceName(service), instance)
    return Identity(ca.issue_svid(name, time.time()), ca.bundle)


class DirectBus:
    """A bus on which a question is answered before it returns; ``change`` may alter any message."""

    def __init__(self) -> None:
        self.connected = True
        self.acceptor: Acceptor | None = None
        self.answers: list[bytes] = []
        self.me = ""
        self.questions = 0
        #: Gets whether it is a question, and the payload.
        self.change: Callable[[bool, bytes], bytes] = lambda question, payload: payload

    def publish(self, subject: str, payload: bytes) -> None:
        inbox, _, sender = subject.rpartition(".")
        assert inbox == INBOX.decode()
        assert sender == self.me, "a login is held to its own name"
        self.answers.append(payload)

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> Message:
        self.questions += 1
        if self.acceptor is None:
            raise BusUnavailable(f"nobody listens on {subject}", code="BM3006")
        self.answers.clear()
        self.acceptor.on_message(subject.encode(), INBOX, self.change(True, payload), b"")
        if not self.answers:
            raise BusUnavailable(f"no answer on {subject}", code="BM3007")
        return Message(subject, self.change(False, self.answers[0]))


class Receiver:
    """An accepting side and the sessions that it got."""

    def __init__(self, who: Identity) -> None:
        self.bus = DirectBus()
        self.bus.me = who.id.instance
        self.sessions: list[tuple[Session, str]] = []
        self.acceptor = Acceptor(
            cast(Bus, self.bus),
            SUBJECTS,
            who,
            lambda session, print_: self.sessions.append((session, print_)),
        )
        self.bus.acceptor = self.acceptor

    def open(
        self, who: Identity, service: ServiceName = ORDERS, instance: str = "orders-1", worker: int = 0
    ) -> Session:
        return asyncio.run(open_session(cast(Bus, self.bus), SUBJECTS, who, service, instance, worker))

    def send(self, payload: bytes, reply: bytes = INBOX) -> list[bytes]:
        self.bus.answers.clear()
        self.acceptor.on_message(b"", reply, payload, b"")
        return list(self.bus.answers)


def first_flight(ca_or_identity: Identity, identifier: bytes = b"i" * 16) -> bytes:
    hello = Handshake.client(ca_or_identity.tls, SpiffeId.workload("local", ORDERS, "orders-1")).feed(
        b"", time.time()
    )
    packed: bytes = msgpack.packb([1, identifier, hello])
    return packed


# -- workers -----------------------------------------------------------------------------------------


def test_both_sides_know_which_worker_holds_the_session(orders: Identity, shop: Identity) -> None:
    receiver = Receiver(orders)
    receiver.acceptor._worker = 3
    opened = receiver.open(shop, worker=2)
    ((accepted, _),) = receiver.sessions
    assert (opened.worker, accepted.worker) == (3, 2)


def test_a_handshake_for_another_worker_stays_unanswered(orders: Identity) -> None:
    receiver = Receiver(orders)
    receiver.acceptor.mine = lambda identifier: identifier[0] % 2 == 1
    assert not receiver.send(first_flight(orders, b"\x02" * 16))
    assert receiver.send(first_flight(orders, b"\x03" * 16))


@pytest.mark.parametrize("said", [{"worker": 64}, {"worker": -1}, {"worker": "1"}, [], {}])
def test_a_worker_that_cannot_be_gets_no_session(said: object) -> None:
    with pytest.raises(RemoteProtocolError):
        worker_of(msgpack.packb(said))


def test_the_workers_of_a_caller_use_all_of_an_instance(shop: Identity) -> None:
    lots = [lot(shop.id, "orders-1", worker) % 4 for worker in range(4)]
    assert sorted(lots) == [0, 1, 2, 3]
    assert len({lot(shop.id, f"orders-{n}", 0) % 2 for n in range(16)}) == 2, "they spread"


# -- who gets a session ------------------------------------------------------------------------------


def test_both_sides_have_the_same_session(orders: Identity, shop: Identity) -> None:
    receiver = Receiver(orders)
    mine = receiver.open(shop)
    [(theirs, fingerprint)] = receiver.sessions
    assert mine.number == theirs.number
    assert (mine.peer, theirs.peer) == (orders.id, shop.id)
    assert fingerprint == shop.svid.fingerprint
    for sender, taker in ((mine, theirs), (theirs, mine)):
        frame = sender.seal(Kind.REQUEST, 5, b"hello")
        assert taker.open(frame, read_header(frame)[2]) == b"hello"
    assert receiver.acceptor.statistics() == {"half_way": 0, "completed": 1, "refused": 0}


def test_a_slow_handshake_makes_no_deadline_early(
    orders: Identity, shop: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    def takes_long(question: bool, payload: bytes) -> bytes:
        clock[0] += 0.01 if question else 0.5
        return payload

    monkeypatch.setattr(accepting.time, "monotonic", lambda: clock[0])
    receiver = Receiver(orders)
    receiver.bus.change = takes_long
    mine = receiver.open(shop)
    [(theirs, _)] = receiver.sessions
    early = theirs.now_ms(clock[0]) - mine.now_ms(clock[0])
    assert -11 <= early <= 0, "what the caller has 100 ms for must not be over at the instance before"


def test_each_session_has_its_own_number_and_keys(orders: Identity, shop: Identity) -> None:
    receiver = Receiver(orders)
    one, other = receiver.open(shop), receiver.open(shop)
    assert one.number != other.number
    assert one.seal(Kind.REQUEST, 1, b"x" * 20)[26:] != other.seal(Kind.REQUEST, 1, b"x" * 20)[26:]


@pytest.mark.parametrize(
    ("service", "instance"), [("payments", "orders-1"), ("orders", "orders-2"), ("orders.shop", "orders-1")]
)
def test_an_instance_must_prove_to_be_exactly_the_one_that_was_asked(
    orders: Identity, shop: Identity, service: str, instance: str
) -> None:
    receiver = Receiver(orders)
    with pytest.raises(BusmeshError):
        receiver.open(shop, ServiceName.parse(service), instance)
    assert receiver.sessions == []


def test_nobody_gets_one_with_a_certificate_of_another_authority(orders: Identity) -> None:
    stranger = identity(CertificateAuthority.create("local", time.time()), "shop", "shop-1")
    receiver = Receiver(orders)
    with pytest.raises(BusmeshError):
        receiver.open(stranger)
    assert receiver.sessions == []


def test_only_workloads_get_one(ca: CertificateAuthority, orders: Identity) -> None:
    operator = Identity(ca.issue_svid(SpiffeId("local", operator="alice"), time.time()), ca.bundle)
    receiver = Receiver(orders)
    with pytest.raises(BusmeshError):
        receiver.open(operator)
    assert receiver.sessions == []
    assert receiver.acceptor.refused >= 1


# -- answers that do not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, b"other-identifier", b""]),
        msgpack.packb([1, b"short", b""]),
        msgpack.packb([2, b"i" * 16, b""]),
        msgpack.packb([True, b"i" * 16, 5]),
        msgpack.packb({"a": 1}),
        msgpack.packb([1, b"i" * 16, b"x" * 40_000]),
        b"\x91" * 30_000,
    ],
)
def test_answers_that_are_none(orders: Identity, shop: Identity, answer: bytes) -> None:
    receiver = Receiver(orders)
    receiver.bus.change = lambda question, payload: payload if question else answer
    with pytest.raises(RemoteProtocolError):
        receiver.open(shop)


@pytest.mark.parametrize("position", range(0, 1200, 37))
@pytest.mark.parametrize("question", [True, False])
def test_no_changed_flight_makes_a_session(
    orders: Identity, shop: Identity, position: int, question: bool
) -> None:
    receiver = Receiver(orders)

    def change(asked: bool, payload: bytes) -> bytes:
        if asked is not question:
            return payload
        changed = bytearray(payload)
        changed[position % len(changed)] ^= 0x10
        return bytes(changed)

    receiver.bus.change = change
    with pytest.raises(BusmeshError):
        receiver.open(shop)


def test_nobody_there_and_no_answer(orders: Identity, shop: Identity) -> None:
    receiver = Receiver(orders)
    receiver.bus.acceptor = None
    with pytest.raises(BusUnavailable):
        receiver.open(shop)


# -- strangers ---------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda version, identifier, data: msgpack.packb([version, identifier, data]),
        st.integers(0, 3),
        st.binary(min_size=14, max_size=18),
        st.binary(max_size=100) | st.builds(lambda tail: b"\x16\x03\x01" + tail, st.binary(max_size=100)),
    )
)
def test_any_message_is_answered_or_dropped(orders: Identity, payload: bytes) -> None:
    receiver = Receiver(orders)
    receiver.send(payload)
    assert receiver.sessions == []
    assert receiver.acceptor.refused + receiver.acceptor.statistics()["half_way"] == 1


@pytest.mark.parametrize(
    "reply", [b"", b"busmesh.local.inbox.", b"busmesh.local.inbox.>", b"busmesh.local.relay.a", b"_INBOX.a"]
)
def test_answers_go_to_inboxes_of_the_mesh_only(orders: Identity, shop: Identity, reply: bytes) -> None:
    receiver = Receiver(orders)
    assert receiver.send(first_flight(shop), reply) == []
    assert receiver.acceptor.statistics() == {"half_way": 0, "completed": 0, "refused": 1}


def test_handshakes_per_second_are_bounded(
    orders: Identity, shop: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "NEW_PER_S", 5)
    now = [1000.0]
    monkeypatch.setattr("busmesh.relay.session.accepting.time.monotonic", lambda: now[0])
    receiver = Receiver(orders)
    answered = [bool(receiver.send(first_flight(shop, b"%016d" % n))) for n in range(8)]
    assert answered == [True] * 5 + [False] * 3
    now[0] += 1.0
    assert receiver.send(first_flight(shop, b"%016d" % 9))
    assert NEW_PER_S >= 100


def test_junk_does_not_use_up_what_newcomers_need(
    orders: Identity, shop: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "NEW_PER_S", 5)
    monkeypatch.setattr("busmesh.relay.session.accepting.time.monotonic", lambda: 1000.0)
    receiver = Receiver(orders)
    for n in range(100):
        receiver.send(msgpack.packb([1, b"%016d" % n, b"junk"]))
    assert receiver.open(shop).peer == orders.id


def test_half_way_handshakes_are_bounded_in_number_and_time(
    orders: Identity, shop: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "HALF_WAY_MAX", 5)
    now = [1000.0]
    monkeypatch.setattr("busmesh.relay.session.accepting.time.monotonic", lambda: now[0])
    receiver = Receiver(orders)
    for n in range(10):
        receiver.send(first_flight(shop, b"%016d" % n))
    assert receiver.acceptor.statistics()["half_way"] == 5
    now[0] += HALF_WAY_S
    receiver.send(first_flight(shop, b"%016d" % 11))
    assert receiver.acceptor.statistics()["half_way"] == 1
    assert HALF_WAY_MAX >= 100


def test_a_lost_bus_gets_no_answer(orders: Identity, shop: Identity) -> None:
    receiver = Receiver(orders)
    receiver.bus.connected = False
    assert receiver.send(first_flight(shop)) == []


# -- until it stands --------------------------------------------------------------------------------------


class Opening:
    """Opens sessions as the test says: each try waits until it is told its end."""

    def __init__(self) -> None:
        self.tries: list[asyncio.Future[str]] = []
        self.shifts: list[int] = []
        self.opened: list[str] = []
        self.sessions = Sessions(self._open, lambda service, instance, session: self.opened.append(instance))

    async def _open(self, service: ServiceName, instance: str, shift: int) -> str:
        self.shifts.append(shift)
        self.tries.append(asyncio.get_running_loop().create_future())
        return await self.tries[-1]

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def test_a_session_is_opened_once_however_often_it_is_wanted() -> None:
    async def work() -> None:
        opening = Opening()
        for _ in range(3):
            opening.sessions.want(ORDERS, "orders-1")
            await opening.turn()
        opening.sessions.want(ORDERS, "orders-2")
        await opening.turn()
        assert len(opening.tries) == 2
        for future in opening.tries:
            future.set_result("session")
        await opening.turn()
        assert opening.opened == ["orders-1", "orders-2"]
        assert opening.sessions.statistics() == {"opening": 0, "failures": 0}
        opening.sessions.want(ORDERS, "orders-1")
        await opening.turn()
        assert len(opening.tries) == 3, "renewed"
        await opening.sessions.stop()

    asyncio.run(work())


def test_it_is_tried_until_it_stands(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also after a fault of our own: an endpoint without a session would never be used again."""
    monkeypatch.setattr(opening, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(opening, "MAX_PAUSE_S", 0.0)

    async def work() -> None:
        opening = Opening()
        opening.sessions.want(ORDERS, "orders-1")
        errors = [
            BusUnavailable("no answer"),
            RemoteProtocolError("nonsense"),
            ZeroDivisionError("a fault"),
            None,
        ]
        for error in errors:
            await opening.turn()
            if error is None:
                opening.tries[-1].set_result("session")
            else:
                opening.tries[-1].set_exception(error)
        await opening.turn()
        assert opening.opened == ["orders-1"]
        assert opening.sessions.failures == 3
        assert opening.shifts == [0, 1, 2, 3], "a process that hangs is passed over"

    with caplog.at_level(logging.ERROR):
        asyncio.run(work())
    assert "a fault" in caplog.text


def test_what_is_not_wanted_any_more_is_not_opened() -> None:
    async def work() -> None:
        opening = Opening()
        opening.sessions.want(ORDERS, "orders-1")
        await opening.turn()
        opening.sessions.unwant(ORDERS, "orders-1")
        opening.sessions.unwant(ORDERS, "orders-7")
        await opening.turn()
        assert opening.tries[0].cancelled()
        assert opening.sessions.statistics()["opening"] == 0

    asyncio.run(work())


def test_an_instance_that_left_and_came_back_at_once_gets_its_session() -> None:
    """The first try is still being cancelled when the second is wanted."""

    async def work() -> None:
        opening = Opening()
        opening.sessions.want(ORDERS, "orders-1")
        await opening.turn()
        opening.sessions.unwant(ORDERS, "orders-1")
        opening.sessions.want(ORDERS, "orders-1")
        await opening.turn()
        assert len(opening.tries) == 2
        opening.tries[1].set_result("session")
        await opening.turn()
        assert opening.opened == ["orders-1"]

    asyncio.run(work())


def test_stopping_leaves_no_task() -> None:
    async def work() -> None:
        opening = Opening()
        for n in range(3):
            opening.sessions.want(ORDERS, f"orders-{n}")
        await opening.turn()
        opening.sessions.unwant(ORDERS, "orders-1")
        await opening.sessions.stop()
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        assert opening.opened == []

    asyncio.run(work())
