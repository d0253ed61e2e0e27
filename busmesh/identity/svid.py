"""An SVID: a key pair made where it is used, and the certificate that says whose it is."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from busmesh.errors import IdentityError
from busmesh.identity.profile import (
    BACKDATE_S,
    CURVE,
    MAX_CERTIFICATE,
    SIGNATURE,
    UNREADABLE,
    is_p256,
    key_bytes,
)
from busmesh.names import SpiffeId


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh P-256 key. It never leaves the process except into a file of its owner."""
    return ec.generate_private_key(CURVE)


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a PKCS #10 request (DER) for ``key``, signed by it: proof that the sender holds the key.

    It names nobody. The identity travels beside it, where the join token or the old SVID vouches for it.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def renewal_time(issued: float, not_after: float, rng: random.Random) -> float:
    """Return when to renew: at half the lifetime, give or take a tenth of that half.

    It counts from the issue, not from the beginning of validity: that is dated back, and of an SVID of 10 s
    half would be over before it is there.

    Half leaves as much time again for an authority that is down; the jitter keeps a thousand agents that
    started together from coming back together. SPIRE uses the same schedule.
    """
    return issued + (not_after - issued) / 2 * rng.uniform(0.9, 1.1)


@dataclass(frozen=True, slots=True)
class Svid:
    """A key pair and its certificate.

    Attributes:
        id: whom the certificate names.
        certificate: as parsed.
        private_key: P-256.
        der: the certificate's bytes, as they travel in handshakes and envelopes.
        not_before: start of validity, unix seconds.
        not_after: end of validity, unix seconds.
        fingerprint: SHA-256 of ``der`` in hex.
    """

    id: SpiffeId
    certificate: x509.Certificate = field(repr=False)
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    der: bytes = field(repr=False)
    not_before: float
    not_after: float
    fingerprint: str

    @classmethod
    def of(cls, der: bytes, private_key: ec.EllipticCurvePrivateKey) -> Svid:
        """Join a certificate to the key that it was issued for.

        Whether anybody trusts the certificate is for a verifier to say; this only refuses a pair that
        cannot work.

        Raises:
            IdentityError: not a certificate, no SPIFFE ID, or another key's (code BM4001).
        """
        try:
            if len(der) > MAX_CERTIFICATE:
                raise ValueError("it is too large")
            certificate = x509.load_der_x509_certificate(der)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            if len(uris) != 1:
                raise ValueError("it does not have exactly one URI name")
            spiffe_id = SpiffeId.parse(uris[0])
            public_key = certificate.public_key()
            if not isinstance(public_key, ec.EllipticCurvePublicKey) or not is_p256(public_key):
                raise ValueError("its key is not on P-256")
            if key_bytes(public_key) != key_bytes(private_key.public_key()):
                raise ValueError("it belongs to another key")
        except UNREADABLE as error:
            raise IdentityError(f"the certificate is of no use: {error}", code="BM4001") from None
        return cls(
            spiffe_id,
            certificate,
            private_key,
            der,
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
            hashlib.sha256(der).hexdigest(),
        )

    @property
    def issued(self) -> float:
        """When it was issued, unix seconds, by the clock of the authority, which dates back by 30 s."""
        return min(self.not_before + BACKDATE_S, self.not_after)

    @property
    def issuer(self) -> str:
        """The key identifier of the root that issued it, in hex; empty if the certificate does not say."""
        try:
            extension = self.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        except x509.ExtensionNotFound:
            return ""
        return (extension.value.key_identifier or b"").hex()

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature (P-256, SHA-256, DER) over ``data``."""
        return self.private_key.sign(data, SIGNATURE)
