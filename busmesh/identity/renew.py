"""Renewal: how a member gets its next certificate, for a new key, while the old one is still valid.

The old SVID signs the request; the authority's own SVID signs the reply, which carries the roots too. So a
new root reaches every member through one that they already trust, before anything is issued under it.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec

from busmesh.bus.nkeys import KEY_BYTES, KeyPair
from busmesh.errors import BusmeshError, IdentityError
from busmesh.identity import busproof
from busmesh.identity.ca import CertificateAuthority, requested_key
from busmesh.identity.enrol import (
    MAX_LOGIN,
    MAX_REPLY,
    NO_REGISTER,
    REPLAY_WINDOW_S,
    Answer,
    Membership,
    Refusal,
    Register,
    bus_login,
)
from busmesh.identity.fields import FieldReader, pack
from busmesh.identity.profile import LIFETIME_S, MAX_CERTIFICATE, MAX_SIGNING_REQUEST, Kind, kind_of
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.svid import Svid, signing_request
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier, verify_certificate

_REQUEST, _REPLY = "renew", "renewed"
_MAX_REQUEST = 8192
_DENIED = pack(b"")


class Renewal:
    """The member's side: one request, then one reply.

    Args:
        svid: the present one; it signs the request.
        key: the next key.
        now: unix seconds.
        bus_key: the key that shall get a login to the bus; None for no login.
    """

    def __init__(
        self, svid: Svid, key: ec.EllipticCurvePrivateKey, now: float, *, bus_key: KeyPair | None = None
    ) -> None:
        self._svid, self._key = svid, key
        csr = signing_request(key)
        self._request = seal_signed(svid, _REQUEST, pack(csr, *busproof.prove(bus_key, svid.id, csr)), now)

    def __repr__(self) -> str:
        return f"<Renewal of {self._svid.id}>"

    def request(self) -> bytes:
        """Return the request; the same bytes may be sent again."""
        return self._request

    def finish(self, reply: bytes, verifier: Verifier, now: float) -> Membership:
        """Return the next SVID, the roots and the next login from the authority's reply.

        Args:
            reply: from anybody.
            verifier: with the roots believed so far.
            now: unix seconds.

        Raises:
            RemoteProtocolError: malformed (codes BM4101 to BM4103).
            IdentityError: "denied", which anybody could have sent (code BM4203); not signed by an authority
                of the mesh for this request (BM4204); a certificate for another ID (BM4206) or key (BM4001),
                or that does not verify against the roots in the reply.
        """
        if reply == _DENIED:
            hint = "the authority does not accept the present SVID: enrol again with a join token"
            raise IdentityError(f"the mesh refused to renew {self._svid.id}", code="BM4203", hint=hint)
        signed = open_signed(reply, _REPLY, verifier, now, max_age=REPLAY_WINDOW_S, max_size=MAX_REPLY)
        if kind_of(signed.signer.id) is not Kind.AUTHORITY:
            raise IdentityError(f"{signed.signer.id} is no authority", code="BM4204")
        reader = FieldReader(signed.body, 4, max_size=MAX_REPLY, what="answer to the renewal")
        digest, certificate, roots = reader.binary(32), reader.binary(MAX_CERTIFICATE), reader.binary()
        login = reader.binary(MAX_LOGIN)
        reader.end()
        if digest != hashlib.sha256(self._request).digest():
            raise IdentityError("the answer is to another renewal", code="BM4204")
        bundle = TrustBundle.from_pem(roots, verifier.bundle.mesh)
        if bundle.version < verifier.bundle.version:  # this authority has not heard yet
            bundle = verifier.bundle
        verified = verify_certificate(certificate, bundle, now)
        svid = Svid.of(certificate, self._key)
        if verified.id != self._svid.id:
            raise IdentityError(
                f"the authority issued {verified.id} instead of {self._svid.id}", code="BM4206"
            )
        return Membership(svid, bundle, login.decode("ascii", "replace"))


def answer_renewal(
    request: bytes,
    ca: CertificateAuthority,
    authority: Svid,
    verifier: Verifier,
    now: float,
    *,
    bundle: TrustBundle | None = None,
    lifetime_s: float | None = None,
    register: Register = NO_REGISTER,
) -> Answer:
    """Answer one renewal request: the authority's side. Never raises, whatever arrives.

    The new certificate names whom the old one named: a request cannot ask for anything else. A request that
    arrives twice is answered twice, since the answer serves only who holds the new key.

    Args:
        request: from anybody.
        ca: issues the certificate.
        authority: the authority's own SVID, under a root that the members believe; it signs the reply.
        verifier: with the roots believed so far.
        now: unix seconds.
        bundle: the roots to hand out; default the verifier's.
        lifetime_s: of the certificate; default by kind.
        register: who has which name, and makes logins to the bus.
    """
    try:
        signed = open_signed(request, _REQUEST, verifier, now, max_age=REPLAY_WINDOW_S, max_size=_MAX_REQUEST)
        spiffe_id = signed.signer.id
        reader = FieldReader(signed.body, 3, max_size=_MAX_REQUEST, what="renewal request")
        csr = reader.binary(MAX_SIGNING_REQUEST)
        bus_key, proof = reader.binary(KEY_BYTES), reader.binary(busproof.SIGNATURE_BYTES)
        reader.end()
        busproof.check(bus_key, proof, spiffe_id, csr)
        until = now + (LIFETIME_S[kind_of(spiffe_id)] if lifetime_s is None else lifetime_s)
        if not register.room(spiffe_id):
            return Answer(_DENIED, spiffe_id, Refusal.CROWDED)
        if not register.claim(spiffe_id, until):
            return Answer(_DENIED, spiffe_id, Refusal.TAKEN)
        certificate = ca.issue(spiffe_id, requested_key(csr), now, lifetime_s=lifetime_s)
        granted = bus_login(register, spiffe_id, bus_key, until, certificate)
    except BusmeshError:
        return Answer(_DENIED, refusal=Refusal.DENIED)
    body = pack(hashlib.sha256(request).digest(), certificate, (bundle or verifier.bundle).to_pem(), granted)
    return Answer(seal_signed(authority, _REPLY, body, now), spiffe_id)
