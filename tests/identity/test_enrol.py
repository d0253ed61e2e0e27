"""Enrolment, and the attacks on it: wrong token, replay, altered messages, a false authority."""

from __future__ import annotations

import secrets
import struct

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import BusmeshError, IdentityError, InvalidName, RemoteProtocolError, UsageError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.enrol import Answer, Enrolment, Refusal, SeenNonces, answer
from busmesh.identity.fields import pack
from busmesh.identity.jointoken import REPLY, REQUEST, Grant, JoinToken
from busmesh.identity.profile import key_bytes
from busmesh.identity.svid import new_key, signing_request
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier, verify_certificate
from tests.identity.forge import MESH, NOW, workload

TOKEN = JoinToken.generate(MESH)
PLAIN_DENIAL = pack(0, b"", b"", b"", b"")


class Authority:
    """The authority's side with its memory, as a process would hold it."""

    def __init__(self, ca: CertificateAuthority, *grants: Grant, seen: SeenNonces | None = None) -> None:
        self.ca = ca
        self.grants = {grant.token.id: grant for grant in grants or (Grant(TOKEN),)}
        self.seen = seen or SeenNonces()

    def answer(self, request: bytes, now: float = NOW) -> Answer:
        return answer(request, self.grants, self.ca, now, self.seen)


@pytest.fixture
def authority(ca: CertificateAuthority) -> Authority:
    return Authority(ca)


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return new_key()


def altered(message: bytes, position: int, value: object) -> bytes:
    fields = msgpack.unpackb(message)
    fields[position] = value
    packed: bytes = msgpack.packb(fields)
    return packed


def request_with(token: JoinToken, spiffe_id: str, csr: bytes, now: float = NOW) -> bytes:
    """A request whose MAC is right, whatever it asks for."""
    time_ms, nonce = int(now * 1000), secrets.token_bytes(16)
    parts = (token.id.encode(), spiffe_id.encode(), struct.pack(">Q", time_ms), nonce, csr, b"", b"")
    return pack(parts[0], parts[1], time_ms, nonce, csr, b"", b"", token.mac(REQUEST, *parts))


def test_newcomer_gets_its_svid_and_learns_the_roots(
    ca: CertificateAuthority, authority: Authority, key: ec.EllipticCurvePrivateKey
) -> None:
    enrolment = Enrolment(TOKEN, workload(), key, NOW)
    answered = authority.answer(enrolment.request(), NOW + 1)
    svid, bundle, _ = enrolment.finish(answered.reply, NOW + 2)
    assert (answered.id, answered.refusal) == (workload(), None)
    assert bundle == ca.bundle
    assert svid.private_key is key
    assert verify_certificate(svid.der, ca.bundle, NOW).key_der == key_bytes(key.public_key())
    assert svid.not_after == NOW + 1 + 3600


def test_authority_may_hand_out_several_roots(
    ca: CertificateAuthority, other_ca: CertificateAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    both = TrustBundle(MESH, (ca.certificate, other_ca.certificate))
    enrolment = Enrolment(TOKEN, workload(), key, NOW)
    reply = answer(
        enrolment.request(),
        {TOKEN.id: Grant(TOKEN)},
        ca,
        NOW,
        SeenNonces(),
        verifier=Verifier(both),
        lifetime_s=10,
    )
    svid, bundle, _ = enrolment.finish(reply.reply, NOW)
    assert bundle == both
    assert svid.not_after == NOW + 10


def test_token_is_never_sent(authority: Authority, key: ec.EllipticCurvePrivateKey) -> None:
    enrolment = Enrolment(TOKEN, workload(), key, NOW)
    request = enrolment.request()
    wire = request + authority.answer(request).reply
    text = TOKEN.reveal().rsplit(".", 1)[1].encode()
    for secret in (TOKEN.secret, TOKEN.secret.hex().encode(), text, TOKEN.secret[:8]):
        assert secret not in wire
    assert text.decode() not in repr(TOKEN) + repr(enrolment) + repr(Grant(TOKEN))


def test_wrong_token_unknown_token_and_junk_get_the_same_bytes(
    authority: Authority, key: ec.EllipticCurvePrivateKey
) -> None:
    wrong = JoinToken(MESH, TOKEN.id, secrets.token_bytes(32))
    unknown = JoinToken.generate(MESH)
    other_mesh = JoinToken("other", TOKEN.id, TOKEN.secret)
    requests = [
        Enrolment(wrong, workload(), key, NOW).request(),
        Enrolment(unknown, workload(), key, NOW).request(),
        Enrolment(other_mesh, workload(mesh="other"), key, NOW).request(),
        b"junk",
        b"",
        b"\x97\x01" + b"\x90" * 4000,
        bytes(5000),
    ]
    for request in requests:
        assert authority.answer(request) == Answer(PLAIN_DENIAL, None, Refusal.DENIED)
    with pytest.raises(IdentityError, match="BM4203"):
        Enrolment(wrong, workload(), key, NOW).finish(PLAIN_DENIAL, NOW)


def test_every_altered_byte_of_the_request_is_denied(
    authority: Authority, key: ec.EllipticCurvePrivateKey
) -> None:
    request = Enrolment(TOKEN, workload(), key, NOW).request()
    for position in range(len(request)):
        bad = bytearray(request)
        bad[position] ^= 1
        assert authority.answer(bytes(bad)).refusal is Refusal.DENIED
    assert authority.answer(request).refusal is None


def test_signing_request_cannot_be_exchanged(authority: Authority, key: ec.EllipticCurvePrivateKey) -> None:
    request = Enrolment(TOKEN, workload(), key, NOW).request()
    assert authority.answer(altered(request, 5, signing_request(new_key()))).refusal is Refusal.DENIED
    assert authority.answer(altered(request, 2, str(workload("web")).encode())).refusal is Refusal.DENIED


def test_holder_of_the_token_must_still_prove_the_key(authority: Authority) -> None:
    victim = signing_request(new_key())
    unsigned = victim[:-1] + bytes([victim[-1] ^ 1])
    refused = authority.answer(request_with(TOKEN, str(workload()), unsigned))
    assert (refused.id, refused.refusal) == (workload(), Refusal.INVALID)


def test_every_altered_byte_of_the_reply_is_noticed(
    authority: Authority, key: ec.EllipticCurvePrivateKey
) -> None:
    enrolment = Enrolment(TOKEN, workload(), key, NOW)
    reply = authority.answer(enrolment.request()).reply
    for position in range(len(reply)):
        bad = bytearray(reply)
        bad[position] ^= 1
        with pytest.raises((IdentityError, RemoteProtocolError)) as refused:
            enrolment.finish(bytes(bad), NOW)
        assert refused.value.code in {"BM4101", "BM4102", "BM4103", "BM4204"}
    enrolment.finish(reply, NOW)


def test_false_authority_cannot_slip_in_its_root(
    authority: Authority, other_ca: CertificateAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    enrolment = Enrolment(TOKEN, workload(), key, NOW)
    request = enrolment.request()
    reply = authority.answer(request).reply
    impostors = other_ca.issue(workload(), key.public_key(), NOW)
    own_token = JoinToken(MESH, TOKEN.id, secrets.token_bytes(32))
    forged = [
        altered(reply, 3, other_ca.bundle.to_pem()),
        altered(reply, 3, authority.ca.bundle.to_pem() + other_ca.bundle.to_pem()),
        altered(altered(reply, 2, impostors), 3, other_ca.bundle.to_pem()),
        Authority(other_ca, Grant(own_token))
        .answer(Enrolment(own_token, workload(), key, NOW).request())
        .reply,
        pack(1, impostors, other_ca.bundle.to_pem(), b"", b""),
        pack(1, impostors, other_ca.bundle.to_pem(), b"", bytes(32)),
        altered(reply, 4, b"login"),
        altered(reply, 1, 0),
    ]
    for bad in forged:
        with pytest.raises(IdentityError, match="BM4204"):
            enrolment.finish(bad, NOW)


def test_reply_serves_one_enrolment_only(authority: Authority, key: ec.EllipticCurvePrivateKey) -> None:
    first, second = (Enrolment(TOKEN, workload(), key, NOW) for _ in range(2))
    reply = authority.answer(first.request()).reply
    with pytest.raises(IdentityError, match="BM4204"):
        second.finish(reply, NOW)
    request = first.request()
    with pytest.raises(RemoteProtocolError):
        first.finish(request, NOW)  # reflected


def test_authority_that_issues_something_else_is_refused(
    ca: CertificateAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    enrolment = Enrolment(TOKEN, workload(), key, NOW)
    nonce: bytes = msgpack.unpackb(enrolment.request())[4]
    for certificate, code in (
        (ca.issue(workload("web"), key.public_key(), NOW), "BM4206"),
        (ca.issue(workload(), new_key().public_key(), NOW), "BM4001"),
        (b"junk", "BM4003"),
    ):
        roots = ca.bundle.to_pem()
        mac = TOKEN.mac(REPLY, nonce, struct.pack(">Q", 1), certificate, roots, b"")
        with pytest.raises(IdentityError, match=code):
            enrolment.finish(pack(1, certificate, roots, b"", mac), NOW)


def refusal_of(authority: Authority, enrolment: Enrolment, now: float = NOW) -> tuple[Refusal | None, str]:
    """The refusal as the authority logs it, and the words that the newcomer's operator reads."""
    answered = authority.answer(enrolment.request(), now)
    with pytest.raises(IdentityError, match="BM4205") as refused:
        enrolment.finish(answered.reply, now)
    assert refused.value.hint
    return answered.refusal, refused.value.message


def test_replay_is_refused(authority: Authority, key: ec.EllipticCurvePrivateKey) -> None:
    enrolment = Enrolment(TOKEN, workload(), key, NOW)
    request = enrolment.request()
    assert authority.answer(request).refusal is None
    for later in (0, 30, 60):
        assert authority.answer(request, NOW + later).refusal is Refusal.REPLAYED
    assert authority.answer(request, NOW + 61).refusal is Refusal.CLOCK
    assert refusal_of(authority, enrolment)[1].endswith("the request arrived twice")


@pytest.mark.parametrize(
    ("offset", "refused"), [(-60, False), (60, False), (-61, True), (61, True), (1e15, True)]
)
def test_clocks_may_differ_by_a_minute(
    authority: Authority, key: ec.EllipticCurvePrivateKey, offset: float, refused: bool
) -> None:
    enrolment = Enrolment(TOKEN, workload(), key, NOW + offset)
    if refused:
        assert refusal_of(authority, enrolment)[0] is Refusal.CLOCK
    else:
        assert authority.answer(enrolment.request()).refusal is None


@pytest.mark.parametrize(
    ("service", "namespace", "wanted", "refused"),
    [
        ("*", "*", "orders.shop", False),
        ("orders", "*", "orders", False),
        ("orders", "*", "payments", True),
        ("ord*", "shop", "orders.shop", False),
        ("*", "shop", "orders", True),
        ("orders", "shop", "orders.other", True),
    ],
)
def test_token_may_be_limited_to_services_and_namespaces(
    ca: CertificateAuthority,
    key: ec.EllipticCurvePrivateKey,
    service: str,
    namespace: str,
    wanted: str,
    refused: bool,
) -> None:
    authority = Authority(ca, Grant(TOKEN, service, namespace))
    enrolment = Enrolment(TOKEN, workload(wanted), key, NOW)
    if refused:
        assert refusal_of(authority, enrolment)[0] is Refusal.FORBIDDEN
    else:
        assert authority.answer(enrolment.request()).refusal is None


@pytest.mark.parametrize(("offset", "refused"), [(-0.001, False), (0, True), (5, True)])
def test_token_may_expire(
    ca: CertificateAuthority, key: ec.EllipticCurvePrivateKey, offset: float, refused: bool
) -> None:
    authority = Authority(ca, Grant(TOKEN, expires=NOW))
    enrolment = Enrolment(TOKEN, workload(), key, NOW)
    if refused:
        assert refusal_of(authority, enrolment, NOW + offset)[0] is Refusal.EXPIRED
    else:
        assert authority.answer(enrolment.request(), NOW + offset).refusal is None


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        ("spiffe://local/operator/ann", Refusal.FORBIDDEN),
        ("spiffe://local/authority/root", Refusal.FORBIDDEN),
        ("spiffe://other/ns/default/svc/orders/i/orders-0", Refusal.FORBIDDEN),
        ("spiffe://local/ns/default/svc/*/i/orders-0", Refusal.INVALID),
        ("spiffe://local", Refusal.INVALID),
        ("", Refusal.INVALID),
        ("\xff", Refusal.INVALID),
    ],
)
def test_token_makes_workloads_and_nothing_else(authority: Authority, wanted: str, refusal: Refusal) -> None:
    assert authority.answer(request_with(TOKEN, wanted, signing_request(new_key()))).refusal is refusal


def test_newcomer_needs_a_token_of_its_mesh(key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(UsageError, match="BM4202"):
        Enrolment(TOKEN, workload(mesh="other"), key, NOW)


def test_memory_of_nonces_is_bounded_and_refuses_rather_than_forgets(
    ca: CertificateAuthority, key: ec.EllipticCurvePrivateKey
) -> None:
    authority = Authority(ca, seen=SeenNonces(capacity=2))
    first = Enrolment(TOKEN, workload(), key, NOW).request()
    assert authority.answer(first).refusal is None
    assert authority.answer(Enrolment(TOKEN, workload(), key, NOW).request()).refusal is None
    third = Enrolment(TOKEN, workload(), key, NOW)
    assert refusal_of(authority, third)[0] is Refusal.BUSY
    assert authority.answer(first).refusal is Refusal.REPLAYED
    assert repr(authority.seen) == "<SeenNonces 2 of 2>"
    later = NOW + 61
    assert authority.answer(Enrolment(TOKEN, workload(), key, later).request(), later).refusal is None
    assert repr(authority.seen) == "<SeenNonces 1 of 2>"


def test_junk_takes_no_room_among_the_nonces(authority: Authority, key: ec.EllipticCurvePrivateKey) -> None:
    for _ in range(10):
        wrong = JoinToken(MESH, TOKEN.id, secrets.token_bytes(32))
        authority.answer(Enrolment(wrong, workload(), key, NOW).request())
    assert repr(authority.seen) == "<SeenNonces 0 of 16384>"


def test_token_text(key: ec.EllipticCurvePrivateKey) -> None:
    text = TOKEN.reveal()
    assert text.startswith(f"busmesh-join.1.{MESH}.{TOKEN.id}.")
    assert JoinToken.parse(f"  {text}\n") == TOKEN
    assert len({JoinToken.generate(MESH).secret for _ in range(20)}) == 20
    with pytest.raises(InvalidName):
        JoinToken.generate("*")


def test_bad_token_texts_are_refused_and_not_quoted() -> None:
    text = TOKEN.reveal()
    head, secret = text.rsplit(".", 1)
    bad = [
        "",
        text[:-1],
        text + "A",
        text + "=",
        text.replace("busmesh-join", "busmesh-joint"),
        text.replace(".1.", ".2.", 1),
        text.replace(f".{MESH}.", ".*."),
        text.replace(f".{TOKEN.id}.", ".a b."),
        f"{head}.{secret}.more",
        f"{head}.{secret[:-1]}é",
        f"{head}. {secret[1:]}",
        text + " " * 300,
    ]
    for wrong in bad:
        with pytest.raises(IdentityError, match="BM4201") as refused:
            JoinToken.parse(wrong)
        assert secret not in str(refused.value)


def test_token_has_one_spelling() -> None:
    """43 base64 letters carry two bits more than 32 bytes: they must be zero."""
    text = JoinToken(MESH, "ab12", bytes(32)).reveal()
    assert text.endswith("AA")
    for other in "BCD":
        with pytest.raises(IdentityError, match="BM4201"):
            JoinToken.parse(text[:-1] + other)


_CA = CertificateAuthority.create(MESH, NOW)
_ENROLMENT = Enrolment(TOKEN, workload(), new_key(), NOW)
_REPLY = Authority(_CA).answer(_ENROLMENT.request()).reply
_anything = (
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.binary(max_size=80) | st.text(max_size=20)
)


def _packed(fields: list[object]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


@given(
    st.binary(max_size=200)
    | st.lists(_anything, max_size=8).map(lambda fields: _packed([1, *fields]))
    | st.tuples(*[_anything] * 6).map(lambda fields: _packed([1, TOKEN.id.encode(), *fields]))
)
def test_authority_answers_arbitrary_bytes_with_the_plain_denial(data: bytes) -> None:
    assert Authority(_CA).answer(data).reply == PLAIN_DENIAL


@given(
    st.binary(max_size=200)
    | st.lists(_anything, max_size=8).map(lambda fields: _packed([1, *fields]))
    | st.tuples(st.integers(0, len(_REPLY)), st.binary(min_size=1, max_size=4)).map(
        lambda cut: _REPLY[: cut[0]] + cut[1] + _REPLY[cut[0] :]
    )
)
def test_newcomer_meets_arbitrary_replies_with_typed_errors_only(data: bytes) -> None:
    with pytest.raises(BusmeshError):
        _ENROLMENT.finish(data, NOW)


@given(st.text(max_size=120) | st.text(max_size=60).map(lambda text: f"busmesh-join.1.local.ab.{text}"))
def test_arbitrary_token_text(text: str) -> None:
    try:
        token = JoinToken.parse(text)
    except IdentityError:
        return
    assert token.reveal() == text.strip()
