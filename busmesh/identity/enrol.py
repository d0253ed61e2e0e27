"""Enrolment: how a newcomer that holds a join token gets its SVID and learns the mesh's roots.

One request, one reply. The request's MAC proves that the newcomer holds the token. The reply's MAC covers the
request's nonce, the certificate and the roots: it proves the same of the authority, and a root that somebody
slipped in on the way is noticed although the newcomer has never seen the true one.
"""

from __future__ import annotations

import hmac
import math
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from busmesh.bus.nkeys import KEY_BYTES, KeyPair
from busmesh.errors import BusmeshError, IdentityError, InvalidName, UsageError
from busmesh.identity import busproof
from busmesh.identity.ca import CertificateAuthority, requested_key
from busmesh.identity.fields import FieldReader, pack
from busmesh.identity.jointoken import MAC_BYTES, REPLY, REQUEST, Grant, JoinToken
from busmesh.identity.profile import BACKDATE_S, LIFETIME_S, MAX_CERTIFICATE, MAX_SIGNING_REQUEST, Kind
from busmesh.identity.svid import Svid, signing_request
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier, verify_certificate
from busmesh.names import SpiffeId

MAX_REQUEST = 4096
#: A login to the bus has about 1.5 KiB.
MAX_LOGIN = 8192
MAX_REPLY = 64 * 1024
#: A request is accepted this long before and after its own time, and remembered as long.
REPLAY_WINDOW_S = 60.0
_NONCE_BYTES = 16
_REFUSED, _GRANTED = 0, 1


class Refusal(StrEnum):
    """Why the authority said no. All but the first are told only to who proved to hold the token."""

    DENIED = "denied"
    CLOCK = "clock"
    REPLAYED = "replayed"
    BUSY = "busy"
    EXPIRED = "expired"
    FORBIDDEN = "forbidden"
    INVALID = "invalid"
    REVOKED = "revoked"
    TAKEN = "taken"
    CROWDED = "crowded"


_ANOTHER = "get another from the home of the authority: busmesh identity token create"
_EXPLAINED: Mapping[str, tuple[str, str]] = {
    Refusal.CLOCK: ("the clocks differ by more than 60 s", "set both machines' clocks"),
    Refusal.REPLAYED: ("the request arrived twice", "start the agent again"),
    Refusal.BUSY: ("the authority has too many requests to remember", "try again in a minute"),
    Refusal.EXPIRED: ("the join token has expired", _ANOTHER),
    Refusal.FORBIDDEN: ("the join token is not for this service", _ANOTHER),
    Refusal.REVOKED: ("it was revoked a moment ago", "try again in a minute"),
    Refusal.TAKEN: ("another service has an instance of this name", "choose another with --instance"),
    Refusal.CROWDED: (
        "it was given too many logins to the bus within the life of one",
        "is it started again and again? if its key was stolen, busmesh identity revoke frees their place",
    ),
    Refusal.INVALID: (
        "the request does not prove its keys, a P-256 one and that for the bus",
        "check both versions of busmesh",
    ),
}


class Register(Protocol):
    """Who has which name, and what gives each its login to the bus."""

    def claim(self, spiffe_id: SpiffeId, until: float) -> bool:
        """Take an instance's name until ``until``, unix seconds; False if it is another service's."""

    def room(self, spiffe_id: SpiffeId) -> bool:
        """Say whether there is room for one more login of ``spiffe_id``."""

    def login(self, spiffe_id: SpiffeId, bus_key: bytes, until: float, serial: int) -> str:
        """Return a login for a public key of 32 bytes; empty if the bus is not locked.

        Args:
            spiffe_id: whose it is.
            bus_key: the key.
            until: when it ends, unix seconds.
            serial: number of the certificate that it goes with, by which it may be revoked.
        """


class _NoRegister:
    def claim(self, spiffe_id: SpiffeId, until: float) -> bool:
        return True

    def room(self, spiffe_id: SpiffeId) -> bool:
        return True

    def login(self, spiffe_id: SpiffeId, bus_key: bytes, until: float, serial: int) -> str:
        return ""


NO_REGISTER: Register = _NoRegister()


class Membership(NamedTuple):
    """What the authority grants.

    Attributes:
        svid: the newcomer's or member's, with the key that it made.
        bundle: the roots to believe.
        login: a JWT for the bus and the key named in the request; empty if the bus is not locked.
    """

    svid: Svid
    bundle: TrustBundle
    login: str = ""


class SeenNonces:
    """The nonces of recent requests, so that none is answered twice.

    Args:
        capacity: when this many are within the window, newcomers are refused rather than an old nonce
            forgotten. Only holders of a token get this far.
    """

    def __init__(self, capacity: int = 16384) -> None:
        self._capacity = capacity
        self._until: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return f"<SeenNonces {len(self._until)} of {self._capacity}>"

    def check(self, nonce: bytes, until: float, now: float) -> Refusal | None:
        """Remember ``nonce`` until the time ``until``, or say why not."""
        if self._until.get(nonce, -math.inf) >= now:
            return Refusal.REPLAYED
        if len(self._until) >= self._capacity:
            self._until = {known: end for known, end in self._until.items() if end >= now}
            if len(self._until) >= self._capacity:
                return Refusal.BUSY
        self._until[nonce] = until
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the authority sends back, and what it may log.

    Attributes:
        reply: to be sent, whatever it says.
        id: whom the request was for; None if its sender proved nothing.
        refusal: why not, or None if an SVID was issued.
    """

    reply: bytes
    id: SpiffeId | None = None
    refusal: Refusal | None = None


#: Says the same to a wrong token, a wrong MAC and to junk.
_DENIED = Answer(pack(_REFUSED, b"", b"", b"", b""), refusal=Refusal.DENIED)


class Enrolment:
    """The newcomer's side: one request, then one reply.

    Args:
        token: of the mesh to join.
        spiffe_id: whom to become: a workload of that mesh.
        key: fresh; it stays here.
        now: unix seconds.
        bus_key: the key that shall get a login to the bus; None for no login.

    Raises:
        UsageError: ``spiffe_id`` is not of the token's mesh (code BM4202).
    """

    def __init__(
        self,
        token: JoinToken,
        spiffe_id: SpiffeId,
        key: ec.EllipticCurvePrivateKey,
        now: float,
        *,
        bus_key: KeyPair | None = None,
    ) -> None:
        if spiffe_id.mesh != token.mesh:
            hint = f"set the mesh to {token.mesh}, or take a token of {spiffe_id.mesh}"
            raise UsageError(
                f"the join token is for mesh {token.mesh!r}, not {spiffe_id.mesh!r}", code="BM4202", hint=hint
            )
        self._token, self._id, self._key = token, spiffe_id, key
        self._bus_key = bus_key
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._time_ms = int(now * 1000)

    def __repr__(self) -> str:
        return f"<Enrolment of {self._id}>"

    def request(self) -> bytes:
        """Return the request. A retry needs a new enrolment, since each request is answered once."""
        token_id, wanted, csr = self._token.id.encode(), str(self._id).encode(), signing_request(self._key)
        proven = busproof.prove(self._bus_key, self._id, csr)
        mac = self._token.mac(
            REQUEST, token_id, wanted, struct.pack(">Q", self._time_ms), self._nonce, csr, *proven
        )
        return pack(token_id, wanted, self._time_ms, self._nonce, csr, *proven, mac)

    def finish(self, reply: bytes, now: float) -> Membership:
        """Return the SVID, the roots and the login from the authority's reply.

        Raises:
            RemoteProtocolError: malformed (codes BM4101 to BM4103).
            IdentityError: a plain "denied", which anybody could have sent (code BM4203); a reply not from an
                authority that knows the token (BM4204); the authority's refusal, with its reason (BM4205);
                a certificate for another ID (BM4206) or key (BM4001), or that does not verify.
        """
        reader = FieldReader(reply, 5, max_size=MAX_REPLY, what="answer to the enrolment")
        status, certificate, roots = reader.integer(), reader.binary(MAX_CERTIFICATE), reader.binary()
        login, mac = reader.binary(MAX_LOGIN), reader.binary(MAC_BYTES)
        reader.end()
        if reply == _DENIED.reply:
            raise IdentityError(
                f"the mesh refused to enrol {self._id}",
                code="BM4203",
                hint=f"the authority does not know join token {self._token.id}, or no more; {_ANOTHER}",
            )
        if not hmac.compare_digest(
            mac, _reply_mac(self._token, self._nonce, status, certificate, roots, login)
        ):
            raise IdentityError(
                "the answer to the enrolment is not from the mesh's authority",
                code="BM4204",
                hint="somebody else answers on this bus: check its URL and credentials",
            )
        if status != _GRANTED:
            raise self._explained(roots)
        bundle = TrustBundle.from_pem(roots, self._token.mesh)
        verified = verify_certificate(certificate, bundle, now)
        svid = Svid.of(certificate, self._key)
        if verified.id != self._id:
            raise IdentityError(f"the authority issued {verified.id} instead of {self._id}", code="BM4206")
        return Membership(svid, bundle, login.decode("ascii", "replace"))

    def _explained(self, reason: bytes) -> IdentityError:
        unknown = ("the authority gave no known reason", "check both versions of busmesh")
        why, hint = _EXPLAINED.get(reason.decode("ascii", "replace"), unknown)
        return IdentityError(f"cannot enrol {self._id}: {why}", code="BM4205", hint=hint)


def answer(
    request: bytes,
    grants: Mapping[str, Grant],
    ca: CertificateAuthority,
    now: float,
    seen: SeenNonces,
    *,
    verifier: Verifier | None = None,
    lifetime_s: float | None = None,
    register: Register = NO_REGISTER,
) -> Answer:
    """Answer one enrolment request: the authority's side. Never raises, whatever arrives.

    Args:
        request: from anybody.
        grants: what each token allows, by the token's id.
        ca: issues the SVID.
        now: unix seconds.
        seen: the nonces answered before; lost on a restart, which is harmless: a replayed request can only
            get a certificate for the key of the true newcomer.
        verifier: with the roots to hand out, default the authority's own; whom its revocations hit gets no
            certificate.
        lifetime_s: of the SVID; default 1 h.
        register: who has which name, and makes logins to the bus.
    """
    try:
        reader = FieldReader(request, 8, max_size=MAX_REQUEST, what="enrolment request")
        token_id, wanted, time_ms = reader.binary(63), reader.binary(512), reader.integer()
        nonce, csr = reader.binary(_NONCE_BYTES), reader.binary(MAX_SIGNING_REQUEST)
        bus_key, proof = reader.binary(KEY_BYTES), reader.binary(busproof.SIGNATURE_BYTES)
        mac = reader.binary(MAC_BYTES)
        reader.end()
    except BusmeshError:
        return _DENIED
    grant = grants.get(token_id.decode("ascii", "replace"))
    # An unknown token costs the same work, so that the time taken does not tell which tokens exist.
    token = JoinToken(ca.mesh, "unknown", secrets.token_bytes(32)) if grant is None else grant.token
    covered = (token_id, wanted, struct.pack(">Q", time_ms), nonce, csr, bus_key, proof)
    if not hmac.compare_digest(mac, token.mac(REQUEST, *covered)) or grant is None:
        return _DENIED

    refusal = _refusal(grant, nonce, time_ms / 1000, now, seen)
    spiffe_id = None
    certificate, granted = b"", b""
    until = now + (LIFETIME_S[Kind.WORKLOAD] if lifetime_s is None else lifetime_s)
    if refusal is None:
        try:
            spiffe_id = SpiffeId.parse(wanted.decode("ascii", "replace"))
            busproof.check(bus_key, proof, spiffe_id, csr)
            if _revoked(spiffe_id, verifier, now):
                refusal = Refusal.REVOKED
            elif not grant.allows(spiffe_id):
                refusal = Refusal.FORBIDDEN
            elif not register.room(spiffe_id):
                refusal = Refusal.CROWDED
            elif not register.claim(spiffe_id, until):
                refusal = Refusal.TAKEN
            else:
                certificate = ca.issue(spiffe_id, requested_key(csr), now, lifetime_s=lifetime_s)
                granted = bus_login(register, spiffe_id, bus_key, until, certificate)
        except (IdentityError, InvalidName):
            refusal = Refusal.INVALID
    if refusal is not None:
        return Answer(_reply(token, nonce, _REFUSED, b"", refusal.encode()), spiffe_id, refusal)
    roots = (ca.bundle if verifier is None else verifier.bundle).to_pem()
    return Answer(_reply(token, nonce, _GRANTED, certificate, roots, granted), spiffe_id)


def bus_login(
    register: Register, spiffe_id: SpiffeId, bus_key: bytes, until: float, certificate: bytes
) -> bytes:
    """Return a login for ``bus_key`` that ends when the certificate does; empty if none is wanted or made."""
    if len(bus_key) != KEY_BYTES:
        return b""
    serial = x509.load_der_x509_certificate(certificate).serial_number
    return register.login(spiffe_id, bus_key, until, serial).encode()


def _revoked(spiffe_id: SpiffeId, verifier: Verifier | None, now: float) -> bool:
    return verifier is not None and verifier.revocations.hitting(spiffe_id, 0, now - BACKDATE_S) is not None


def _refusal(grant: Grant, nonce: bytes, sent: float, now: float, seen: SeenNonces) -> Refusal | None:
    if abs(now - sent) > REPLAY_WINDOW_S:
        return Refusal.CLOCK
    if grant.over(now):
        return Refusal.EXPIRED
    return seen.check(nonce, sent + REPLAY_WINDOW_S, now)


def _reply(
    token: JoinToken, nonce: bytes, status: int, certificate: bytes, rest: bytes, login: bytes = b""
) -> bytes:
    mac = _reply_mac(token, nonce, status, certificate, rest, login)
    return pack(status, certificate, rest, login, mac)


def _reply_mac(
    token: JoinToken, nonce: bytes, status: int, certificate: bytes, rest: bytes, login: bytes
) -> bytes:
    return token.mac(REPLY, nonce, struct.pack(">Q", status), certificate, rest, login)
