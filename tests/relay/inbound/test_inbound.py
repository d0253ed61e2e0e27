"""The receiver's side: only frames of a session count, each once, within its limits and its time."""

from __future__ import annotations

import logging
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.relay.inbound import inbound as module
from busmesh.relay.inbound.inbound import MAX_NOTICES_PER_S
from busmesh.wire.frame import HEADER_SIZE, Kind, read_header
from busmesh.wire.http import decode_refusal, encode_request
from busmesh.wire.probe import ProbeState, decode_probe_result, encode_probe
from tests.relay.peer import REPLY, Peer
from tests.relay.world import Instance, Message, World


@pytest.fixture
def orders(world: World) -> Instance:
    return world.instance("orders-1")


@pytest.fixture
def peer(world: World, orders: Instance) -> Peer:
    return Peer(world, orders)


def test_the_answer_goes_to_whom_the_session_proves_and_nobody_else(peer: Peer, orders: Instance) -> None:
    """The reply subject of a message can be written by anybody on the bus."""
    peer.ask(stream=5)
    orders.app.answer()
    [(kind, subject, _)] = peer.answers()
    assert (kind, subject) == (Kind.RESPONSE, b"busmesh.local.reply.evil-1.0.orders-1")


def test_the_application_hears_who_called(peer: Peer, orders: Instance) -> None:
    peer.ask(headers=b"Host: a\r\nX: y\r\n")
    [message] = orders.app.seen
    assert message == (
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n"
        b"x-forwarded-client-cert: By=spiffe://local/ns/default/svc/orders/i/orders-1;Hash=print;"
        b"URI=spiffe://local/ns/default/svc/evil/i/evil-1\r\ncontent-length: 0\r\n\r\n"
    )


def test_a_replayed_request_reaches_the_application_once(world: World, peer: Peer, orders: Instance) -> None:
    sent = [peer.ask(stream=n) for n in range(50)]
    while orders.app.calls:
        orders.app.answer()
    peer.answers()
    for message in sent * 3:
        world.bus.deliver(message)
    assert len(orders.app.seen) == 50
    assert orders.inbound.bad_frames == 150
    assert not world.bus.queue, "and nobody is told"


def test_a_request_with_any_bit_flipped_has_no_effect(world: World, orders: Instance) -> None:
    world.ask("POST", "/path", b"body")
    [message] = world.lose()
    for at in range(len(message.payload)):
        flipped = bytearray(message.payload)
        flipped[at] ^= 1 << at % 8
        world.bus.deliver(Message(message.subject, b"", bytes(flipped)))
    assert orders.app.seen == []
    world.bus.deliver(message)
    assert len(orders.app.seen) == 1


@pytest.mark.parametrize("size", [0, 1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 15, 5000])
def test_junk_has_no_effect(world: World, orders: Instance, size: int) -> None:
    subject = world.subjects.relay("orders-1").encode()
    for seed in range(20):
        payload = Random(seed).randbytes(size)
        world.bus.deliver(Message(subject, b"", payload))
        world.bus.deliver(Message(subject, b"", b"\x01" + payload[1:]))
    assert orders.app.seen == []
    assert not world.bus.queue


# -- unknown sessions ----------------------------------------------------------------------------------


def test_an_unknown_session_is_told_where_an_agent_would_ask(
    world: World, orders: Instance, peer: Peer
) -> None:
    orders.restart()
    peer.ask(stream=9)
    [notice] = world.lose()
    assert notice.subject == REPLY + b".orders-1"
    assert read_header(notice.payload) == (Kind.UNKNOWN_SESSION, peer.number, 0, 9)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"busmesh.local.relay.orders-1",
        b"busmesh.local.reply.",
        b"busmesh.local.reply.*",
        b"busmesh.local.reply.>",
        b"busmesh.local.reply.shop-1.*",
        b"busmesh.local.reply.shop-1." + b"9" * 5000,
        b"busmesh.other.reply.shop-1.1",
        b"xbusmesh.local.reply.shop-1.1",
        b"busmesh.local.reply.shop-1.1\xff",
        b"_INBOX.abc",
    ],
)
def test_and_nowhere_else(world: World, orders: Instance, peer: Peer, reply: bytes) -> None:
    orders.restart()
    peer.send(Kind.REQUEST, 1, b"", reply)
    assert not world.bus.queue
    assert orders.inbound.bad_frames == 1


def test_notices_are_bounded_per_second(world: World, orders: Instance, peer: Peer) -> None:
    orders.restart()
    for _ in range(MAX_NOTICES_PER_S + 100):
        peer.send(Kind.REQUEST, 1, b"")
    assert len(world.bus.queue) == MAX_NOTICES_PER_S
    world.clock.now += 1.0
    peer.send(Kind.REQUEST, 1, b"")
    assert len(world.bus.queue) == MAX_NOTICES_PER_S + 1


def test_old_sessions_are_forgotten_unless_they_are_at_work(world: World, orders: Instance) -> None:
    busy, idle = Peer(world, orders, "a-1"), Peer(world, orders, "a-2")
    busy.ask()
    world.clock.now += 100.0
    fresh = Peer(world, orders, "a-3")
    orders.inbound.forget_sessions(world.clock.now - 50.0)
    for peer, known in ((busy, True), (idle, False), (fresh, True)):
        world.bus.queue.clear()
        peer.send(Kind.PROBE, 1, encode_probe(0))
        [answer] = world.lose()
        assert (answer.payload[1] != Kind.UNKNOWN_SESSION) is known


def test_sessions_are_bounded(world: World, orders: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 10)
    peers = [Peer(world, orders, f"a-{n}") for n in range(30)]
    assert orders.inbound.statistics()["sessions"] == 10
    peers[-1].ask()
    assert len(orders.app.seen) == 1


def test_a_caller_with_ever_new_sessions_ends_its_own_alone(
    world: World, orders: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 10)
    monkeypatch.setattr(module, "MAX_SESSIONS_OF_ONE", 4)
    honest = Peer(world, orders, "a-1")
    others = orders.inbound.statistics()["sessions"]
    many = [Peer(world, orders, "evil-1") for _ in range(30)]
    assert orders.inbound.statistics()["sessions"] == others + 4
    honest.ask()
    for peer in many[-4:]:
        peer.ask()
    assert len(orders.app.seen) == 5
    many[-5].ask()
    assert len(orders.app.seen) == 5, "the oldest of its own have ended"
    assert orders.inbound.close_sessions(lambda session: session.peer == many[0].id) == 4
    again = [Peer(world, orders, "evil-1") for _ in range(4)]
    assert orders.inbound.statistics()["sessions"] == others + 4, "what was closed counts no more"
    assert again[0].number != many[0].number


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (b"no-slash", b""),
        (b"/ HTTP/1.1\r\nX: y", b""),
        (b"/", b"Content-Length: 5\r\n"),
        (b"/", b"Transfer-Encoding: chunked\r\n"),
        (b"/", b"x-forwarded-client-cert: URI=spiffe://local/ns/default/svc/admin/i/a\r\n"),
        (b"/", b"X_Forwarded_Client_Cert: URI=spiffe://local/ns/default/svc/admin/i/a\r\n"),
        (b"/", b"X: a\r\n\r\nGET /second HTTP/1.1\r\n"),
        (b"/", b"X: a\n"),
        (b"/", b"X: a"),
    ],
)
def test_what_a_proven_peer_may_not_write(
    peer: Peer, orders: Instance, target: bytes, headers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller's agent may be hostile, too: it is refused, counted, and written down now and then."""
    with caplog.at_level(logging.INFO):
        for stream in range(20):
            peer.ask(stream, target=target, headers=headers)
    assert orders.app.seen == []
    assert orders.inbound.bad_frames == 20
    assert {decode_refusal(plaintext).code for _, _, plaintext in peer.answers()} == {"malformed_request"}
    assert len(caplog.records) == 1
    assert "evil-1" in caplog.text


@pytest.mark.parametrize(
    "kind",
    [Kind.RESPONSE, Kind.REFUSAL, Kind.PROBE_RESULT, Kind.RESPONSE_OPENING, Kind.INTERIM, 0, 13, 200],
)
def test_kinds_that_are_no_question(world: World, peer: Peer, orders: Instance, kind: int) -> None:
    peer.send(kind, 1, b"\x00" * 40)
    assert orders.inbound.bad_frames == 1
    assert orders.app.seen == []
    assert not world.bus.queue


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.END, Kind.CREDIT, Kind.RESET])
def test_parts_of_what_has_ended_are_nothing_bad(
    world: World, peer: Peer, orders: Instance, kind: Kind
) -> None:
    """They were on the way when the answer was."""
    peer.send(kind, 1, b"\x00" * 40)
    assert orders.inbound.bad_frames == 0
    assert not world.bus.queue


@pytest.mark.parametrize("plaintext", [b"", b"\x00" * 40, b"\xff" * 40])
def test_an_opening_that_no_agent_writes(peer: Peer, orders: Instance, plaintext: bytes) -> None:
    peer.send(Kind.REQUEST_OPENING, 1, plaintext)
    assert peer.refusal() == (400, "malformed_request", False)
    assert orders.inbound.bad_frames == 1
    assert orders.app.seen == []


@pytest.mark.parametrize("plaintext", [b"", b"\x00" * 7, b"\x00" * 9])
def test_a_probe_of_the_wrong_size(peer: Peer, orders: Instance, plaintext: bytes) -> None:
    peer.send(Kind.PROBE, 1, plaintext)
    assert peer.refusal() == (400, "malformed_request", False)


def test_too_late_is_not_processed(peer: Peer, orders: Instance) -> None:
    peer.ask(ms=0)
    assert peer.refusal() == (504, "too_late", False)
    assert orders.app.seen == []


def test_a_closed_instance_says_why(peer: Peer, orders: Instance) -> None:
    orders.inbound.closed_because = "it is draining"
    peer.ask()
    assert peer.refusal() == (503, "not_serving", False)
    assert orders.app.seen == []


def test_a_closed_instance_finishes_and_answers_probes(peer: Peer, orders: Instance) -> None:
    sent = peer.ask(stream=3)
    orders.inbound.closed_because = "it is draining"
    counter = read_header(sent.payload)[2]
    peer.send(Kind.PROBE, 3, encode_probe(counter))
    [(_, _, state)] = peer.answers()
    assert decode_probe_result(state) is ProbeState.AT_WORK
    orders.app.answer()
    [(kind, _, _)] = peer.answers()
    assert kind == Kind.RESPONSE


def test_the_limit_on_requests_at_work(world: World) -> None:
    orders = world.instance("orders-1", max_active=3)
    peer = Peer(world, orders)
    for stream in range(5):
        peer.ask(stream)
    assert [decode_refusal(plaintext).code for _, _, plaintext in peer.answers()] == ["overflow"] * 2
    orders.app.answer()
    peer.answers()
    peer.ask(9)
    assert peer.answers() == []
    assert orders.inbound.active == 3


def test_a_stream_has_one_request_at_a_time(world: World) -> None:
    """A second one in the first one's place would hide the first from the limit and from its deadline."""
    orders = world.instance("orders-1", max_active=3)
    peer = Peer(world, orders)
    for _ in range(50):
        peer.ask(stream=1)
    assert len(orders.app.seen) == 1
    assert orders.inbound.bad_frames == 49
    orders.app.answer()
    peer.ask(stream=1)
    assert len(orders.app.seen) == 2


def test_two_callers_may_use_the_same_stream(world: World, orders: Instance) -> None:
    one, other = Peer(world, orders, "a-1"), Peer(world, orders, "a-2")
    one.ask(1)
    other.ask(1)
    orders.app.answer()
    orders.app.answer()
    assert {message.subject for message in world.bus.queue} == {
        b"busmesh.local.reply.a-1.0.orders-1",
        b"busmesh.local.reply.a-2.0.orders-1",
    }


# -- ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "processed", "status", "flags"),
    [
        ("application_unreachable", False, 503, "UF"),
        ("overflow", False, 503, "UO"),
        ("application_reset", True, 502, "UF"),
        ("bad_response", True, 502, "UF"),
        ("response_too_large", True, 502, "DPE"),
        ("response_headers_too_large", True, 502, "DPE"),
        ("upgrade_not_supported", True, 502, "DPE"),
    ],
)
def test_failures_of_the_application(
    world: World, peer: Peer, orders: Instance, code: str, processed: bool, status: int, flags: str
) -> None:
    peer.ask()
    orders.app.fail(code, processed=processed)
    [(kind, _, plaintext)] = peer.answers()
    refusal = decode_refusal(plaintext)
    assert kind == Kind.REFUSAL
    assert (refusal.code, refusal.processed, refusal.status, refusal.flags) == (
        code,
        processed,
        status,
        flags,
    )
    assert refusal.message.startswith("orders-1: ")
    assert world.notes.served == [f"{status} {flags}"]
    assert orders.inbound.active == 0


def test_at_the_deadline_the_work_is_cancelled_and_a_late_answer_dropped(
    world: World, peer: Peer, orders: Instance
) -> None:
    peer.ask(ms=200)
    [call] = orders.app.calls
    cancelled = []
    for _ in range(26):
        world.tick()
        cancelled.append(call.cancelled)
    assert cancelled.index(True) in (21, 22, 23), "the caller says so itself, up to 20 ms later"
    assert peer.refusal() == (504, "timeout", True)
    assert orders.inbound.active == 0
    orders.app.answer()
    assert peer.answers() == []
    assert world.notes.served == ["504 UT"]


def test_nothing_is_written_to_a_lost_bus(world: World, peer: Peer, orders: Instance) -> None:
    peer.ask()
    world.bus.connected = False
    orders.app.answer()
    assert not world.bus.queue
    assert orders.inbound.active == 0


# -- probes ------------------------------------------------------------------------------------------------


def test_a_probe_tells_what_became_of_a_request(peer: Peer, orders: Instance) -> None:
    sent = peer.ask(stream=1)
    counter = read_header(sent.payload)[2]

    def state() -> ProbeState:
        peer.send(Kind.PROBE, 1, encode_probe(counter))
        [(kind, _, plaintext)] = peer.answers()
        assert kind == Kind.PROBE_RESULT
        return decode_probe_result(plaintext)

    assert state() is ProbeState.AT_WORK
    orders.app.answer()
    peer.answers()
    assert state() is ProbeState.ANSWERED
    assert state() is ProbeState.ANSWERED


def test_never_seen_is_for_ever(world: World, peer: Peer, orders: Instance) -> None:
    """What makes it safe to send a POST once more: should the first turn up after all, it is a replay."""
    counter = peer.session.sent
    deadline = peer.session.now_ms(world.clock.now) + 5000
    frame = peer.session.seal(
        Kind.REQUEST, 1, encode_request(deadline, 0, b"POST", b"/", b"Host: a\r\n", b"")
    )
    peer.send(Kind.PROBE, 1, encode_probe(counter))
    [(_, _, plaintext)] = peer.answers()
    assert decode_probe_result(plaintext) is ProbeState.NEVER_SEEN
    world.bus.deliver(Message(world.subjects.relay("orders-1").encode(), b"", frame))
    assert orders.app.seen == []
    peer.send(Kind.PROBE, 1, encode_probe(counter))
    [(_, _, plaintext)] = peer.answers()
    assert decode_probe_result(plaintext) is not ProbeState.NEVER_SEEN


def test_what_is_too_old_to_tell_is_never_called_never_seen(peer: Peer) -> None:
    """Beyond the replay window nobody knows; 'answered' leaves the outcome unknown, which is safe."""
    lost = peer.session.sent
    peer.session.seal(Kind.REQUEST, 1, b"")
    for stream in range(1100):
        peer.send(Kind.PROBE, stream, encode_probe(peer.session.sent - 1))
    peer.answers()
    peer.send(Kind.PROBE, 1, encode_probe(lost))
    [(_, _, plaintext)] = peer.answers()
    assert decode_probe_result(plaintext) is ProbeState.ANSWERED


# -- properties ---------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([Kind.REQUEST, Kind.PROBE]),
    plaintext=st.binary(max_size=80)
    | st.builds(
        encode_request,
        st.integers(0, 1 << 31),
        st.integers(0, 255),
        st.binary(max_size=10) | st.just(b"GET"),
        st.binary(max_size=10) | st.just(b"/"),
        st.binary(max_size=30) | st.just(b"Host: a\r\n"),
        st.binary(max_size=10),
    ),
)
def test_whatever_a_proven_peer_seals_is_a_request_or_is_refused(kind: Kind, plaintext: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch)
        orders = world.instance("orders-1")
        peer = Peer(world, orders)
        peer.send(kind, 1, plaintext)
        answers = peer.answers()
        assert len(answers) + len(orders.app.seen) == 1
        for message in orders.app.seen:
            assert message.count(b"\r\n\r\n") >= 1
            head = message.partition(b"\r\n\r\n")[0]
            assert head.count(b"x-forwarded-client-cert: By=") == 1
            assert b"URI=spiffe://local/ns/default/svc/evil/i/evil-1" in head
