"""Tries and their ends: what is repeated, what never is, and that nothing is left behind."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from busmesh.relay.outbound.parking import PATIENCE_S, Parking
from busmesh.relay.tries.probing import PROBE_AFTER_S, QUESTIONS, ROUND_S, ROUNDS_UNANSWERED
from busmesh.wire.frame import HEADER_SIZE, Kind, unknown_session
from tests.relay.wires import FakeTransport, responses
from tests.relay.world import NO_RESPONDERS, Instance, Message, World, answer_of, outcome, outcomes


def body_of(client: FakeTransport) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer_of(client).body)
    return found


def two(world: World) -> tuple[Instance, Instance]:
    return world.instance("orders-1"), world.instance("orders-2")


def at_work(*instances: Instance) -> list[Instance]:
    """Return the instances in the order of who has calls."""
    return sorted(instances, key=lambda instance: -len(instance.app.calls))


# -- there and back --------------------------------------------------------------------------------


def test_a_request_and_its_response(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask("POST", "/buy?x=1", b"body")
    assert world.outbound.statistics()["in_flight"] == 1
    assert orders.endpoint.active == 1
    world.pump()
    [call] = orders.app.calls
    head, _, body = call.message.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /buy?x=1 HTTP/1.1"
    assert lines[1] == "Host: orders"
    assert lines[2:] == [
        "x-forwarded-client-cert: By=spiffe://local/ns/default/svc/orders/i/orders-1;Hash=fingerprint;"
        "URI=spiffe://local/ns/default/svc/shop/i/shop-1",
        "content-length: 4",
    ]
    assert body == b"body"
    orders.app.answer(b"done", 201, b"X-Own: 1\r\n")
    world.pump()
    answer = answer_of(client)
    assert (answer.status, answer.body, answer.header("x-own")) == (201, b"done", "1")
    assert (world.notes.tries, world.notes.requests, world.notes.served) == (
        ["orders-1 201"],
        ["201"],
        ["201"],
    )
    world.settled()


def test_what_the_bus_sees_is_sealed(world: World) -> None:
    orders = world.instance("orders-1")
    world.ask("POST", "/secret-path", b"secret-body")
    world.pump()
    orders.app.answer(b"secret-answer", headers=b"X: secret-header\r\n")
    world.pump()
    assert len(world.bus.log) == 2
    for message in world.bus.log:
        assert b"secret" not in message.payload
        assert b"secret" not in message.subject


@pytest.mark.parametrize(
    "host", ["orders", "orders:8080", "ORDERS", "orders.default", "ORDERS.default.mesh:80"]
)
def test_all_spellings_of_a_service_mean_the_same(world: World, host: str) -> None:
    orders = world.instance("orders-1")
    client = world.ask(host=host)
    world.pump()
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"
    assert world.discovered == ["orders"]


@pytest.mark.parametrize(
    "host", ["orders.a.b", "*", ">", "a..b", "-a", "a:b", "[::1]", "", "a b", "ord\xe9rs"]
)
def test_names_that_no_service_has(world: World, host: str) -> None:
    client = world.ask(host=host)
    assert outcome(client) == "404 NR"
    said = body_of(client)
    assert said["error"] == "no_route"
    assert said["message"] == f"'{host}' names no service"
    assert world.discovered == []
    assert world.bus.log == []


def test_bodies_of_both_are_passed_on_unchanged(world: World) -> None:
    orders = world.instance("orders-1")
    data = Random(1).randbytes(800_000)
    client = world.ask("PUT", body=data)
    world.pump()
    head, _, first = orders.app.calls[0].message.partition(b"\r\n\r\n")
    assert head.endswith(b"\r\ncontent-length: 800000")
    [line] = orders.app.lines
    assert first + line.body == data
    assert line.trailers == b""
    orders.app.answer(data[::-1])
    world.pump()
    assert answer_of(client).body == data[::-1]


def test_head_declares_the_length_of_what_is_not_sent(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask("HEAD")
    world.pump()
    orders.app.answer(b"", declared=12345)
    world.pump()
    assert answer_of(client, "HEAD").header("content-length") == "12345"


# -- retries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_not_processed_is_tried_elsewhere_also_a_post(world: World, method: str) -> None:
    first, second = two(world)
    client = world.ask(method)
    world.pump()
    refusing, other = at_work(first, second)
    refusing.app.fail("application_unreachable", processed=False)
    world.pump()
    other.app.answer(b"from the other")
    world.pump()
    assert answer_of(client).body == b"from the other"
    assert world.notes.tries == [f"{refusing.name} 503 UF", f"{other.name} 200"]
    assert world.notes.requests == ["200"]
    world.settled()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_an_unknown_outcome_is_tried_again_if_idempotent(world: World, method: str) -> None:
    first, second = two(world)
    client = world.ask(method)
    world.pump()
    failing, other = at_work(first, second)
    failing.app.fail("application_reset", processed=True)
    world.pump()
    other.app.answer()
    world.pump()
    assert answer_of(client, method).status == 200
    world.settled()


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_unknown_outcome_of_a_post_is_never_tried_again(world: World, method: str) -> None:
    first, second = two(world)
    client = world.ask(method)
    world.pump()
    at_work(first, second)[0].app.fail("application_reset", processed=True)
    world.pump()
    assert outcome(client) == "502 UF"
    assert body_of(client)["error"] == "application_reset"
    assert len(first.app.seen) + len(second.app.seen) == 1
    world.settled()


def test_there_are_two_retries_and_no_more(world: World) -> None:
    instances = [world.instance(f"orders-{n}") for n in range(5)]
    client = world.ask()
    for _ in range(3):
        world.pump()
        [busy] = [instance for instance in instances if instance.app.calls]
        busy.app.fail("application_unreachable", processed=False)
    world.pump()
    assert outcome(client) == "503 UF"
    assert len(world.notes.tries) == 3
    assert len({line.split()[0] for line in world.notes.tries}) == 3, "each elsewhere"
    world.settled()


def test_a_single_instance_is_tried_again_itself(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask()
    world.pump()
    orders.app.fail("application_reset", processed=True)
    world.pump()
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"


@pytest.mark.parametrize(
    ("code", "flags"),
    [("response_too_large", "DPE"), ("response_headers_too_large", "DPE"), ("upgrade_not_supported", "DPE")],
)
def test_what_no_retry_mends_is_not_tried_again(world: World, code: str, flags: str) -> None:
    orders = world.instance("orders-1")
    client = world.ask("GET")
    world.pump()
    orders.app.fail(code, processed=True)
    world.pump()
    assert outcome(client) == f"502 {flags}"
    assert body_of(client)["error"] == code
    assert len(orders.app.seen) == 1
    world.settled()


def test_a_response_larger_than_the_bus_takes_is_a_clear_502(world: World) -> None:
    orders = world.instance("orders-1")
    world.bus.max_payload = 100_000
    client = world.ask()
    world.pump()
    orders.app.answer(b"x" * 100_000)
    world.pump()
    assert outcome(client) == "502 DPE"
    said = body_of(client)
    assert said["error"] == "response_too_large"
    assert (said["service"], said["instance"]) == ("orders", "orders-1")
    assert "100000 bytes" in said["message"]
    assert len(orders.app.seen) == 1
    world.settled()


@pytest.mark.parametrize("size", [10, 60_000, 100_000, 250_000])
@pytest.mark.parametrize("max_payload", [20_000, 66_000, 100_000, 300_000])
def test_a_request_larger_than_the_bus_takes_goes_in_parts(world: World, size: int, max_payload: int) -> None:
    orders = world.instance("orders-1")
    world.bus.max_payload = max_payload
    data = Random(1).randbytes(size)
    client = world.ask("POST", "/" + "a" * 5000, data)
    world.pump()
    first = orders.app.calls[0].message.partition(b"\r\n\r\n")[2]
    assert first + orders.app.lines[0].body == data
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"
    world.settled()


@pytest.mark.parametrize("body", [b"", b"x" * 10])
def test_headers_larger_than_the_bus_takes_are_a_431(world: World, body: bytes) -> None:
    world.instance("orders-1")
    world.bus.max_payload = 20_000
    client = world.ask("POST", "/" + "a" * 20_000, body)
    assert outcome(client) == "431 DPE"
    assert body_of(client)["error"] == "headers_too_large"
    assert world.bus.log == []
    world.settled()


def test_a_client_that_has_gone_is_not_tried_for_again(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask()
    world.pump()
    client.lose()
    orders.app.fail("application_unreachable", processed=False)
    world.pump()
    assert len(orders.app.seen) == 1
    world.settled()


@pytest.mark.parametrize("reason", ["the application is not healthy", "it is draining"])
def test_an_instance_that_takes_no_requests_is_passed_over(world: World, reason: str) -> None:
    first, second = two(world)
    first.inbound.closed_because = reason
    clients = [world.ask("POST") for _ in range(10)]
    world.pump()
    assert first.app.seen == []
    for _ in clients:
        second.app.answer()
    world.pump()
    assert set(outcomes(clients)) == {"200"}
    second.inbound.closed_because = reason
    last = world.ask("POST")
    world.pump()
    assert outcome(last) == "503 UH"
    assert reason in body_of(last)["message"]
    world.settled()


def test_an_overloaded_instance_is_passed_over_then_the_caller_hears_of_it(world: World) -> None:
    world.instance("orders-1", max_active=2)
    clients = [world.ask("POST") for _ in range(3)]
    world.pump()
    assert outcomes(clients) == ["waiting", "waiting", "503 UO"]
    assert body_of(clients[2])["error"] == "overflow"


# -- instances that go -----------------------------------------------------------------------------


def test_nobody_listens_to_a_get(world: World) -> None:
    """The bus itself answers: it is tried elsewhere at once, and the instance gets nothing more."""
    first, second = two(world)
    first.die()
    clients = [world.ask() for _ in range(6)]
    world.pump()
    for _ in clients:
        second.app.answer()
    world.pump()
    assert set(outcomes(clients)) == {"200"}
    assert not first.endpoint.usable
    assert first.endpoint.state == "not ready"
    world.settled()


def test_nobody_listens_to_a_post(world: World) -> None:
    """That word is not sealed, so the instance is asked first; it says nothing: the request moves on."""
    first, second = two(world)
    first.endpoint.active = -1  # the balancer prefers it
    first.die()
    client = world.ask("POST")
    first.endpoint.active = 1
    world.pump()
    assert outcome(client) == "waiting"
    world.after(0.3)
    assert second.app.targets == ["POST /"]
    second.app.answer()
    world.pump()
    assert outcome(client) == "200"
    world.settled()


@pytest.mark.parametrize("says", ["no responders", "unknown session"])
def test_a_forged_word_does_not_repeat_a_post(world: World, says: str) -> None:
    """Anybody on the bus can write both; the instance that works on the request says so, sealed."""
    first, second = two(world)
    client = world.ask("POST")
    [sent] = world.bus.queue
    world.pump()
    [working, other] = at_work(first, second)
    session = working.endpoint.session
    assert session is not None
    if says == "no responders":
        world.outbound.on_reply(sent.reply, b"", b"", NO_RESPONDERS)
    else:
        stream = int(sent.reply.rpartition(b"._")[2])
        word = unknown_session(session.number, stream)
        for sender in (
            other.name,
            "",
        ):  # a locked bus lets nobody speak as another, so this is not even a doubt
            world.outbound.on_reply(b"%b.%b" % (sent.reply, sender.encode()), b"", word, b"")
        assert working.endpoint.session is session
        world.outbound.on_reply(b"%b.%b" % (sent.reply, working.name.encode()), b"", word, b"")
        assert working.endpoint.session is not session
    world.after(0.5)
    assert other.app.seen == []
    assert len(working.app.seen) == 1
    working.app.answer(b"the one and only")
    world.pump()
    assert answer_of(client).body == b"the one and only"
    world.settled()


def test_an_agent_killed_with_requests_at_work_is_noticed_by_a_probe(world: World) -> None:
    """The word comes within PROBE_AFTER_S: a GET is repeated, a POST is not."""
    orders = world.instance("orders-1")
    get, post = world.ask("GET"), world.ask("POST")
    world.pump()
    assert len(orders.app.calls) == 2
    orders.die()
    other = world.instance("orders-2")
    world.after(PROBE_AFTER_S + 0.05)
    assert outcome(post) == "503 UF"
    assert body_of(post)["error"] == "instance_gone"
    assert other.app.targets == ["GET /"]
    other.app.answer()
    world.pump()
    assert outcome(get) == "200"
    assert not orders.endpoint.usable
    world.settled()


def test_a_worker_that_dies_takes_only_its_own_along(world: World) -> None:
    """Of an agent of several processes: what was sent to the others is answered as if nothing happened."""
    orders = world.instance("orders-1")
    by_the_one = world.ask("POST", "/one")
    world.pump()
    assert orders.endpoint.session is not None
    orders.endpoint.session.worker = 1
    orders.connect()
    by_the_other = world.ask("POST", "/other")
    world.pump()
    [stream] = [x.stream for x in world.outbound.tries.sent.values() if x.head.target == b"/one"]
    world.outbound.tries._nobody_listens(b"p%d" % stream)
    assert outcome(by_the_one) == "503 UF"
    orders.app.answer()
    orders.app.answer()
    world.pump()
    assert outcome(by_the_other) == "200"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_restarted_agent_knows_no_session(world: World, method: str) -> None:
    orders = world.instance("orders-1")
    clients = [world.ask(method) for _ in range(3)]
    orders.restart()
    world.pump()
    world.after(0.3)
    assert orders.app.targets == [f"{method} /"] * 3
    assert world.renewed[0] == "orders-1"
    for _ in clients:
        orders.app.answer()
    world.pump()
    assert outcomes(clients) == ["200"] * 3
    world.settled()


@pytest.mark.parametrize(("method", "expected"), [("GET", "200"), ("POST", "503 UF")])
def test_a_restart_proves_nothing_of_what_was_sent_before_it(
    world: World, method: str, expected: str
) -> None:
    """The process before may have served it: only the message that came to the new one was not served."""
    orders = world.instance("orders-1")
    before = world.ask(method, "/before")
    world.pump()
    served = orders.app
    served.answer()
    world.lose()
    orders.restart()
    after = world.ask(method, "/after")
    world.pump()
    world.after(0.3)
    assert served.targets == [f"{method} /before"]
    while orders.app.calls:
        orders.app.answer()
        world.pump()
    assert outcomes([before, after]) == [expected, "200"]
    assert orders.app.targets.count("POST /before") == 0
    world.settled()


def test_after_a_restart_requests_wait_for_the_new_session(world: World) -> None:
    world.reconnects = False
    orders = world.instance("orders-1")
    client = world.ask()
    orders.restart()
    world.pump()
    assert orders.endpoint.state == "no session"
    assert world.outbound.statistics()["waiting"] == 1
    world.after(1.0)
    orders.connect()
    world.pump()
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"
    world.settled()


def test_a_frozen_agent_is_suspected_and_left(world: World) -> None:
    first, second = two(world)
    first.freeze()
    clients = {method: [world.ask(method) for _ in range(6)] for method in ("GET", "POST")}
    world.pump()
    started = world.clock.now
    while first.endpoint.usable:
        world.after(0.01)
    seconds = world.clock.now - started
    assert PROBE_AFTER_S + ROUND_S * (ROUNDS_UNANSWERED - 1) < seconds < 1.3
    assert first.endpoint.state == "suspect"
    world.pump()
    while second.app.calls:
        second.app.answer()
        world.pump()
    assert set(outcomes(clients["GET"])) == {"200"}
    assert set(outcomes(clients["POST"])) == {"200", "503 UF"}
    failed = next(client for client in clients["POST"] if outcome(client) == "503 UF")
    assert body_of(failed)["error"] == "instance_silent"
    world.settled()
    later = [world.ask() for _ in range(5)]
    world.pump()
    assert len(second.app.calls) == 5
    assert outcomes(later) == ["waiting"] * 5


def test_a_frozen_worker_is_left_and_its_instance_is_not_suspected(world: World) -> None:
    first, second = two(world)
    assert first.endpoint.session is not None
    first.endpoint.session.worker = 1
    first.freeze()
    clients = [world.ask() for _ in range(6)]
    while first.endpoint.session is not None:
        world.after(0.01)
    assert not first.endpoint.suspect, "its other processes serve"
    world.pump()
    while second.app.calls:
        second.app.answer()
        world.pump()
    assert set(outcomes(clients)) == {"200"}
    world.settled()


def test_a_slow_application_is_not_mistaken_for_a_frozen_agent(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask()
    world.pump()
    world.after(10.0)
    assert orders.endpoint.usable
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"
    assert len(orders.app.seen) == 1


# -- messages that get lost ------------------------------------------------------------------------


def test_a_lost_request_is_found_by_a_probe_also_a_post(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask("POST")
    [late] = world.lose()
    world.after(PROBE_AFTER_S + 0.02)
    assert orders.app.targets == ["POST /"]
    world.bus.deliver(late)
    world.pump()
    assert orders.app.targets == ["POST /"], "once told that it never came, it may never come"
    assert orders.inbound.bad_frames == 1
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"
    assert world.notes.tries == ["orders-1 503 UF", "orders-1 200"]
    world.settled()


@pytest.mark.parametrize(("method", "expected"), [("GET", "200"), ("POST", "503 UF")])
def test_a_lost_response_is_found_by_a_probe(world: World, method: str, expected: str) -> None:
    """The application has done the work: a POST is not repeated."""
    orders = world.instance("orders-1")
    client = world.ask(method)
    world.pump()
    orders.app.answer()
    world.lose()
    world.after(PROBE_AFTER_S + 0.05)
    if orders.app.calls:
        orders.app.answer()
        world.pump()
    assert outcome(client) == expected
    assert len(orders.app.seen) == (2 if method == "GET" else 1)
    world.settled()


def test_a_lost_request_is_found_behind_one_that_takes_long(world: World) -> None:
    orders = world.instance("orders-1")
    slow = [world.ask(path="/slow") for _ in range(3 * QUESTIONS)]
    world.pump()
    world.after(1.0)
    lost = world.ask("POST", "/lost")
    world.lose()
    world.after(PROBE_AFTER_S + 2 * ROUND_S)
    assert orders.app.targets[-1] == "POST /lost"
    assert set(outcomes(slow)) == {"waiting"}
    assert outcome(lost) == "waiting"


def test_few_questions_are_asked_however_many_requests_are_slow(world: World) -> None:
    world.instance("orders-1")
    for _ in range(300):
        world.ask()
    world.pump()
    before = len(world.bus.log)
    world.after(1.0)
    questions = [m for m in world.bus.log[before:] if m.kind == Kind.PROBE]
    assert QUESTIONS <= len(questions) <= QUESTIONS * (1.0 / ROUND_S + 1)
    streams = [m.reply.rpartition(b"._p")[2] for m in questions]
    assert len(set(streams)) == len(streams), (
        "each about another request, while there are some not asked about"
    )


def test_a_lost_probe_is_asked_again(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask("POST")
    world.lose()
    for _ in range(2):
        while not world.bus.queue:
            world.tick()
        world.lose()
    world.after(2 * ROUND_S)
    assert orders.app.targets == ["POST /"]
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"


# -- messages that nobody should believe -----------------------------------------------------------


def test_late_and_unknown_replies_are_counted_and_dropped(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask()
    world.pump()
    orders.app.answer()
    [reply] = world.bus.queue
    world.pump()
    for message in (reply, reply):
        world.bus.deliver(message)
    assert world.outbound.tries.late_replies == 2
    assert len(responses(client.written)) == 1
    world.settled()


def test_junk_on_a_reply_subject_is_dropped(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask()
    world.pump()
    [sent] = world.bus.log
    orders.app.answer(b"the true one")
    [true] = world.bus.queue
    stream = sent.reply.rpartition(b"_")[2]
    subjects = [sent.reply, sent.reply[: -len(stream)] + b"p" + stream, b"x", b"", sent.reply + b"9" * 5000]
    junk = [
        b"",
        b"x",
        b"\x01" * HEADER_SIZE,
        b"\x02" + true.payload[1:],
        true.payload[:-1],
        true.payload + b"\x00",
    ]
    for subject in subjects:
        for payload in junk:
            world.outbound.on_reply(subject, b"", payload, b"")
        world.outbound.on_reply(subject, b"", b"", b"NATS/1.0\r\nX: y\r\n\r\n")
    assert outcome(client) == "waiting"
    world.pump()
    assert answer_of(client).body == b"the true one"
    world.settled()


def test_a_response_with_any_bit_flipped_is_dropped(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask()
    world.pump()
    orders.app.answer(b"the true one")
    [true] = world.bus.queue
    for at in range(len(true.payload)):
        flipped = bytearray(true.payload)
        flipped[at] ^= 1 << at % 8
        if flipped[1] != Kind.UNKNOWN_SESSION:
            world.bus.deliver(Message(true.subject, b"", bytes(flipped)))
    assert outcome(client) == "waiting"
    world.pump()
    assert answer_of(client).body == b"the true one"
    assert world.outbound.tries.bad_frames + world.outbound.tries.late_replies == len(true.payload)


def test_a_response_of_another_session_is_dropped(world: World) -> None:
    first, second = two(world)
    clients = [world.ask() for _ in range(2)]
    world.pump()
    if not second.app.calls:
        first, second = second, first
    while first.app.calls and second.app.calls:
        first.app.answer(b"first")
        second.app.answer(b"second")
    replies = list(world.bus.queue)
    swapped = [
        Message(one.subject, b"", other.payload)
        for one, other in zip(replies, reversed(replies), strict=True)
    ]
    world.bus.queue.clear()
    for message in swapped:  # the stream in the frame is what counts, and it is sealed
        world.bus.deliver(message)
    assert sorted(answer_of(client).body for client in clients if client.written) == [b"first", b"second"]


@pytest.mark.parametrize("kind", [Kind.RESPONSE, Kind.REFUSAL, Kind.PROBE_RESULT])
def test_what_an_instance_seals_and_no_agent_writes_ends_the_try(world: World, kind: Kind) -> None:
    orders = world.instance("orders-1")
    client = world.ask("POST")
    world.pump()
    [work] = orders.inbound._work.values()
    orders.inbound.send(work.peer, kind, work.stream, b"\xff")
    world.pump()
    assert outcome(client) == "502 DPE"
    assert body_of(client)["error"] == "malformed_response"
    assert world.outbound.tries.bad_frames == 1
    world.settled()


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.PROBE, 77])
def test_what_does_not_belong_on_a_reply_subject_changes_nothing(world: World, kind: Any) -> None:
    orders = world.instance("orders-1")
    client = world.ask("POST")
    world.pump()
    [work] = orders.inbound._work.values()
    orders.inbound.send(work.peer, kind, work.stream, b"\xff")
    world.pump()
    assert outcome(client) == "waiting"
    assert world.outbound.tries.bad_frames == 1


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("seconds", [0.05, 0.3, 2.0])
def test_a_timeout_is_a_504_in_time_and_ends_the_work(world: World, method: str, seconds: float) -> None:
    orders = world.instance("orders-1")
    world.timeout(seconds)
    client = world.ask(method)
    world.pump()
    [call] = orders.app.calls
    world.after(seconds - 0.02)
    assert outcome(client) == "waiting"
    world.after(0.04)
    assert outcome(client) == "504 UT"
    assert "orders-1" in body_of(client)["message"]
    assert len(orders.app.seen) == 1, "no other instance would be in time either"
    assert call.cancelled
    assert world.notes.served == ["499 DC"], "as the instance sees it, the caller went"
    world.settled()
    assert orders.inbound.active == 0


def test_the_default_timeout_is_15_seconds(world: World) -> None:
    orders = world.instance("orders-1")
    client = world.ask()
    world.pump()
    world.after(14.9)
    assert outcome(client) == "waiting"
    assert len(orders.app.calls) == 1
    world.after(0.2)
    assert outcome(client) == "504 UT"


def test_a_deadline_near_after_a_retry_is_kept(world: World) -> None:
    """A try sent 50 ms before the deadline must not be looked at only after PROBE_AFTER_S."""
    orders = world.instance("orders-1")
    world.timeout(1.0)
    client = world.ask()
    world.pump()
    world.after(0.95)
    orders.app.fail("application_reset", processed=True)
    world.pump()
    assert len(orders.app.calls) == 1
    world.after(0.07)
    assert outcome(client) == "504 UT"
    world.settled()


def test_late_requests_do_not_hide_behind_young_or_patient_ones(world: World) -> None:
    world.instance("orders-1")
    world.instance("pay-1", "pay")
    patient = [world.ask(host="pay") for _ in range(3)]
    world.pump()
    world.timeout(0.05)
    hasty = [world.ask() for _ in range(3)]
    world.pump()
    world.after(0.07)
    assert outcomes(hasty) == ["504 UT"] * 3
    assert outcomes(patient) == ["waiting"] * 3


def test_an_instance_refuses_what_comes_after_its_deadline(world: World) -> None:
    orders = world.instance("orders-1")
    world.timeout(0.5)
    world.ask("POST")
    [message] = world.lose()
    world.clock.now += 0.6
    world.bus.deliver(message)
    assert orders.app.seen == []
    assert orders.inbound.refused == 1


# -- waiting for an instance -----------------------------------------------------------------------


def test_a_first_request_waits_for_discovery_and_a_session(world: World) -> None:
    clients = [world.ask("POST") for _ in range(3)]
    assert world.discovered == ["orders"]
    assert world.outbound.statistics()["waiting"] == 3
    world.after(0.2)
    orders = world.instance("orders-1", session=False)
    assert outcomes(clients) == ["waiting"] * 3
    world.after(0.2)
    orders.connect()
    world.pump()
    for _ in clients:
        orders.app.answer()
    world.pump()
    assert outcomes(clients) == ["200"] * 3
    world.settled()


def test_a_client_that_went_while_waiting_is_served_no_more(world: World) -> None:
    """Its POST would run and nobody would hear of it."""
    client, other = world.ask("POST", "/gone"), world.ask("POST", "/stays")
    client.lose()
    orders = world.instance("orders-1")
    world.pump()
    assert orders.app.targets == ["POST /stays"]
    orders.app.answer()
    world.pump()
    assert outcome(other) == "200"
    assert world.notes.requests == ["499 DC", "200"]
    world.settled()


def test_those_that_wait_are_served_in_their_order(world: World) -> None:
    for n in range(5):
        world.ask(path=f"/{n}")
    orders = world.instance("orders-1")
    world.pump()
    assert orders.app.targets == [f"GET /{n}" for n in range(5)]


def test_a_service_that_nobody_serves_is_told_as_soon_as_that_is_known(world: World) -> None:
    client = world.ask()
    world.after(0.3)
    assert outcome(client) == "waiting"
    world.known("orders")
    assert outcome(client) == "503 UH"
    said = body_of(client)
    assert (said["error"], said["message"], said["service"]) == (
        "no_healthy_upstream",
        "nobody serves orders",
        "orders",
    )
    assert answer_of(client).header("retry-after") == "1"
    assert outcome(world.ask()) == "503 UH", "known by now"
    world.settled()


def test_discovery_of_another_service_releases_nobody(world: World) -> None:
    client = world.ask()
    world.instance("pay-1", "pay")
    assert outcome(client) == "waiting"
    assert world.outbound.statistics()["waiting"] == 1


def test_patience_has_an_end(world: World) -> None:
    client = world.ask()
    world.after(PATIENCE_S - 0.05)
    assert outcome(client) == "waiting"
    world.after(0.1)
    assert outcome(client) == "503 UH"
    world.settled()


def test_patience_counts_from_when_it_began_to_wait(world: World) -> None:
    """A request that took long before its instance went has the same time to find another."""
    world.reconnects = False
    orders = world.instance("orders-1")
    client = world.ask("GET")
    world.pump()
    world.after(PATIENCE_S + 1)
    orders.restart()
    world.after(0.5)
    assert world.outbound.statistics()["waiting"] == 1
    orders.connect()
    world.pump()
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"


def test_a_deadline_is_kept_while_waiting(world: World) -> None:
    world.timeout(0.5)
    client = world.ask()
    world.after(0.48)
    assert outcome(client) == "waiting"
    world.after(0.04)
    assert outcome(client) == "504 UT"
    world.settled()


def test_a_session_that_stands_just_after_the_deadline_serves_nobody(world: World) -> None:
    world.timeout(0.5)
    client = world.ask()
    world.clock.now += 0.505
    orders = world.instance("orders-1")
    assert outcome(client) == "504 UT"
    assert orders.app.seen == []
    world.settled()


def test_only_so_many_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.outbound, "_parking", Parking(3))
    clients = [world.ask() for _ in range(4)]
    assert outcomes(clients) == ["waiting"] * 3 + ["503 UH"]


@pytest.mark.parametrize("why", ["draining", "unhealthy", "suspect"])
def test_instances_that_may_not_be_used_are_named(world: World, why: str) -> None:
    orders = world.instance("orders-1")
    orders.endpoint.suspect = why == "suspect"
    orders.endpoint.ready = why == "suspect"
    world.upstreams.changed(orders.endpoint.service)
    client = world.ask()
    assert outcome(client) == "503 UH"
    assert "orders-1: " in body_of(client)["message"]


def test_a_flood_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name costs memory and a subscription, and whoever sends requests chooses the names."""
    world = World(monkeypatch, capacity=10)
    orders = world.instance("orders-1")
    clients = [world.ask(host=f"name-{n}") for n in range(30)]
    assert len(world.discovered) == 10
    assert outcomes(clients[:9]) == ["waiting"] * 9
    assert set(outcomes(clients[9:])) == {"503 UO"}
    assert body_of(clients[-1])["error"] == "too_many_services"
    known = world.ask()
    world.pump()
    orders.app.answer()
    world.pump()
    assert outcome(known) == "200"


# -- the bus ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_lost_bus_fails_everything_at_once(world: World, method: str) -> None:
    orders = world.instance("orders-1")
    in_flight = [world.ask(method) for _ in range(3)]
    world.pump()
    waiting = [world.ask(method, host="pay") for _ in range(3)]
    world.bus.set_connected(False)
    assert outcomes(in_flight + waiting) == ["503 UF"] * 6
    assert {body_of(client)["error"] for client in in_flight + waiting} == {"bus_unavailable"}
    assert outcome(world.ask(method)) == "503 UF"
    world.settled()
    world.bus.set_connected(True)
    again = world.ask(method)
    world.pump()
    while orders.app.calls:
        orders.app.answer(b"again")
    world.pump()
    assert answer_of(again).body == b"again"
    assert len(orders.app.seen) == 4
    world.settled()


def test_a_congested_bus_takes_no_new_requests(world: World) -> None:
    orders = world.instance("orders-1")
    first = world.ask()
    world.bus.congested = True
    second = world.ask()
    world.pump()
    orders.app.answer()
    world.pump()
    assert outcomes([first, second]) == ["200", "503 UO"]
    world.settled()


# -- sessions --------------------------------------------------------------------------------------


def test_a_renewed_session_lets_requests_of_the_old_one_finish(world: World) -> None:
    orders = world.instance("orders-1")
    old = world.ask(path="/old")
    world.pump()
    orders.connect()
    new = world.ask(path="/new")
    world.pump()
    orders.app.answer(b"old")
    orders.app.answer(b"new")
    world.pump()
    assert [answer_of(client).body for client in (old, new)] == [b"old", b"new"]
    world.settled()


def test_a_session_that_is_used_up_is_renewed(world: World) -> None:
    orders = world.instance("orders-1")
    assert orders.endpoint.session is not None
    orders.endpoint.session.sent = 1 << 24
    client = world.ask()
    assert world.renewed == ["orders-1"]
    world.pump()
    orders.app.answer()
    world.pump()
    assert outcome(client) == "200"


# -- everything at once ----------------------------------------------------------------------------


class Chaos:
    """Messages are lost, doubled and late; agents restart, freeze and lose sessions; applications fail."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = Random(seed)
        self.instances = [world.instance(f"orders-{n}") for n in range(3)]
        self.clients: dict[str, FakeTransport] = {}
        #: How often an application has done what a request asks for.
        self.done: Counter[str] = Counter()
        self._held: list[Message] = []

    def ask(self) -> None:
        for _ in range(self.rng.randrange(3)):
            method, path = self.rng.choice(["GET", "POST"]), f"/{len(self.clients)}"
            self.clients[f"{method} {path}"] = self.world.ask(method, path)

    def hurt(self) -> None:
        instance = self.rng.choice(self.instances)
        if self.rng.random() < 0.02:
            self.rng.choice(
                [instance.restart, instance.freeze, instance.thaw, instance.connect, instance.die]
            )()

    def announce(self) -> None:
        """As each instance does once a second."""
        for instance in self.instances:
            instance.endpoint.ready, instance.endpoint.suspect = True, False
            if instance.endpoint.session is None:
                instance.connect()
            self.world.upstreams.changed(instance.endpoint.service)

    def deliver(self) -> None:
        bus, rng = self.world.bus, self.rng
        for _ in range(len(bus.queue)):
            message = bus.queue.popleft()
            chance = rng.random()
            if chance < 0.05:
                continue
            if chance < 0.1:
                self._held.append(message)
                continue
            bus.deliver(message)
            if chance < 0.15:
                bus.deliver(message)
        if self._held and rng.random() < 0.3:
            bus.deliver(self._held.pop(rng.randrange(len(self._held))))

    def work(self) -> None:
        for instance in self.instances:
            while instance.app.calls and self.rng.random() < 0.7:
                line = instance.app.calls[0].message.split(b" HTTP", 1)[0].decode()
                what = self.rng.random()
                if what < 0.1:
                    instance.app.fail("application_unreachable", processed=False)
                    continue
                self.done[line] += 1
                if what < 0.2:
                    instance.app.fail("application_reset", processed=True)
                else:
                    instance.app.answer(line.encode())


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_request_ends_once_and_no_post_runs_twice(world: World, seed: int) -> None:
    chaos = Chaos(world, seed)
    for step in range(600):
        if step < 400:
            chaos.ask()
            chaos.hurt()
        if step in (200, 210):
            world.bus.queue.clear()
            world.bus.set_connected(step == 210)
        if step % 10 == 0:
            chaos.announce()
        chaos.deliver()
        chaos.work()
        world.tick()
    for instance in chaos.instances:
        instance.thaw()
    world.after(16.0)
    for line, client in chaos.clients.items():
        [response] = responses(client.written)
        if response.status == 200:
            assert response.body.decode() == line, "the answer to another request"
            assert chaos.done[line] >= 1
    assert [line for line, times in chaos.done.items() if times > 1 and line.startswith("POST")] == []
    good = sum(responses(client.written)[0].status == 200 for client in chaos.clients.values())
    assert good > len(chaos.clients) / 4
    world.settled()
