"""What a certificate of the mesh looks like: said once, for who issues and for who checks.

The profile is X.509-SVID (SPIFFE) narrowed to what busmesh itself issues: P-256 with SHA-256, one root above
each leaf, one URI name. A narrow profile leaves nothing to negotiate and little to get wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID

from busmesh.errors import InvalidName
from busmesh.names import SpiffeId

SIGNATURE = ec.ECDSA(hashes.SHA256())
CURVE = ec.SECP256R1()

#: How far two clocks of the mesh may differ before a certificate or a message is refused.
CLOCK_SKEW_S = 20.0
#: The authority dates certificates back by more than the skew, so that a fresh one is valid everywhere.
BACKDATE_S = 30.0
#: Checked before parsing. A certificate of this profile has about 550 bytes.
MAX_CERTIFICATE = 4096
MAX_SIGNING_REQUEST = 2048

#: Everything that reading a certificate raises when it is not what it should be. The warning is about serial
#: numbers that are not positive, where warnings are errors.
UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    InvalidName,
    CryptographyDeprecationWarning,
)

_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class Kind(StrEnum):
    """What a SPIFFE ID stands for; it decides what its certificate may be used for."""

    WORKLOAD = "workload"
    OPERATOR = "operator"
    AUTHORITY = "authority"


#: The exact extended key usage of each kind: only a workload may answer a handshake.
EXTENDED_USAGE: Mapping[Kind, frozenset[x509.ObjectIdentifier]] = MappingProxyType(
    {
        Kind.WORKLOAD: frozenset({_CLIENT, _SERVER}),
        Kind.OPERATOR: frozenset({_CLIENT}),
        Kind.AUTHORITY: frozenset({_CLIENT}),
    }
)

#: Short for what renews itself; 90 days for a person, who does not. The root lives for 10 years.
LIFETIME_S: Mapping[Kind, float] = MappingProxyType(
    {Kind.WORKLOAD: 3600.0, Kind.OPERATOR: 90 * 86400.0, Kind.AUTHORITY: 3600.0}
)
#: Nothing is issued for longer. A revocation is kept for so long, since nobody knows all that was issued.
MAX_LIFETIME_S: Mapping[Kind, float] = MappingProxyType(
    {Kind.WORKLOAD: 7 * 86400.0, Kind.OPERATOR: 366 * 86400.0, Kind.AUTHORITY: 7 * 86400.0}
)
ROOT_LIFETIME_S = 3652 * 86400.0


def kind_of(spiffe_id: SpiffeId) -> Kind:
    """Return what ``spiffe_id`` stands for."""
    if spiffe_id.service is not None:
        return Kind.WORKLOAD
    return Kind.OPERATOR if spiffe_id.operator else Kind.AUTHORITY


def key_usage(*, root: bool) -> x509.KeyUsage:
    """Return the key usage: a root signs certificates and nothing else, a leaf never does."""
    return x509.KeyUsage(
        digital_signature=not root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=root,
        crl_sign=root,
        encipher_only=False,
        decipher_only=False,
    )


def is_p256(key: object) -> bool:
    """Say whether ``key`` is a public or private key on P-256."""
    return isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) and (
        key.curve.name == CURVE.name
    )


def key_bytes(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the SubjectPublicKeyInfo in DER: two keys are the same if and only if these bytes are."""
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
