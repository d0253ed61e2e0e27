"""From certificate bytes to a proven SPIFFE ID: the one place where identity is believed.

Checks run from cheap to dear, so that junk costs little: size, form, profile, and the root's signature last.
What passed is remembered by its hash, so that a peer's heartbeat costs one signature check and nothing else;
validity in time is checked on every use, never remembered.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from busmesh.errors import IdentityError, InvalidName
from busmesh.identity.profile import (
    CLOCK_SKEW_S,
    EXTENDED_USAGE,
    MAX_CERTIFICATE,
    SIGNATURE,
    UNREADABLE,
    Kind,
    is_p256,
    key_bytes,
    key_usage,
    kind_of,
)
from busmesh.identity.revocation import Revocations
from busmesh.identity.scope import EVERYTHING, SCOPE_OID, Scope
from busmesh.identity.trust import TrustBundle, key_identifier
from busmesh.names import SpiffeId

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        SCOPE_OID,
    }
)


class Purpose(Enum):
    """What the certificate is being shown for, as the extended key usage that this needs."""

    SIGNATURE = None
    TLS_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
    TLS_SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Verified:
    """A peer whose certificate chains to a root of the mesh.

    Attributes:
        id: whom the certificate names.
        public_key: P-256.
        fingerprint: SHA-256 of the certificate in hex. It names these bytes, for people and caches; to shut
            somebody out compare `serial` or `key_der`: an ECDSA signature can be rewritten by anybody.
        not_before: from when certificate and root are both valid, unix seconds.
        not_after: until when both are.
        key_der: the public key (SubjectPublicKeyInfo), to compare keys by.
        serial: the certificate's serial number.
        issuer: key identifier of the root that issued it, in hex.
        through: the last policy revision that this signer's word counts for; None: all of them.
        digest: what the policy set must be after that revision; empty: whatever it is.
        scope: what an operator may do.
    """

    id: SpiffeId
    public_key: ec.EllipticCurvePublicKey = field(repr=False)
    fingerprint: str
    not_before: float
    not_after: float
    key_der: bytes = field(repr=False)
    serial: int
    issuer: str = ""
    through: int | None = None
    digest: str = ""
    scope: Scope = EVERYTHING


def verify_certificate(
    der: bytes, bundle: TrustBundle, now: float, *, purpose: Purpose = Purpose.SIGNATURE
) -> Verified:
    """Return whom the certificate ``der`` names, if the mesh vouches for it at ``now``.

    Raises:
        IdentityError: malformed or outside the profile (code BM4003), of another mesh (BM4004), issued by
            no root of the bundle (BM4005), not valid at ``now`` (BM4006), not for ``purpose`` (BM4007).
    """
    verified = _read(der, bundle)
    check_validity(verified, now)
    _check_purpose(verified, purpose)
    return verified


def verify_signature(signer: Verified, signature: bytes, data: bytes) -> None:
    """Check the ECDSA signature of ``signer`` over ``data``.

    Raises:
        IdentityError: it is not theirs, or not over these bytes (code BM4008).
    """
    try:
        signer.public_key.verify(signature, data, SIGNATURE)
    except InvalidSignature:
        raise IdentityError(f"the signature is not by {signer.id}", code="BM4008") from None


def check_validity(verified: Verified, now: float) -> None:
    """Check that certificate and root are valid at ``now``, give or take 20 s between two clocks.

    Raises:
        IdentityError: not yet, or no longer (code BM4006).
    """
    if now + CLOCK_SKEW_S < verified.not_before:
        early = verified.not_before - now
        raise _refused(f"{verified.id} is valid only in {early:.0f} s", "BM4006", "compare the clocks")
    if now - CLOCK_SKEW_S > verified.not_after:
        late = now - verified.not_after
        hint = "its agent could not renew: is the authority up, and do the clocks agree?"
        raise _refused(f"{verified.id} expired {late:.0f} s ago", "BM4006", hint)


class Verifier:
    """Verifies against one bundle, and remembers what passed.

    Args:
        bundle: the roots to believe.
        revocations: whose certificates count no more; whoever adds to it later is heeded at once.
        capacity: how many certificates are remembered; the oldest is forgotten first. One entry holds
            about 1 KiB. Only what passed is remembered, so strangers cannot fill it.
    """

    def __init__(
        self, bundle: TrustBundle, *, revocations: Revocations | None = None, capacity: int = 4096
    ) -> None:
        self._bundle = bundle
        self.revocations = Revocations() if revocations is None else revocations
        self._capacity = capacity
        self._known: dict[bytes, Verified] = {}
        self._hits = self._misses = 0

    def __repr__(self) -> str:
        return f"<Verifier mesh={self._bundle.mesh} roots={len(self._bundle.roots)} known={len(self._known)}>"

    @property
    def bundle(self) -> TrustBundle:
        return self._bundle

    def trust(self, bundle: TrustBundle) -> None:
        """Believe ``bundle`` from now on and forget what earlier roots vouched for.

        Raises:
            IdentityError: it is another mesh's (code BM4002).
        """
        if bundle.mesh != self._bundle.mesh:
            raise IdentityError(f"a bundle of {bundle.mesh!r} for {self._bundle.mesh!r}", code="BM4002")
        kept = {root for root in bundle.roots if root in self._bundle.roots}
        self._known = {
            digest: verified
            for digest, verified in self._known.items()
            if bundle.root(verified.issuer) in kept
        }
        self._bundle = bundle

    def certificate(self, der: bytes, now: float, *, purpose: Purpose = Purpose.SIGNATURE) -> Verified:
        """Do what `verify_certificate` does; a certificate seen before costs one hash.

        Raises:
            IdentityError: as `verify_certificate` does, or revoked (code BM4009).
        """
        verified = self._remembered(der)
        check_validity(verified, now)
        _check_purpose(verified, purpose)
        self.revocations.check(verified.id, verified.serial, verified.not_before)
        return verified

    def signer_in_log(self, der: bytes, signed_at: float) -> Verified:
        """Return who signed an entry of a log at ``signed_at``, unix seconds.

        A log outlives the certificates of its signers, and their roots: `Verified.through` says how far a
        signer counts whose root was retired, or who was revoked. Nothing of it is a matter of dates, which a
        thief of a key can choose.

        Raises:
            IdentityError: as `verify_certificate` does, with the retired roots as further ones.
        """
        try:
            verified = self._remembered(der)
        except IdentityError as error:
            if error.code != "BM4005":
                raise
            verified = self._by_retired(der)
        check_validity(verified, signed_at)
        limit = self.revocations.through(verified.id, verified.serial, verified.not_before)
        if limit is not None and (verified.through is None or limit < verified.through):
            verified = replace(verified, through=limit, digest="")
        return verified

    def known(self, fingerprint: str) -> Verified | None:
        """Return what is remembered of the certificate of this fingerprint (hex), None if nothing is."""
        return self._known.get(bytes.fromhex(fingerprint))

    def _by_retired(self, der: bytes) -> Verified:
        for retired in self._bundle.retired:
            try:
                verified = _read(der, TrustBundle(self._bundle.mesh, (retired.certificate,)))
            except IdentityError:
                continue
            return replace(verified, through=retired.through, digest=retired.digest)
        raise _not_issued(self._bundle.mesh)

    def _remembered(self, der: bytes) -> Verified:
        if len(der) > MAX_CERTIFICATE:
            raise _refused(f"{len(der)} bytes are too many")
        digest = hashlib.sha256(der).digest()
        verified = self._known.get(digest)
        if verified is None:
            self._misses += 1
            verified = _read(der, self._bundle)
            if len(self._known) >= self._capacity:
                del self._known[next(iter(self._known))]
            self._known[digest] = verified
        else:
            self._hits += 1
        return verified

    def statistics(self) -> dict[str, int]:
        return {
            "known": len(self._known),
            "capacity": self._capacity,
            "hits": self._hits,
            "misses": self._misses,
        }


def _refused(reason: str, code: str = "BM4003", hint: str = "") -> IdentityError:
    return IdentityError(f"certificate refused: {reason}", code=code, hint=hint)


def _check_purpose(verified: Verified, purpose: Purpose) -> None:
    if purpose.value is not None and purpose.value not in EXTENDED_USAGE[kind_of(verified.id)]:
        role = "answer" if purpose is Purpose.TLS_SERVER else "begin"
        raise _refused(f"{verified.id} may not {role} a handshake", "BM4007")


def _read(der: bytes, bundle: TrustBundle) -> Verified:
    """Check everything except time and purpose."""
    if len(der) > MAX_CERTIFICATE:
        raise _refused(f"{len(der)} bytes are too many")
    try:
        certificate = x509.load_der_x509_certificate(der)
        public_key = _check_algorithms(certificate)
        spiffe_id = _check_profile(certificate, bundle.mesh)
        scope = _scope(certificate, spiffe_id)
        root = _issuer(certificate, bundle)
        not_before = max(certificate.not_valid_before_utc, root.not_valid_before_utc)
        not_after = min(certificate.not_valid_after_utc, root.not_valid_after_utc)
        # The count of unused bits before the signature is the one byte that it does not cover.
        canonical = der.endswith(b"\0" + certificate.signature)
    except IdentityError:
        raise
    except x509.ExtensionNotFound as error:
        raise _refused(f"it lacks the extension {error.oid._name}") from None
    except UNREADABLE as error:  # whose text may quote the bytes: only its class is told
        raise _refused(f"it cannot be read ({type(error).__name__})") from None
    if not canonical:
        raise _refused("it is not in canonical form")
    return Verified(
        spiffe_id,
        public_key,
        hashlib.sha256(der).hexdigest(),
        not_before.timestamp(),
        not_after.timestamp(),
        key_bytes(public_key),
        certificate.serial_number,
        key_identifier(root).hex(),
        scope=scope,
    )


def _check_algorithms(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    if certificate.version is not x509.Version.v3:
        raise _refused("it is not X.509 version 3")
    if not 0 < certificate.serial_number < 1 << 159:  # RFC 5280 section 4.1.2.2: positive, 20 octets
        raise _refused("its serial number is out of range")
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise _refused("it is not signed by ECDSA with SHA-256")
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not is_p256(public_key):
        raise _refused("its key is not on P-256")
    return public_key


def _check_profile(certificate: x509.Certificate, mesh: str) -> SpiffeId:
    extensions = certificate.extensions
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _refused(f"it has the unknown critical extension {extension.oid.dotted_string}")
    if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise _refused("it is an authority's, not a member's")
    if extensions.get_extension_for_class(x509.KeyUsage).value != key_usage(root=False):
        raise _refused("its key usage is not digitalSignature alone")
    names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise _refused("it does not have exactly one name, a URI")
    try:
        spiffe_id = SpiffeId.parse(names[0].value)
    except InvalidName:
        raise _refused("its name is not a SPIFFE ID of a mesh") from None
    if spiffe_id.mesh != mesh:
        hint = "two meshes share this bus: give each its own name"
        raise _refused(f"it is of mesh {spiffe_id.mesh!r}, not {mesh!r}", "BM4004", hint)
    usage = frozenset(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    if usage != EXTENDED_USAGE[kind_of(spiffe_id)]:
        raise _refused(f"its extended key usage is not that of a {kind_of(spiffe_id)}")
    return spiffe_id


def _scope(certificate: x509.Certificate, spiffe_id: SpiffeId) -> Scope:
    """Return what an operator may do; of nobody else a certificate says anything of the kind."""
    try:
        extension = certificate.extensions.get_extension_for_oid(SCOPE_OID)
    except x509.ExtensionNotFound:
        return EVERYTHING
    if kind_of(spiffe_id) is not Kind.OPERATOR or not extension.critical:
        raise _refused("its scope is not that of an operator")
    if not isinstance(extension.value, x509.UnrecognizedExtension):
        raise _refused("its scope cannot be read")
    return Scope.from_der(extension.value.value)


def _issuer(certificate: x509.Certificate, bundle: TrustBundle) -> x509.Certificate:
    """Return the root that signed ``certificate``; leaves stand directly below a root, without a chain."""
    named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    for root in bundle.roots:
        if root.subject == certificate.issuer and key_identifier(root) == named:
            try:
                certificate.verify_directly_issued_by(root)
            except InvalidSignature:
                break
            return root
    raise _not_issued(bundle.mesh)


def _not_issued(mesh: str) -> IdentityError:
    hint = "its agent must enrol with a join token of this mesh"
    return _refused(f"no root of mesh {mesh!r} issued it", "BM4005", hint)
