"""The mesh's certificate authority: a root key that issues short-lived SVIDs to keys made elsewhere.

Whom it issues to is decided by `enrol` and `renew`; this only makes certificates of the profile.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from busmesh.errors import IdentityError
from busmesh.identity.profile import (
    BACKDATE_S,
    EXTENDED_USAGE,
    LIFETIME_S,
    MAX_LIFETIME_S,
    MAX_SIGNING_REQUEST,
    ROOT_LIFETIME_S,
    UNREADABLE,
    is_p256,
    key_bytes,
    key_usage,
    kind_of,
)
from busmesh.identity.scope import EVERYTHING, SCOPE_OID, Scope
from busmesh.identity.svid import Svid, new_key
from busmesh.identity.trust import TrustBundle, key_identifier, mesh_uri
from busmesh.names import SpiffeId, token


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A root certificate and its key.

    Attributes:
        mesh: the trust domain.
        certificate: the root.
        private_key: the root's key, P-256.
        bundle: the trust bundle with this root alone.

    Raises:
        IdentityError: the root is none of this mesh (code BM4002) or the key is not the root's (BM4010).
    """

    mesh: str
    certificate: x509.Certificate = field(repr=False)
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    bundle: TrustBundle = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bundle", TrustBundle(self.mesh, (self.certificate,)))
        public_key = self.certificate.public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or (
            key_bytes(public_key) != key_bytes(self.private_key.public_key())
        ):
            raise IdentityError("the root's key and certificate do not belong together", code="BM4010")

    @classmethod
    def create(cls, mesh: str, now: float, *, lifetime_s: float = ROOT_LIFETIME_S) -> CertificateAuthority:
        """Return a new authority for ``mesh`` with a fresh key and a self-signed root of 10 years.

        Raises:
            InvalidName: ``mesh`` is not a name.
        """
        key, serial = new_key(), x509.random_serial_number()
        # A subject of its own, so that two roots of one mesh are told apart while one replaces the other.
        subject = _common_name(f"busmesh {token(mesh, 'mesh')[:40]} {serial >> 127:08x}")
        builder = (
            _builder(subject, subject, key.public_key(), serial, now, now + lifetime_s)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(root=True), critical=True)
            .add_extension(_uri(mesh_uri(mesh)), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(mesh, builder.sign(key, hashes.SHA256()), key)

    def issue(
        self,
        spiffe_id: SpiffeId,
        subject_key: bytes | ec.EllipticCurvePublicKey,
        now: float,
        *,
        lifetime_s: float | None = None,
        scope: Scope = EVERYTHING,
    ) -> bytes:
        """Return a certificate (DER) that ties ``spiffe_id`` to ``subject_key``.

        Args:
            spiffe_id: whom it names; what it may be used for follows from its kind.
            subject_key: a signing request in DER, whose signature is checked, or a key that is known to be
                the subject's.
            now: unix seconds. Validity begins 30 s earlier, for clocks that are behind.
            lifetime_s: default 1 h for workloads and authorities, 90 days for operators. Shorter limits
                what a stolen key is good for; longer outlives a longer absence of the authority. Never more
                than 7 days (a year for operators), nor beyond the root's own end.
            scope: what an operator may do.

        Raises:
            IdentityError: another mesh's ID (code BM4011), or a request that does not prove its key (BM4012).
        """
        if spiffe_id.mesh != self.mesh:
            raise IdentityError(f"{spiffe_id} is not of mesh {self.mesh!r}", code="BM4011")
        public_key = requested_key(subject_key) if isinstance(subject_key, bytes) else subject_key
        kind = kind_of(spiffe_id)
        end = now + min(LIFETIME_S[kind] if lifetime_s is None else lifetime_s, MAX_LIFETIME_S[kind])
        end = min(end, self.certificate.not_valid_after_utc.timestamp())
        authority_key = x509.AuthorityKeyIdentifier(key_identifier(self.certificate), None, None)
        name = _common_name(spiffe_id.instance or spiffe_id.operator or spiffe_id.authority)
        usage = sorted(EXTENDED_USAGE[kind], key=lambda oid: oid.dotted_string)
        serial = x509.random_serial_number()
        builder = (
            _builder(name, self.certificate.subject, public_key, serial, now, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(root=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(_uri(str(spiffe_id)), critical=False)
            .add_extension(authority_key, critical=False)
        )
        if not scope.everything:
            builder = builder.add_extension(
                x509.UnrecognizedExtension(SCOPE_OID, scope.to_der()), critical=True
            )
        return builder.sign(self.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def issue_svid(
        self,
        spiffe_id: SpiffeId,
        now: float,
        *,
        lifetime_s: float | None = None,
        scope: Scope = EVERYTHING,
    ) -> Svid:
        """Return an SVID with a fresh key, for a holder on this machine: an operator, the authority itself.

        Raises:
            IdentityError: another mesh's ID (code BM4011).
        """
        key = new_key()
        return Svid.of(self.issue(spiffe_id, key.public_key(), now, lifetime_s=lifetime_s, scope=scope), key)


def issue_server_certificate(
    ca: CertificateAuthority, hosts: Sequence[str], now: float, *, lifetime_s: float
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a certificate for a NATS server at ``hosts``, with a fresh key.

    It names hosts and no SPIFFE ID, so as a member of the mesh it counts for nothing.

    Args:
        ca: the mesh's.
        hosts: DNS names and IP addresses.
        now: unix seconds.
        lifetime_s: never beyond the root's own end.
    """
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    key = new_key()
    end = min(now + lifetime_s, ca.certificate.not_valid_after_utc.timestamp())
    serial = x509.random_serial_number()
    subject = _common_name("busmesh bus")
    builder = (
        _builder(subject, ca.certificate.subject, key.public_key(), serial, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(root=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(key_identifier(ca.certificate), None, None), critical=False
        )
    )
    return builder.sign(ca.private_key, hashes.SHA256()), key


def requested_key(der: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key of a signing request, if that key signed it; everything else in it is ignored.

    Raises:
        IdentityError: too large, malformed, not P-256, or not signed by its own key (code BM4012).
    """
    try:
        if len(der) > MAX_SIGNING_REQUEST:
            raise ValueError
        request = x509.load_der_x509_csr(der)
        public_key = request.public_key()
        proven = (
            isinstance(request.signature_hash_algorithm, hashes.SHA256)
            and is_p256(public_key)
            and request.is_signature_valid
        )
    except UNREADABLE:
        proven, public_key = False, None
    if not proven or not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise IdentityError("the signing request does not prove a P-256 key", code="BM4012")
    return public_key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    serial: int,
    now: float,
    end: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_date(now - BACKDATE_S))
        .not_valid_after(_date(end))
    )


def _date(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _uri(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
