"""Certificates as an attacker, or a careless authority, would make them: one defect at a time."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.profile import key_usage
from busmesh.identity.svid import Svid
from busmesh.identity.trust import key_identifier
from busmesh.names import ServiceName, SpiffeId

NOW = 1_900_000_000.0
MESH = "local"
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
Extension = tuple[x509.ExtensionType, bool]

_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def workload(service: str = "orders", instance: str = "orders-0", mesh: str = MESH) -> SpiffeId:
    return SpiffeId.workload(mesh, ServiceName.parse(service), instance)


def svid(ca: CertificateAuthority, service: str, now: float = NOW, lifetime_s: float | None = None) -> Svid:
    return ca.issue_svid(workload(service, f"{service}-0", ca.mesh), now, lifetime_s=lifetime_s)


def uri(*uris: str) -> Extension:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(value) for value in uris]), False


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def good_extensions(ca: CertificateAuthority) -> dict[str, Extension]:
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return {
        "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
        "usage": (key_usage(root=False), True),
        "extended": (x509.ExtendedKeyUsage(usage), False),
        "names": uri(str(workload())),
        "authority": (x509.AuthorityKeyIdentifier(key_identifier(ca.certificate), None, None), False),
    }


def forge(
    ca: CertificateAuthority,
    *,
    change: dict[str, Extension | None] | None = None,
    key: PublicKey | None = None,
    signer: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    issuer: x509.Name | None = None,
    digest: hashes.SHA256 | hashes.SHA384 | None = None,
    begin: float = NOW - 30,
    end: float = NOW + 3600,
) -> bytes:
    """Return a certificate like the authority's own, but for what the arguments change."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("orders-0"))
        .issuer_name(issuer or ca.certificate.subject)
        .public_key(key or ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_date(begin))
        .not_valid_after(_date(end))
    )
    for extension in (good_extensions(ca) | (change or {})).values():
        if extension is not None:
            builder = builder.add_extension(extension[0], critical=extension[1])
    signed = builder.sign(signer or ca.private_key, digest or hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.DER)


def resigned(ca: CertificateAuthority, edit: Callable[[list[bytes]], Sequence[bytes]]) -> bytes:
    """Return a good certificate whose TBS elements were edited, then signed by the true root again.

    The elements are: version, serial, algorithm, issuer, validity, subject, key, extensions.
    """
    certificate = x509.load_der_x509_certificate(forge(ca))
    (tbs,) = elements(certificate.tbs_certificate_bytes)
    edited = tlv(0x30, b"".join(edit(elements(body(tbs)))))
    signature = ca.private_key.sign(edited, ec.ECDSA(hashes.SHA256()))
    return tlv(0x30, edited + _ECDSA_SHA256 + tlv(0x03, b"\0" + signature))


def tlv(tag: int, content: bytes) -> bytes:
    """Return one DER element."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def elements(der: bytes) -> list[bytes]:
    """Split concatenated DER elements."""
    found = []
    while der:
        end = _header(der) + _size(der)
        found.append(der[:end])
        der = der[end:]
    return found


def body(element: bytes) -> bytes:
    return element[_header(element) :]


def _header(der: bytes) -> int:
    return 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)


def _size(der: bytes) -> int:
    return der[1] if der[1] < 0x80 else int.from_bytes(der[2 : _header(der)], "big")


def _date(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
