"""The mutual TLS 1.3 handshake between two agents, its flights carried as bus messages.

OpenSSL does the key exchange (X25519MLKEM768 by default, so traffic recorded today stays closed to a quantum
computer). The session keys come from the TLS exporter (RFC 8446 section 7.5), as DTLS-SRTP takes them
(RFC 5764). Who the peer is, busmesh decides alone: OpenSSL is given no roots, and `Verifier` replaces its
verdict, before a client shows its own certificate and once more before the session counts.

Each flight is one message, so the whole is: client hello, server flight, client flight, and then the server's
tickets (which resume nothing: nobody keeps them) together with its first application data. The client must
wait for that data: only then is it sure that the server accepted its certificate.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from busmesh.errors import BusmeshError, IdentityError, RemoteProtocolError, UsageError
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Purpose, Verified, Verifier
from busmesh.names import SpiffeId

EXPORTER_LABEL = b"EXPORTER-busmesh session v1"
_KEY, _IV = 32, 12
_CIPHER = b"TLS_AES_256_GCM_SHA384"
#: A handshake takes about 4.2 KiB in four messages; the rest is room for what comes after it.
MAX_BYTES = 64 * 1024
MAX_MESSAGES = 16
#: One TLS record (RFC 8446 section 5.1).
_MAX_WRITE = 16 * 1024

_RENEW = "its trust bundle lacks our root, or its clock differs"

#: Whom this side expects: one identity, or a decision about it.
Expect = SpiffeId | Callable[[SpiffeId], bool]


class State(Enum):
    """A handshake goes on until it is done or failed; a failed one stays so."""

    SHAKING = "shaking"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """AES-256-GCM keys and IVs, one pair for each direction; named after who sends with them."""

    client_key: bytes = field(repr=False)
    client_iv: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    server_iv: bytes = field(repr=False)

    @classmethod
    def split(cls, material: bytes) -> SessionKeys:
        """Cut the exporter's 88 bytes: client key, client IV, server key, server IV."""
        half = _KEY + _IV
        client, server = material[:half], material[half : 2 * half]
        return cls(client[:_KEY], client[_KEY:], server[:_KEY], server[_KEY:])


class TlsContext:
    """What all handshakes of one SVID share; built once per SVID, because that costs as much as a flight.

    Args:
        svid: our own.
        verifier: decides whom to believe. Its bundle may change while the context lives.
    """

    def __init__(self, svid: Svid, verifier: Verifier) -> None:
        self.svid = svid
        self.verifier = verifier
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_max_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(_CIPHER)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # 17 KiB less for each handshake that waits for its peer
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _on_certificate)
        context.use_certificate(svid.certificate)
        context.use_privatekey(svid.private_key)
        self._context = context

    def __repr__(self) -> str:
        return f"<TlsContext of {self.svid.id}>"

    def connection(self) -> SSL.Connection:
        """Return a fresh TLS connection on memory buffers."""
        return SSL.Connection(self._context)


class Handshake:
    """One handshake, seen from one side; bytes in, bytes out.

    A client begins with ``feed(b"", now)``. Then each message from the peer goes into `feed`, and what that
    returns goes to the peer, until `done`. A failure raises; `alert` then holds what may be told to the peer.
    """

    def __init__(self, context: TlsContext, expect: Expect | None, *, server: bool) -> None:
        self._verifier = context.verifier
        self._expect = expect
        self._server = server
        self._purpose = Purpose.TLS_CLIENT if server else Purpose.TLS_SERVER
        self._connection = context.connection()
        # Weak, or each handshake would be a cycle around 50 KiB that the collector does not see.
        self._connection.set_app_data(weakref.ref(self))
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self._state = State.SHAKING
        self._now = 0.0
        self._bytes_in = self._messages_in = 0
        self._refusal: BusmeshError | None = None
        self._peer: Verified | None = None
        self._keys: SessionKeys | None = None
        self._group = ""
        self.alert = b""

    @classmethod
    def client(cls, context: TlsContext, expect: Expect) -> Handshake:
        """Return the calling side; it goes on only with a server that ``expect`` admits."""
        return cls(context, expect, server=False)

    @classmethod
    def server(cls, context: TlsContext, expect: Expect | None = None) -> Handshake:
        """Return the answering side; it takes any member of the mesh unless ``expect`` says less."""
        return cls(context, expect, server=True)

    def __repr__(self) -> str:
        role = "server" if self._server else "client"
        peer = self._peer.id if self._peer and self.done else "nobody yet"
        received = f"{self._messages_in} messages, {self._bytes_in} B received"
        return f"<Handshake {role} {self._state.value} with {peer}, {received}>"

    @property
    def done(self) -> bool:
        """Whether the peer is proven and the keys are there."""
        return self._state is State.DONE

    @property
    def peer(self) -> Verified:
        """Who is at the other end.

        Raises:
            UsageError: not done yet (code BM4401).
        """
        if not self.done or self._peer is None:
            raise self._too_early()
        return self._peer

    @property
    def keys(self) -> SessionKeys:
        """The session's keys.

        Raises:
            UsageError: not done yet (code BM4401).
        """
        if not self.done or self._keys is None:
            raise self._too_early()
        return self._keys

    @property
    def group(self) -> str:
        """The key exchange that was agreed on, such as ``X25519MLKEM768``; empty until done."""
        return self._group

    def feed(self, data: bytes, now: float) -> bytes:
        """Take one message of the peer and return what to send next, which may be nothing.

        Args:
            data: a whole flight; empty only to begin as client.
            now: unix seconds.

        Raises:
            RemoteProtocolError: over 64 KiB or 16 messages (code BM4402), or not the flight that TLS 1.3 has
                next, cut off and replayed ones included (BM4403).
            IdentityError: the peer showed no certificate (BM4404), refused ours (BM4405), is not whom we
                expected (BM4406), or shows one that does not verify (BM4003 to BM4007).
            UsageError: the handshake has failed before (BM4401).
        """
        self._count(data)
        self._now = now
        try:
            if data:
                self._connection.bio_write(data)
            if self._state is State.SHAKING:
                self._connection.do_handshake()
                self._finish()
        except SSL.WantReadError:
            output = self._outgoing()
            if not output:  # a flight is one message: half a flight will never be completed
                raise self._fail(
                    RemoteProtocolError("a handshake message is cut off or out of turn", code="BM4403")
                ) from None
            return output
        except SSL.Error as error:
            raise self._fail(self._refusal or _explained(error)) from None
        except BusmeshError as error:
            raise self._fail(error) from None
        return self._outgoing()

    def write(self, data: bytes) -> bytes:
        """Return ``data`` (1 byte to 16 KiB) as TLS application data, to be sent after what `feed` returned.

        Raises:
            UsageError: not done, or no such size (code BM4401).
        """
        if not self.done:
            raise self._too_early()
        if not 0 < len(data) <= _MAX_WRITE:
            raise UsageError(f"{len(data)} bytes are not 1 to {_MAX_WRITE}", code="BM4401")
        self._connection.send(data)
        return self._outgoing()

    def read(self) -> bytes:
        """Return the application data that came so far; empty if none did.

        Raises:
            UsageError: not done (code BM4401).
            RemoteProtocolError: what came was altered, or the peer closed (code BM4403).
            IdentityError: the peer refused our certificate after all (code BM4405).
        """
        if not self.done:
            raise self._too_early()
        received = bytearray()
        try:
            while True:
                received += self._connection.recv(_MAX_WRITE)
        except SSL.WantReadError:
            return bytes(received)
        except SSL.Error as error:
            raise self._fail(_explained(error)) from None

    def _count(self, data: bytes) -> None:
        if self._state is State.FAILED:
            raise self._too_early()
        self._bytes_in += len(data)
        self._messages_in += 1
        if self._bytes_in > MAX_BYTES or self._messages_in > MAX_MESSAGES:
            raise self._fail(RemoteProtocolError("the handshake is too long", code="BM4402"))

    def _admit(self, der: bytes) -> Verified:
        """Return whom the peer's certificate names, if we go on with them."""
        verified = self._verifier.certificate(der, self._now, purpose=self._purpose)
        expect = self._expect
        if expect is None:
            return verified
        if not (verified.id == expect if isinstance(expect, SpiffeId) else expect(verified.id)):
            wanted = f"{expect} was expected" if isinstance(expect, SpiffeId) else "another was expected"
            raise IdentityError(f"the peer is {verified.id}, {wanted}", code="BM4406")
        return verified

    def _finish(self) -> None:
        connection = self._connection
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise IdentityError("the peer showed no certificate", code="BM4404")
        self._peer = self._admit(certificate.public_bytes(serialization.Encoding.DER))
        material = connection.export_keying_material(EXPORTER_LABEL, 2 * (_KEY + _IV), b"")
        self._keys = SessionKeys.split(material)
        self._group = connection.get_group_name() or ""
        self._state = State.DONE

    def _outgoing(self) -> bytes:
        try:
            return self._connection.bio_read(MAX_BYTES)
        except SSL.WantReadError:
            return b""

    def _fail(self, error: BusmeshError) -> BusmeshError:
        self.alert = self._outgoing()
        self._state = State.FAILED
        self._peer = self._keys = None
        return error

    def _too_early(self) -> UsageError:
        return UsageError(f"not possible while the handshake is {self._state.value}", code="BM4401")


def _on_certificate(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, accepted: int
) -> bool:
    """Decide in OpenSSL's stead: it calls this with each of its findings; ours, on the leaf, counts."""
    handshake: Handshake | None = connection.get_app_data()()
    if handshake is None:
        return False
    if depth > 0 or handshake._peer is not None:
        return True
    try:
        leaf = certificate.to_cryptography().public_bytes(serialization.Encoding.DER)
        handshake._peer = handshake._admit(leaf)
    except BusmeshError as refusal:
        handshake._refusal = refusal
        return False
    return True


class _Fault(NamedTuple):
    """What OpenSSL calls a failure, and what it means between two agents."""

    words: str
    error: type[BusmeshError]
    code: str
    message: str
    hint: str = ""


#: The first whose words occur in OpenSSL's reasons counts.
_FAULTS = (
    _Fault("did not return a certificate", IdentityError, "BM4404", "the peer showed no certificate"),
    _Fault("alert unknown ca", IdentityError, "BM4405", "the peer refused our certificate", _RENEW),
    _Fault("alert bad certificate", IdentityError, "BM4405", "the peer refused our certificate", _RENEW),
    _Fault("alert certificate", IdentityError, "BM4405", "the peer refused our certificate", _RENEW),
    _Fault("protocol version", RemoteProtocolError, "BM4403", "the peer does not speak TLS 1.3"),
    _Fault("unsupported protocol", RemoteProtocolError, "BM4403", "the peer does not speak TLS 1.3"),
    _Fault("", RemoteProtocolError, "BM4403", "a message is not what TLS 1.3 has next"),
)


def _explained(error: SSL.Error) -> BusmeshError:
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    text = ", ".join(reason for _, _, reason in reasons) or type(error).__name__
    fault = next(fault for fault in _FAULTS if fault.words in text)
    return fault.error(f"handshake failed: {fault.message} ({text})", code=fault.code, hint=fault.hint)
