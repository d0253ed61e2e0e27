"""The trust bundle: the mesh's name and the roots that may vouch for its members.

Several roots stand side by side while one replaces another; a certificate needs any one of them. Bundles are
numbered: who holds version 3 never goes back to version 2.

A root that was removed vouches for nobody any more, but the policy log outlives it: it holds revisions whose
authors it vouched for. So the bundle remembers a retired root together with the last revision that counts
under it and the digest of the policy set there. Whoever holds the retired key can write no revision after
that one, and none before it that leads elsewhere.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import SignatureAlgorithmOID

from busmesh.errors import IdentityError
from busmesh.identity.profile import MAX_CERTIFICATE, UNREADABLE, is_p256
from busmesh.names import token

#: One, two while a root is replaced; a few more for who was interrupted and began anew.
MAX_ROOTS = 8
#: A root a year for longer than anybody plans; each is 600 bytes of every bundle.
MAX_RETIRED = 16
_MAX_PEM = 2 * MAX_ROOTS * MAX_CERTIFICATE
_MAX_VERSION = (1 << 53) - 1
#: What a bundle says beside its roots stands in lines that every reader of PEM skips.
_NOTE = re.compile(rb"(?m)^# busmesh (version|retired) ([^\r\n]*)\r?$")
_RETIRED = re.compile(rb"([0-9]{1,16}) ([0-9a-f]{64}) ([A-Za-z0-9+/=]{1,8192})")
_DIGITS = re.compile(rb"[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class RetiredRoot:
    """A root that was removed, and what of the policy log it still vouches for.

    Attributes:
        certificate: the root.
        through: the last revision that counts if its author was vouched for by this root.
        digest: of the policy set after that revision.
    """

    certificate: x509.Certificate = field(repr=False)
    through: int
    digest: str


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots of one mesh, each checked when the bundle is made.

    Attributes:
        mesh: the trust domain.
        roots: one to eight self-signed P-256 certificates that name ``spiffe://<mesh>``. The first is the one
            that issues.
        version: grows with each change.
        retired: roots that vouch for a part of the policy log and for nobody.

    Raises:
        IdentityError: no root, too many, or one that is no root of this mesh (code BM4002).
    """

    mesh: str
    roots: tuple[x509.Certificate, ...] = field(repr=False)
    version: int = 1
    retired: tuple[RetiredRoot, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.roots) <= MAX_ROOTS:
            raise _refused(f"it has {len(self.roots)} roots, not 1 to {MAX_ROOTS}")
        if len(self.retired) > MAX_RETIRED:
            raise _refused(f"it has {len(self.retired)} retired roots, more than {MAX_RETIRED}")
        if not 1 <= self.version <= _MAX_VERSION:
            raise _refused(f"its version is {self.version}")
        try:
            token(self.mesh, "mesh")
            for root in (*self.roots, *(retired.certificate for retired in self.retired)):
                _check_root(root, self.mesh)
        except UNREADABLE as error:
            raise _refused(str(error)) from None

    @classmethod
    def from_pem(cls, pem: bytes, mesh: str) -> TrustBundle:
        """Read concatenated PEM certificates, and the notes of version and retired roots before them.

        Raises:
            IdentityError: too large, not PEM, or not roots of ``mesh`` (code BM4002).
        """
        if len(pem) > _MAX_PEM:
            raise _refused(f"it is larger than {_MAX_PEM} bytes")
        version, retired = 1, []
        try:
            for note, text in _NOTE.findall(pem):
                if note == b"version":
                    version = _read_version(text)
                else:
                    retired.append(_read_retired(text))
            roots = tuple(x509.load_pem_x509_certificates(pem))
        except UNREADABLE as error:
            raise _refused(f"it is not PEM: {error}") from None
        return cls(mesh, roots, version, tuple(retired))

    def to_pem(self) -> bytes:
        """Return the roots as concatenated PEM certificates, which other programs can read too."""
        notes = [b"# busmesh version %d\n" % self.version]
        for root in self.retired:
            der = base64.b64encode(root.certificate.public_bytes(serialization.Encoding.DER))
            notes.append(b"# busmesh retired %d %b %b\n" % (root.through, root.digest.encode(), der))
        return b"".join(notes) + self.certificates()

    def certificates(self) -> bytes:
        """Return the roots alone as concatenated PEM certificates: for TLS, which asks for no more."""
        return b"".join(root.public_bytes(serialization.Encoding.PEM) for root in self.roots)

    @property
    def issuer(self) -> str:
        """The key identifier of the root that issues, in hex."""
        return key_identifier(self.roots[0]).hex()

    def root(self, identifier: str) -> x509.Certificate | None:
        """Return the root with this key identifier (hex), None if the bundle has no such root."""
        return next((root for root in self.roots if key_identifier(root).hex() == identifier), None)


def newest(held: TrustBundle | None, offered: TrustBundle, issuer: str) -> TrustBundle:
    """Return which bundle to believe after joining: never an older one than is held, of the same mesh.

    Whoever copied the authority's home before the root was rotated knows a join token and a root that the
    token's holder would believe again. A mesh that was founded anew shares no root with the old one, and the
    token vouches for it.

    Args:
        held: what was believed until now.
        offered: what came with the SVID.
        issuer: key identifier of the root that issued the SVID, in hex.

    Raises:
        IdentityError: that root was removed from the mesh (code BM4207).
    """
    if held is None or held.mesh != offered.mesh:
        return offered
    if any(key_identifier(retired.certificate).hex() == issuer for retired in held.retired):
        raise IdentityError(
            f"root {issuer[:12]} was removed from mesh {held.mesh!r}, and an authority issues by it still",
            code="BM4207",
            hint="bring that authority the folder ca/ of the home where the root was rotated, or stop it",
        )
    return held if held.version > offered.version and held.root(issuer) is not None else offered


def mesh_uri(mesh: str) -> str:
    """Return the SPIFFE ID of the trust domain itself, which a root names (X.509-SVID, section 3.1)."""
    return f"spiffe://{mesh}"


def key_identifier(certificate: x509.Certificate) -> bytes:
    """Return a root's subject key identifier, by which leaves say which root issued them."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def _read_version(text: bytes) -> int:
    if _DIGITS.fullmatch(text) is None:
        raise ValueError("its version is no number")
    return int(text)


def _read_retired(text: bytes) -> RetiredRoot:
    found = _RETIRED.fullmatch(text)
    if found is None:
        raise ValueError("a note of a retired root cannot be read")
    certificate = x509.load_der_x509_certificate(base64.b64decode(found[3], validate=True))
    return RetiredRoot(certificate, int(found[1]), found[2].decode())


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
