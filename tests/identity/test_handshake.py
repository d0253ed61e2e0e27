"""The handshake: who gets through, who does not, and what a stranger learns."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from busmesh.errors import BusmeshError, IdentityError, RemoteProtocolError, UsageError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.handshake import MAX_BYTES, Expect, Handshake, SessionKeys, TlsContext
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId
from tests.identity.forge import MESH, NOW, forge, svid, workload

PARAMETERS = b"session 42"


@pytest.fixture(scope="module")
def web_tls(ca: CertificateAuthority, web: Svid) -> TlsContext:
    return TlsContext(web, Verifier(ca.bundle))


@pytest.fixture(scope="module")
def orders_tls(ca: CertificateAuthority, orders: Svid) -> TlsContext:
    return TlsContext(orders, Verifier(ca.bundle))


def shake(client: Handshake, server: Handshake, now: float = NOW) -> list[bytes]:
    """Carry messages until both are done; return them as a wiretap sees them."""
    wire = [client.feed(b"", now)]
    wire.append(server.feed(wire[-1], now))
    wire.append(client.feed(wire[-1], now))
    wire.append(server.feed(wire[-1], now) + server.write(PARAMETERS))
    assert client.feed(wire[-1], now) == b""
    return wire


class Stranger:
    """A TLS peer with its own ideas, straight on pyOpenSSL."""

    def __init__(
        self,
        *,
        certificate: x509.Certificate | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        chain: tuple[x509.Certificate, ...] = (),
        newest: int = SSL.TLS1_3_VERSION,
        server: bool = False,
        ciphers: bytes = b"",
    ) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(newest)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if ciphers:
            context.set_tls13_ciphersuites(ciphers)
        if certificate is not None and key is not None:
            context.use_certificate(certificate)
            context.use_privatekey(key)
        for extra in chain:
            context.add_extra_chain_cert(extra)
        self._context, self._server = context, server
        self.connection = self.again()

    def again(self) -> SSL.Connection:
        """Begin another connection."""
        self.connection = SSL.Connection(self._context)
        if self._server:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
        return self.connection

    def step(self, data: bytes = b"") -> bytes:
        if data:
            self.connection.bio_write(data)
        with contextlib.suppress(SSL.WantReadError):
            self.connection.do_handshake()
        return self.connection.bio_read(MAX_BYTES)


def refused(handshake: Handshake, data: bytes, error: type[BusmeshError], code: str, now: float = NOW) -> str:
    """Check that ``data`` ends the handshake with a typed error, and that nothing comes out of it after."""
    with pytest.raises(error) as raised:
        handshake.feed(data, now)
    assert raised.value.code == code, raised.value
    assert not handshake.done
    assert len(handshake.alert) <= 64  # an alert, never a certificate
    for ask in (
        lambda: handshake.keys,
        lambda: handshake.peer,
        handshake.read,
        lambda: handshake.write(b"x"),
        lambda: handshake.feed(data, now),
    ):
        with pytest.raises(UsageError, match="BM4401"):
            ask()
    return str(raised.value)


def test_both_sides_know_each_other_and_share_fresh_keys(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    sessions = []
    for _ in range(2):
        client = Handshake.client(web_tls, orders_tls.svid.id)
        server = Handshake.server(orders_tls)
        wire = shake(client, server)
        assert client.done
        assert server.done
        assert client.peer.id == orders_tls.svid.id
        assert server.peer.id == web_tls.svid.id
        assert client.read() == PARAMETERS
        assert client.read() == b""
        assert client.keys == server.keys
        assert len(wire) == 4
        assert sum(map(len, wire)) < 5000
        sessions.append(client.keys)
    secrets = [part for keys in sessions for part in (keys.client_key, keys.server_key)]
    assert len(set(secrets)) == 4
    assert [len(part) for part in secrets] == [32] * 4
    assert {len(keys.client_iv) for keys in sessions} == {len(keys.server_iv) for keys in sessions} == {12}


def test_keys_are_cut_from_the_exporter_in_the_order_of_the_wire() -> None:
    keys = SessionKeys.split(bytes(range(88)))
    assert keys.client_key + keys.client_iv + keys.server_key + keys.server_iv == bytes(range(88))


def test_key_exchange_withstands_a_quantum_computer(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    client, server = Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)
    assert client.group == ""
    shake(client, server)
    assert client.group == server.group == "X25519MLKEM768"


def test_wiretap_sees_no_names(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    wire = b"".join(shake(Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)))
    for secret in (b"orders", b"web", b"spiffe", PARAMETERS, orders_tls.svid.der[:40], b"busmesh"):
        assert secret not in wire


def test_application_data_flows_both_ways(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    client, server = Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)
    hello = client.feed(b"", NOW)
    finished = client.feed(server.feed(hello, NOW), NOW) + client.write(b"early")
    reply = server.feed(finished, NOW) + server.write(b"one") + server.write(b"two")
    assert server.read() == b"early"
    client.feed(reply, NOW)
    assert client.read() == b"onetwo"
    for wrong in (b"", bytes(16 * 1024 + 1)):
        with pytest.raises(UsageError, match="BM4401"):
            client.write(wrong)


def test_nothing_is_to_be_had_before_the_end(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    client = Handshake.client(web_tls, orders_tls.svid.id)
    client.feed(b"", NOW)
    for ask in (lambda: client.keys, lambda: client.peer, client.read, lambda: client.write(b"x")):
        with pytest.raises(UsageError, match="BM4401"):
            ask()
    assert repr(client) == "<Handshake client shaking with nobody yet, 1 messages, 0 B received>"


@pytest.mark.parametrize(
    ("expect", "admitted"),
    [
        (workload("orders"), True),
        (workload("orders", "orders-1"), False),
        (workload("payments", "orders-0"), False),
        (lambda peer: peer.service is not None, True),
        (lambda peer: bool(peer.operator), False),
    ],
)
def test_client_goes_on_only_with_whom_it_expects(
    web_tls: TlsContext, orders_tls: TlsContext, expect: Expect, admitted: bool
) -> None:
    client, server = Handshake.client(web_tls, expect), Handshake.server(orders_tls)
    flight = server.feed(client.feed(b"", NOW), NOW)
    if admitted:
        client.feed(flight, NOW)
        assert client.peer.id == workload("orders")
    else:
        text = refused(client, flight, IdentityError, "BM4406")
        assert str(workload("orders")) in text
        refused(server, client.alert, IdentityError, "BM4405")


def test_server_may_expect_somebody_too(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    client = Handshake.client(web_tls, orders_tls.svid.id)
    server = Handshake.server(orders_tls, lambda peer: bool(peer.operator))
    finished = client.feed(server.feed(client.feed(b"", NOW), NOW), NOW)
    refused(server, finished, IdentityError, "BM4406")
    client.feed(server.alert, NOW)
    with pytest.raises(
        IdentityError, match="BM4405"
    ):  # the client is done, but learns it with the first data
        client.read()
    assert not client.done


def test_operator_may_call_but_not_answer(ca: CertificateAuthority, orders_tls: TlsContext) -> None:
    ann = TlsContext(ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW), Verifier(ca.bundle))
    client, server = Handshake.client(ann, orders_tls.svid.id), Handshake.server(orders_tls)
    shake(client, server)
    assert server.peer.id.operator == "ann"
    client, server = Handshake.client(orders_tls, lambda _: True), Handshake.server(ann)
    refused(client, server.feed(client.feed(b"", NOW), NOW), IdentityError, "BM4007")


Make = Callable[[CertificateAuthority, CertificateAuthority], Svid]

BAD_SVIDS: dict[str, tuple[str, Make]] = {
    "another mesh": (
        "BM4004",
        lambda ca, other: svid(CertificateAuthority.create("elsewhere", NOW), "orders"),
    ),
    "another root": ("BM4005", lambda ca, other: svid(other, "orders")),
    "expired": ("BM4006", lambda ca, other: svid(ca, "orders", now=NOW - 7200)),
    "not yet valid": ("BM4006", lambda ca, other: svid(ca, "orders", now=NOW + 7200)),
    "outside the profile": ("BM4003", lambda ca, other: _with(ca, {"extended": None})),
    "authority's own": (
        "BM4003",
        lambda ca, other: Svid(workload(), ca.certificate, ca.private_key, b"", NOW, NOW, ""),
    ),
}


def _with(ca: CertificateAuthority, change: dict[str, tuple[x509.ExtensionType, bool] | None]) -> Svid:
    key = ec.generate_private_key(ec.SECP256R1())
    return Svid.of(forge(ca, change=change, key=key.public_key()), key)


@pytest.mark.parametrize("defect", BAD_SVIDS)
def test_bad_client_is_refused(
    ca: CertificateAuthority, other_ca: CertificateAuthority, orders_tls: TlsContext, defect: str
) -> None:
    code, make = BAD_SVIDS[defect]
    bad = make(ca, other_ca)
    stranger = Stranger(certificate=bad.certificate, key=bad.private_key, chain=(other_ca.certificate,))
    server = Handshake.server(orders_tls)
    finished = stranger.step(server.feed(stranger.step(), NOW))
    refused(server, finished, IdentityError, code)


@pytest.mark.parametrize("defect", BAD_SVIDS)
def test_bad_server_is_refused_before_the_client_shows_itself(
    ca: CertificateAuthority, other_ca: CertificateAuthority, web_tls: TlsContext, defect: str
) -> None:
    code, make = BAD_SVIDS[defect]
    bad = make(ca, other_ca)
    stranger = Stranger(certificate=bad.certificate, key=bad.private_key, server=True)
    client = Handshake.client(web_tls, workload("orders"))
    flight = stranger.step(client.feed(b"", NOW))
    refused(client, flight, IdentityError, code)
    with pytest.raises(SSL.Error):
        stranger.step(client.alert)
    assert stranger.connection.get_peer_certificate() is None


def test_client_without_a_certificate_is_refused(orders_tls: TlsContext) -> None:
    stranger, server = Stranger(), Handshake.server(orders_tls)
    finished = stranger.step(server.feed(stranger.step(), NOW))
    refused(server, finished, IdentityError, "BM4404")


def test_client_without_tls_13_is_refused(orders_tls: TlsContext) -> None:
    hello = Stranger(newest=SSL.TLS1_2_VERSION).step()
    text = refused(Handshake.server(orders_tls), hello, RemoteProtocolError, "BM4403")
    assert "does not speak TLS 1.3" in text


def test_client_with_another_cipher_is_refused(orders_tls: TlsContext) -> None:
    hello = Stranger(ciphers=b"TLS_AES_128_GCM_SHA256").step()
    refused(Handshake.server(orders_tls), hello, RemoteProtocolError, "BM4403")


def test_weaker_server_is_refused(web_tls: TlsContext, orders: Svid) -> None:
    client = Handshake.client(web_tls, orders.id)
    stranger = Stranger(
        certificate=orders.certificate, key=orders.private_key, newest=SSL.TLS1_2_VERSION, server=True
    )
    stranger.connection.bio_write(client.feed(b"", NOW))
    with pytest.raises(SSL.Error):
        stranger.connection.do_handshake()
    refused(client, stranger.connection.bio_read(MAX_BYTES), RemoteProtocolError, "BM4403")


@pytest.mark.parametrize(
    "junk",
    [
        b"x",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(2000),
        b"\x16\x03\x01\x00\x05hello",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ],
)
def test_junk_is_refused_by_both_sides(web_tls: TlsContext, orders_tls: TlsContext, junk: bytes) -> None:
    refused(Handshake.server(orders_tls), junk, RemoteProtocolError, "BM4403")
    client = Handshake.client(web_tls, orders_tls.svid.id)
    client.feed(b"", NOW)
    refused(client, junk, RemoteProtocolError, "BM4403")


def test_server_does_not_begin(orders_tls: TlsContext) -> None:
    refused(Handshake.server(orders_tls), b"", RemoteProtocolError, "BM4403")


def test_truncated_message_is_refused_at_once(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    client, server = Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)
    hello = client.feed(b"", NOW)
    refused(Handshake.server(orders_tls), hello[:-1], RemoteProtocolError, "BM4403")
    flight = server.feed(hello, NOW)
    finished = client.feed(flight, NOW)
    refused(server, finished[:-1], RemoteProtocolError, "BM4403")
    client = Handshake.client(web_tls, orders_tls.svid.id)
    refused(client, flight_for(client, orders_tls)[:-1], RemoteProtocolError, "BM4403")


def flight_for(client: Handshake, tls: TlsContext) -> bytes:
    return Handshake.server(tls).feed(client.feed(b"", NOW), NOW)


def test_replayed_messages_open_nothing(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    recorded = shake(Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls))
    hello, flight, finished, _ = recorded

    server = Handshake.server(orders_tls)
    assert server.feed(hello, NOW) != flight  # a replayed hello gets a fresh flight,
    refused(server, finished, RemoteProtocolError, "BM4403")  # which the recorded answer does not fit

    client = Handshake.client(web_tls, orders_tls.svid.id)
    client.feed(b"", NOW)
    refused(client, flight, RemoteProtocolError, "BM4403")

    server = Handshake.server(orders_tls)
    server.feed(hello, NOW)
    refused(server, hello, RemoteProtocolError, "BM4403")

    client = Handshake.client(web_tls, orders_tls.svid.id)
    refused(client, client.feed(b"", NOW), RemoteProtocolError, "BM4403")  # reflected


@pytest.mark.parametrize("message", [0, 1, 2])
def test_altered_byte_never_makes_a_different_session(
    web_tls: TlsContext, orders_tls: TlsContext, message: int
) -> None:
    """TLS ignores a few header bytes; whatever is altered, it fails or changes nothing."""
    size = len(shake(Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls))[message])
    failed = 0
    positions = range(message, size, 23)
    for position in positions:
        client, server = Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)
        data = b""
        try:
            for step in range(3):
                data = (server if step % 2 else client).feed(data, NOW)
                if step == message:
                    flipped = bytearray(data)
                    flipped[min(position, len(data) - 1)] ^= 0x40
                    data = bytes(flipped)
            server.feed(data, NOW)
        except BusmeshError:
            failed += 1
        else:
            assert client.keys == server.keys
            assert (client.peer.id, server.peer.id) == (orders_tls.svid.id, web_tls.svid.id)
    assert failed >= len(positions) * 0.9


def test_input_is_bounded(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    server = Handshake.server(orders_tls)
    refused(server, bytes(MAX_BYTES + 1), RemoteProtocolError, "BM4402")
    client, server = Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)
    shake(client, server)
    for _ in range(13):  # after the three messages of the handshake
        client.feed(server.write(b"x"), NOW)
    refused(client, server.write(b"x"), RemoteProtocolError, "BM4402")


def test_altered_application_data_is_refused(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    client, server = Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)
    shake(client, server)
    client.read()
    record = bytearray(server.write(b"parameters"))
    record[-1] ^= 1
    client.feed(bytes(record), NOW)
    with pytest.raises(RemoteProtocolError, match="BM4403"):
        client.read()
    assert not client.done


def test_session_is_never_resumed(orders_tls: TlsContext, web: Svid) -> None:
    """A client that kept the server's ticket gets a full handshake all the same."""
    keeper = Stranger(certificate=web.certificate, key=web.private_key)
    server = Handshake.server(orders_tls)
    flight = server.feed(keeper.step(), NOW)
    keeper.connection.bio_write(server.feed(keeper.step(flight), NOW) + server.write(b"x"))
    assert keeper.connection.recv(10) == b"x"
    ticket = keeper.connection.get_session()
    assert ticket is not None

    keeper.again().set_session(ticket)
    server = Handshake.server(orders_tls)
    hello = keeper.step()
    assert b"\x00\x29" in hello  # the extension pre_shared_key (RFC 8446 section 4.2.11): it does try
    full = server.feed(hello, NOW)
    assert len(full) > len(flight) - 20  # with certificate and certificate request
    server.feed(keeper.step(full), NOW)
    assert server.peer.id == web.id


def test_certificate_that_expires_during_the_handshake_is_refused(
    web_tls: TlsContext, orders_tls: TlsContext
) -> None:
    client, server = Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)
    finished = client.feed(server.feed(client.feed(b"", NOW), NOW), NOW)
    refused(server, finished, IdentityError, "BM4006", now=NOW + 7200)


def test_bundle_may_change_while_the_context_lives(
    ca: CertificateAuthority, other_ca: CertificateAuthority, web: Svid, orders: Svid
) -> None:
    verifier = Verifier(ca.bundle)
    tls, peer = TlsContext(web, verifier), TlsContext(orders, Verifier(ca.bundle))
    shake(Handshake.client(tls, orders.id), Handshake.server(peer))
    verifier.trust(other_ca.bundle)
    client = Handshake.client(tls, orders.id)
    refused(client, flight_for(client, peer), IdentityError, "BM4005")


def test_abandoned_handshakes_leave_nothing(web_tls: TlsContext, orders_tls: TlsContext) -> None:
    """Their memory is OpenSSL's, unseen by Python's collector: it must go with the last reference."""

    def connections() -> int:
        return len(SSL.Connection._reverse_mapping)

    gc.collect()
    gc.disable()
    try:
        before = connections()
        for _ in range(5):
            client, server = Handshake.client(web_tls, orders_tls.svid.id), Handshake.server(orders_tls)
            server.feed(client.feed(b"", NOW), NOW)
            with pytest.raises(RemoteProtocolError):
                client.feed(b"junk", NOW)
        del client, server
        assert connections() == before
    finally:
        gc.enable()


_CA = CertificateAuthority.create(MESH, NOW)
_TLS = TlsContext(svid(_CA, "orders"), Verifier(_CA.bundle))
_HELLO = Handshake.client(_TLS, workload()).feed(b"", NOW)


@settings(max_examples=200)
@given(
    st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda body: b"\x16\x03\x03" + len(body).to_bytes(2, "big") + body)
    | st.tuples(st.integers(0, len(_HELLO) - 1), st.binary(min_size=1, max_size=4)).map(
        lambda cut: _HELLO[: cut[0]] + cut[1] + _HELLO[cut[0] + len(cut[1]) :]
    )
)
def test_arbitrary_messages_raise_typed_errors_only(data: bytes) -> None:
    server = Handshake.server(_TLS)
    with contextlib.suppress(BusmeshError):
        server.feed(data, NOW)
    assert not server.done
    client = Handshake.client(_TLS, workload())
    client.feed(b"", NOW)
    with pytest.raises(BusmeshError):
        client.feed(data, NOW)
