"""The trust bundle: the mesh's name and the roots that may vouch for its members.

Several roots stand side by side while one replaces another; a certificate needs any one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import SignatureAlgorithmOID

from busmesh.errors import IdentityError
from busmesh.identity.profile import MAX_CERTIFICATE, UNREADABLE, is_p256
from busmesh.names import token

#: Two while a root is replaced; a few more for authorities of several sites.
MAX_ROOTS = 8
_MAX_PEM = 2 * MAX_ROOTS * MAX_CERTIFICATE


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots of one mesh, each checked when the bundle is made.

    Attributes:
        mesh: the trust domain.
        roots: one to eight self-signed P-256 certificates that name ``spiffe://<mesh>``.

    Raises:
        IdentityError: no root, too many, or one that is no root of this mesh (code BM4002).
    """

    mesh: str
    roots: tuple[x509.Certificate, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.roots) <= MAX_ROOTS:
            raise _refused(f"it has {len(self.roots)} roots, not 1 to {MAX_ROOTS}")
        try:
            token(self.mesh, "mesh")
            for root in self.roots:
                _check_root(root, self.mesh)
        except UNREADABLE as error:
            raise _refused(str(error)) from None

    @classmethod
    def from_pem(cls, pem: bytes, mesh: str) -> TrustBundle:
        """Read concatenated PEM certificates.

        Raises:
            IdentityError: too large, not PEM, or not roots of ``mesh`` (code BM4002).
        """
        if len(pem) > _MAX_PEM:
            raise _refused(f"it is larger than {_MAX_PEM} bytes")
        try:
            roots = tuple(x509.load_pem_x509_certificates(pem))
        except UNREADABLE as error:
            raise _refused(f"it is not PEM: {error}") from None
        return cls(mesh, roots)

    def to_pem(self) -> bytes:
        """Return the roots as concatenated PEM certificates."""
        return b"".join(root.public_bytes(serialization.Encoding.PEM) for root in self.roots)


def mesh_uri(mesh: str) -> str:
    """Return the SPIFFE ID of the trust domain itself, which a root names (X.509-SVID, section 3.1)."""
    return f"spiffe://{mesh}"


def key_identifier(certificate: x509.Certificate) -> bytes:
    """Return a root's subject key identifier, by which leaves say which root issued them."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def _check_root(root: x509.Certificate, mesh: str) -> None:
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    names = list(root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    key_identifier(root)
    if not (constraints.critical and constraints.value.ca and usage.key_cert_sign):
        raise ValueError("a certificate in it is not an authority's")
    if names != [x509.UniformResourceIdentifier(mesh_uri(mesh))]:
        raise ValueError(f"a root in it is not of mesh {mesh!r}")
    if (
        not is_p256(root.public_key())
        or root.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256
    ):
        raise ValueError("a root in it is not P-256 with SHA-256")
    try:
        root.verify_directly_issued_by(root)
    except InvalidSignature:
        raise ValueError("a root in it did not sign itself") from None


def _refused(reason: str) -> IdentityError:
    return IdentityError(
        f"the trust bundle is refused: {reason}",
        code="BM4002",
        hint="copy trust.crt again from the home of the authority, or let the agent enrol anew",
    )
