"""S12: the key and certificate of another service, beside its login, have no effect on a service either.

Whoever holds them can speak as the one that they were stolen from; each attack says something of the service,
or in its place.
"""

from __future__ import annotations

import struct
import time

import msgpack
import pytest

from busmesh.bus.login import Credentials
from busmesh.bus.nkeys import KeyPair, Role
from busmesh.decide.report import Report, Seen
from busmesh.errors import BusmeshError
from busmesh.identity.fields import pack
from busmesh.identity.handshake import Handshake, TlsContext
from busmesh.identity.renew import Renewal
from busmesh.identity.signed import seal_signed
from busmesh.identity.svid import new_key
from busmesh.members.announcement import encode
from busmesh.names import ServiceName, SpiffeId
from busmesh.relay.session.handshakes import number_of
from busmesh.wire.frame import Kind, Session
from busmesh.wire.http import encode_request
from tests.support.mesh import eventually
from tests.threats.stolen import INBOX, OWN, RELAY, ROOT, SESSION, Heard, Stolen
from tests.threats.thief import FRAMES, HEADER, TIMES, Attack, at_once, attempt, inbox_of, repeat

REJECTED = "shop/members:statistics.rejected"
EVIDENCE = f"{ROOT}.evidence.default.orders.parcel-0"
ORDERS = SpiffeId.workload("local", ServiceName("orders"), "orders-0")


def signed(purpose: str, body: bytes, stage: Stolen) -> bytes:
    return seal_signed(stage.svid, purpose, body, time.time())


def in_its_name(stage: Stolen) -> bytes:
    """Newer than what the service says, with another weight, and signed by the thief."""
    _, said = stage.announced()
    newer = said.model_copy(update={"incarnation": said.incarnation + 10**6, "weight": 0})
    return signed("member", encode(newer), stage)


def by_its_instance(stage: Stolen) -> bytes:
    """Of the thief's own service, with the instance's name of the other."""
    _, said = stage.announced()
    return signed("member", encode(said.model_copy(update={"service": "parcel", "sequence": 10**6})), stage)


def told_to_the_caller(stage: Stolen) -> int:
    made = in_its_name(stage)
    for _ in range(TIMES):
        stage.thief.publish(f"{inbox_of(stage, 'orders')}.parcel-0", made)
    return TIMES


def far_ahead(stage: Stolen) -> int:
    """The thief's own announcement, true to its name, of revisions and trust that nobody has published."""
    asked = f"{ROOT}.logs.STREAM.INFO.BUSMESH_local_POLICY"
    before = len(stage.recorded(asked, "shop-0"))
    [own] = [each for each in stage.shop.page("/members")["members"] if each["service"] == "parcel"]
    _, said = stage.announced()
    for number in range(TIMES):
        ahead = said.model_copy(
            update={
                "service": "parcel",
                "instance": "parcel-0",
                "incarnation": own["incarnation"],
                "sequence": own["sequence"] + 10 + number,
                "revision": 10**6,
                "trust": 10**6,
                "revocations": "f" * 64,
            }
        )
        stage.thief.publish(OWN, signed("member", encode(ahead), stage))
    stage.thief.flush()
    last = own["sequence"] + 9 + TIMES
    eventually(
        lambda: any(each["sequence"] == last for each in stage.shop.page("/members")["members"]),
        "it is believed of the thief itself",
    )
    time.sleep(0.5)  # what is read because of it is read
    assert 0 < len(stage.recorded(asked, "shop-0")) - before < TIMES / 4, "the log is not read each time"
    return 0


def report() -> bytes:
    seen = {"orders-0": Seen(1000, 1000, True)}
    return msgpack.packb(Report(ServiceName("orders"), seen).to_plain())  # type: ignore[no-any-return]


def evidence_against_it(stage: Stolen) -> int:
    """One vote, for longer than it takes to judge."""
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        stage.thief.publish(EVIDENCE, signed("evidence", report(), stage))
        time.sleep(0.02)
    assert len(stage.recorded(EVIDENCE)) > 50
    return 0


# -- sessions -----------------------------------------------------------------------------------------------


def ask(stage: Stolen, subject: str, payload: bytes, number: int) -> bytes:
    """Return the first answer to what the thief asks."""
    to = f"{INBOX}.{time.monotonic_ns()}-{number}"
    stage.thief.publish(subject, payload, reply=to.encode())

    def answers() -> list[bytes]:
        return [heard.payload for heard in list(stage.wire) if heard.subject.startswith(to)]

    eventually(lambda: bool(answers()), f"{subject} is answered")
    return answers()[0]


def session_of(stage: Stolen) -> Session:
    """Shake hands with the service as the one whose key it is."""
    handshake = Handshake.client(TlsContext(stage.svid, stage.verifier), ORDERS)
    identifier = struct.pack("!QQ", time.monotonic_ns(), 1)
    data, started = handshake.feed(b"", time.time()), time.monotonic()
    for number in range(2):
        answer = ask(stage, SESSION, msgpack.packb([1, identifier, data]), number)
        data = handshake.feed(msgpack.unpackb(answer)[2], time.time())
    session, _ = number_of(handshake.read())
    keys = handshake.keys
    return Session(
        session,
        handshake.peer.id,
        send=(keys.client_key, keys.client_iv),
        receive=(keys.server_key, keys.server_iv),
        started=started,
    )


def request(session: Session, name: str, headers: bytes = b"") -> bytes:
    deadline = session.now_ms(time.monotonic()) + 5000
    block = b"Host: orders\r\nx-id: %b\r\n%b" % (name.encode(), headers)
    return encode_request(deadline, 0, b"GET", b"/", block, b"")


def own_request(stage: Stolen) -> Session:
    """The control: in its own session, and in its own name, the thief is served."""
    session, name = session_of(stage), f"own-{time.monotonic_ns()}"
    elsewhere, to = f"{ROOT}.reply.shop-0.0._1".encode(), f"{ROOT}.reply.parcel-0.0.orders-0"
    before = len(stage.recorded(to))
    stage.thief.publish(RELAY, session.seal(Kind.REQUEST, 1, request(session, name)), reply=elsewhere)
    eventually(lambda: len(stage.recorded(to)) > before, "the answer goes to whose session it is")
    frame = stage.recorded(to)[-1].payload
    _, _, _, counter, _ = HEADER.unpack_from(frame)
    assert b"ns/default/svc/parcel" in session.open(frame, counter), "the application hears who it was"
    stage.legal[name] += 1
    return session


def in_its_session(stage: Stolen) -> int:
    """Frames with the number of the caller's session, sealed with the keys of the thief's."""
    session = own_request(stage)
    _, _, number, _, _ = HEADER.unpack_from(stage.recorded(RELAY, "shop-0")[-1].payload)
    session.number = number
    for stream in range(TIMES):
        stage.thief.publish(RELAY, session.seal(Kind.REQUEST, stream, request(session, "stolen")))
    return TIMES


def streams_of_others(stage: Stolen) -> int:
    """In its own session: the end of streams that are the caller's."""
    session = own_request(stage)

    def make(_: int, counter: int, stream: int) -> list[tuple[str, bytes, bytes]]:
        kinds = (Kind.RESET, Kind.END, Kind.CREDIT, Kind.DATA)
        return [(RELAY, b"", session.seal(kind, stream, bytes(12))) for kind in kinds]

    at_once(make)(stage)
    return 0


def in_the_name_of_the_caller(stage: Stolen) -> int:
    """Requests whose headers say that they are another's."""
    session = own_request(stage)
    uri = b"spiffe://local/ns/default/svc/shop/i/shop-0"
    for stream in range(2, 52):
        for line in (b"x-forwarded-client-cert: URI=%b\r\n", b"x-busmesh-source: %b\r\n"):
            sealed = session.seal(Kind.REQUEST, stream, request(session, "claimed", line % uri))
            stage.thief.publish(RELAY, sealed)
    return 100


def sessions_without_end(stage: Stolen) -> int:
    """One after the other, until the service keeps no more of the thief's."""
    numbers = {session_of(stage).number for _ in range(20)}
    assert len(numbers) == 20
    return 0


def handshake_in_its_place(stage: Stolen) -> int:
    """The caller begins anew; the thief hears that on the bus and answers with what it has."""
    identity, sent = TlsContext(stage.svid, stage.verifier), 0

    def watch(heard: Heard) -> None:
        nonlocal sent
        if heard.subject != SESSION or "shop-0" not in heard.reply:
            return
        _, identifier, data = msgpack.unpackb(heard.payload)
        try:
            answer = Handshake.server(identity).feed(data, time.time())
        except BusmeshError:
            return  # the second message, which is not for it
        made = msgpack.packb([1, identifier, answer])
        stage.thief.publish(f"{heard.reply}.parcel-0", made)
        sent += 1

    with stage.watching(watch):
        stage.restart_shop()
        eventually(lambda: sent > 0, "the thief has answered")
    eventually(lambda: stage.view()["endpoints"] != [], "the caller knows the service again")
    return 0


# -- the authority ------------------------------------------------------------------------------------------


def renewed(stage: Stolen, payload: bytes) -> bytes:
    return ask(stage, f"{ROOT}.authority.renew", payload, 0)


def renewal_in_its_name(stage: Stolen) -> int:
    """Its certificate over a request that the thief has signed; and what the thief asks for itself."""
    certificate = msgpack.unpackb(stage.announced()[0])[1]
    own = Renewal(stage.svid, new_key(), time.time(), bus_key=KeyPair.generate(Role.USER))
    _, _, time_ms, body, signature = msgpack.unpackb(own.request())
    assert renewed(stage, pack(certificate, time_ms, body, signature)) == pack(b""), "denied"
    granted = own.finish(renewed(stage, own.request()), stage.verifier, time.time())
    assert granted.svid.id == stage.svid.id, "whoever it says it is, it gets what it had"
    return 0


ATTACKS = [
    Attack("announced in its name", repeat(OWN, in_its_name), REJECTED),
    Attack("announced by its instance's name", repeat(OWN, by_its_instance), REJECTED),
    Attack("announced in its name to the caller alone", told_to_the_caller, REJECTED),
    Attack("evidence against it", evidence_against_it, ""),
    Attack(
        "evidence signed for something else",
        repeat(EVIDENCE, lambda stage: signed("member", report(), stage)),
        "shop/breakers:evidence.forged",
    ),
    Attack("frames in the caller's session", in_its_session, FRAMES),
    Attack("the end of the caller's streams, in its own session", streams_of_others, ""),
    Attack("requests in the name of the caller", in_the_name_of_the_caller, FRAMES),
    Attack("session after session", sessions_without_end, ""),
    Attack("a handshake in its place", handshake_in_its_place, "", meanwhile=False),
    Attack("a renewal in its name", renewal_in_its_name, ""),
    Attack("far ahead of everybody", far_ahead, ""),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_s12_a_stolen_key_has_no_effect(robbed: Stolen, attack: Attack) -> None:
    attempt(robbed, attack)


class OnlySeen(KeyPair):
    """A key of which the thief has only seen the public half."""

    def sign(self, data: bytes) -> bytes:
        return KeyPair.generate(Role.USER).sign(data)


def test_s12_the_thief_goes_alone(robbed: Stolen) -> None:
    """A key is taken back from all who have it, so the thief asks for a login for the service's key."""
    held = Credentials.parse((robbed.mesh.home / "agents" / "orders-0" / "bus.creds").read_text()).key

    def act(stage: Stolen) -> int:
        unproven = Renewal(stage.svid, new_key(), time.time(), bus_key=OnlySeen(held.role, held.seed))
        assert renewed(stage, unproven.request()) == pack(b""), "denied"
        asked = Renewal(stage.svid, new_key(), time.time(), bus_key=held)
        granted = asked.finish(renewed(stage, asked.request()), stage.verifier, time.time())
        assert granted.login == "", "nor with the key itself: it is another's"
        stage.mesh.run("identity", "revoke", str(stage.svid.id))
        eventually(lambda: stage.thief.closed, "the thief is cut off")
        assert all(stage.view()["trust"][0]["revocations"]), "and everybody knows of it"
        return 0

    attempt(robbed, Attack("revoked", act, ""), besides=("trust", "announced"))
