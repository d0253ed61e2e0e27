"""Decoders of what proves who somebody is: certificates, enrolment, roots, revocations, handshakes."""

from __future__ import annotations

import hashlib

import msgpack

from busmesh.bus.nkeys import KeyPair, Role
from busmesh.errors import IdentityError, RemoteProtocolError
from busmesh.identity import busproof
from busmesh.identity.ca import requested_key
from busmesh.identity.drill import PURPOSE as DRILL
from busmesh.identity.drill import open_drill
from busmesh.identity.enrol import Answer, Enrolment, SeenNonces, answer
from busmesh.identity.fields import pack
from busmesh.identity.handshake import Handshake
from busmesh.identity.jointoken import REPLY, REQUEST, Grant, JoinToken
from busmesh.identity.renew import Renewal, answer_renewal
from busmesh.identity.revocation import Revocation
from busmesh.identity.rooted import seal_rooted
from busmesh.identity.scope import Scope
from busmesh.identity.shutout import PURPOSE as SHUT_OUT
from busmesh.identity.shutout import open_answer
from busmesh.identity.svid import Svid
from busmesh.identity.trust import RetiredRoot, TrustBundle
from busmesh.identity.trustlog import BUNDLE, MAX_ENTRY, REVOCATION, TrustState
from busmesh.identity.verify import Purpose, Verifier
from busmesh.names import SpiffeId
from tests.decoders import world
from tests.decoders.decoder import Decoder
from tests.decoders.world import AUTHORITY, CA, KEY, MESH, NOW, OPERATOR, ORDERS_SVID, VERIFIER

REFUSED = (RemoteProtocolError, IdentityError)
TOKEN = JoinToken.generate(MESH)
_ID = SpiffeId.workload(MESH, world.ORDERS, "orders-0")
_BUS_KEY = KeyPair.generate(Role.USER)
_PROVEN = busproof.prove(_BUS_KEY, _ID, world.REQUEST)
_PROVEN_BY_MEMBER = busproof.prove(_BUS_KEY, ORDERS_SVID.id, world.REQUEST)
_ENROLMENT = Enrolment(TOKEN, _ID, KEY, NOW, bus_key=_BUS_KEY)
_RENEWAL = Renewal(ORDERS_SVID, KEY, NOW, bus_key=_BUS_KEY)


def _enrol(request: bytes) -> object:
    answered = answer(request, {TOKEN.id: Grant(TOKEN)}, CA, NOW, SeenNonces())
    assert isinstance(answered, Answer)
    return answered.id if answered.refusal is None else None


def _maced_request(body: bytes) -> bytes:
    """Return the request of who holds a token: ``body`` is ID, time, nonce, signing request and bus key."""
    try:
        wanted, time_ms, nonce, *keys = msgpack.unpackb(body)
        mac = TOKEN.mac(REQUEST, TOKEN.id.encode(), wanted, time_ms.to_bytes(8), nonce, *keys)
        return pack(TOKEN.id.encode(), wanted, time_ms, nonce, *keys, mac)
    except (ValueError, TypeError, AttributeError, OverflowError, msgpack.UnpackException):
        return body


def _maced_reply(body: bytes) -> bytes:
    """Return the answer of who knows the token: ``body`` is status, certificate, roots and login."""
    try:
        status, certificate, roots, login = msgpack.unpackb(body)
        mac = TOKEN.mac(REPLY, _ENROLMENT._nonce, status.to_bytes(8), certificate, roots, login)
        return pack(status, certificate, roots, login, mac)
    except (ValueError, TypeError, AttributeError, OverflowError, msgpack.UnpackException):
        return body


def _renew(request: bytes) -> object:
    answered = answer_renewal(request, CA, AUTHORITY, VERIFIER, NOW)
    return answered.id if answered.refusal is None else None


def _trust(entry: bytes) -> object:
    return TrustState(Verifier(CA.bundle)).take(entry, NOW)


def _next_bundle() -> bytes:
    other = CA.create(MESH, NOW).certificate
    retired = (RetiredRoot(CA.create(MESH, NOW).certificate, 3, "a" * 64),)
    return TrustBundle(MESH, (CA.certificate, other), CA.bundle.version + 1, retired).to_pem()


_NEXT_BUNDLE = _next_bundle()
_REVOKED = Revocation(str(_ID), 0, int(NOW * 1000), int(NOW * 1000) + 10**6, 7, "stolen").encode()
_SERVICE_REVOKED = Revocation(
    f"spiffe://{MESH}/ns/default/svc/orders", 0, int(NOW * 1000), int(NOW * 1000) + 10**6
).encode()


# -- TLS -----------------------------------------------------------------------------------------------


def _hello() -> bytes:
    return Handshake.client(world.identity().tls, _ID).feed(b"", NOW)


_SERVER, _CLIENT = world.identity(ORDERS_SVID).tls, world.identity().tls


def _take_hello(data: bytes) -> object:
    return Handshake.server(_SERVER).feed(data, NOW) or None


class _Flight:
    """A client that waits for the server's flight; a body is a change of that flight."""

    def __init__(self) -> None:
        self._client = Handshake.client(_CLIENT, _ID)

    def wrap(self, change: bytes) -> bytes:
        """Return the flight with ``change`` written over it, from the place that its first bytes name."""
        self._client = Handshake.client(_CLIENT, _ID)
        flight = Handshake.server(_SERVER).feed(self._client.feed(b"", NOW), NOW)
        at = int.from_bytes(change[:2]) % len(flight)
        return flight[:at] + change[2:] + flight[at + len(change[2:]) :]

    def read(self, data: bytes) -> object:
        client, self._client = self._client, Handshake.client(_CLIENT, _ID)
        self._client.feed(b"", NOW)
        return client.feed(data, NOW) or None


class _Finish:
    """A server that waits for the client's certificate, and what comes with and after it."""

    def __init__(self) -> None:
        self._server = Handshake.server(_SERVER)

    def wrap(self, body: bytes) -> bytes:
        """Return the client's last flight, with ``body`` as application data behind it."""
        client, self._server = Handshake.client(_CLIENT, _ID), Handshake.server(_SERVER)
        last = client.feed(self._server.feed(client.feed(b"", NOW), NOW), NOW)
        return last + b"".join(client.write(body[at : at + 16000]) for at in range(0, len(body), 16000))

    def read(self, data: bytes) -> object:
        server, self._server = self._server, Handshake.server(_SERVER)
        self._server.feed(_hello(), NOW)
        server.feed(data, NOW)
        return server.read() if server.done else None


_FLIGHT, _FINISH = _Flight(), _Finish()


def _certificate(der: bytes) -> object:
    return Verifier(CA.bundle).certificate(der, NOW, purpose=Purpose.TLS_CLIENT)


IDENTITIES = [
    Decoder(
        "certificate",
        _certificate,
        (world.CERTIFICATE, OPERATOR.certificate.tbs_certificate_bytes),
        ("identity.verify:_read", "identity.verify:_scope"),
        world.by_root,
        refuses=(IdentityError,),
        cap=4096,
    ),
    Decoder(
        "certificate that is one's own",
        lambda der: Svid.of(der, KEY),
        (CA.issue(_ID, KEY.public_key(), NOW),),
        ("identity.svid:Svid.of",),
        refuses=(IdentityError,),
        cap=4096,
    ),
    Decoder(
        "signing request",
        requested_key,
        (world.SIGNING_REQUEST,),
        ("identity.ca:requested_key",),
        world.by_key,
        refuses=(IdentityError,),
        cap=4096,
    ),
    Decoder(
        "scope",
        Scope.from_der,
        (Scope(frozenset({"shop"}), frozenset({"Route"})).to_der(), Scope().to_der()),
        ("identity.scope:Scope.from_der",),
        refuses=(ValueError,),
    ),
    Decoder(
        "trust bundle",
        lambda pem: TrustBundle.from_pem(pem, MESH),
        (CA.bundle.to_pem(), _NEXT_BUNDLE),
        ("identity.trust:TrustBundle.from_pem", "identity.trust:_read_retired"),
        refuses=(IdentityError,),
    ),
    Decoder(
        "entry of the trust log: a bundle",
        _trust,
        (_NEXT_BUNDLE,),
        ("identity.trustlog:open_entry", "identity.rooted:open_rooted"),
        lambda body: pack(1, seal_rooted(CA, BUNDLE, body, NOW)),
        refuses=REFUSED,
        cap=MAX_ENTRY,
    ),
    Decoder(
        "entry of the trust log: a revocation by an operator",
        _trust,
        (_REVOKED, _SERVICE_REVOKED),
        ("identity.trustlog:open_entry", "identity.revocation:Revocation.decode"),
        lambda body: pack(2, world.signed(OPERATOR, REVOCATION)(body)),
        "msgpack",
        REFUSED,
        MAX_ENTRY,
    ),
    Decoder(
        "entry of the trust log: a revocation by the root",
        _trust,
        (_REVOKED, _SERVICE_REVOKED),
        ("identity.trustlog:open_entry", "identity.revocation:Revocation.decode"),
        lambda body: pack(3, seal_rooted(CA, REVOCATION, body, NOW)),
        "msgpack",
        REFUSED,
        MAX_ENTRY,
    ),
    Decoder(
        "drill",
        lambda data: open_drill(data, VERIFIER, NOW),
        (pack(1000), pack(0)),
        ("identity.drill:open_drill",),
        world.signed(OPERATOR, DRILL),
        "msgpack",
        REFUSED,
    ),
    Decoder(
        "question about a revocation",
        lambda body: Revocation.decode(body, MESH),
        (_REVOKED, _SERVICE_REVOKED),
        (),
        form="msgpack",
        refuses=(RemoteProtocolError,),
    ),
    Decoder(
        "answer about a revocation",
        lambda answer: open_answer(answer, b"question", VERIFIER, NOW),
        (pack(hashlib.sha256(b"question").digest(), 2, 1, b"why"),),
        ("identity.shutout:open_answer",),
        world.signed(AUTHORITY, SHUT_OUT),
        "msgpack",
        REFUSED,
    ),
    Decoder(
        "enrolment request",
        _enrol,
        (msgpack.packb([str(_ID).encode(), int(NOW * 1000), bytes(16), world.REQUEST, *_PROVEN]),),
        ("identity.enrol:answer",),
        _maced_request,
        "msgpack",
    ),
    Decoder(
        "answer to an enrolment",
        lambda reply: _ENROLMENT.finish(reply, NOW),
        (msgpack.packb([1, CA.issue(_ID, KEY.public_key(), NOW), CA.bundle.to_pem(), b"a.b.c"]),),
        ("identity.enrol:Enrolment.finish",),
        _maced_reply,
        "msgpack",
        REFUSED,
    ),
    Decoder(
        "renewal request",
        _renew,
        (pack(world.REQUEST, *_PROVEN_BY_MEMBER), pack(world.REQUEST, b"", b"")),
        ("identity.renew:answer_renewal",),
        world.signed(ORDERS_SVID, "renew"),
        "msgpack",
    ),
    Decoder(
        "answer to a renewal",
        lambda reply: _RENEWAL.finish(reply, VERIFIER, NOW),
        (
            pack(
                hashlib.sha256(_RENEWAL.request()).digest(),
                CA.issue(_ID, KEY.public_key(), NOW),
                CA.bundle.to_pem(),
                b"a.b.c",
            ),
        ),
        ("identity.renew:Renewal.finish",),
        world.signed(AUTHORITY, "renewed"),
        "msgpack",
        REFUSED,
    ),
    Decoder(
        "TLS: client hello",
        _take_hello,
        (_hello(),),
        ("identity.handshake:Handshake.feed",),
        refuses=REFUSED,
    ),
    Decoder(
        "TLS: the server's flight",
        _FLIGHT.read,
        (b"\0\0",),
        ("identity.handshake:Handshake.feed",),
        _FLIGHT.wrap,
        refuses=REFUSED,
    ),
    Decoder(
        "TLS: the client's certificate and data",
        _FINISH.read,
        (b"\x81\xa6worker\x01", b"abc"),
        ("identity.handshake:Handshake.feed", "identity.handshake:Handshake.read"),
        _FINISH.wrap,
        refuses=REFUSED,
    ),
]
