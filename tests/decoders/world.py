"""A mesh whose keys are all at hand: what an attacker with a certificate, or an authority, could sign."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.holder import Identity
from busmesh.identity.signed import seal_signed
from busmesh.identity.svid import Svid, new_key, signing_request
from busmesh.identity.verify import Verifier
from busmesh.names import ServiceName, SpiffeId, Subjects

MESH = "local"
SUBJECTS = Subjects(MESH)
ORDERS, WEB = ServiceName("orders"), ServiceName("web")
#: Nothing of what is signed here ages while tests run, where a function is told the time.
NOW = time.time()
CA = CertificateAuthority.create(MESH, NOW)
KEY = new_key()
ORDERS_SVID = CA.issue_svid(SpiffeId.workload(MESH, ORDERS, "orders-0"), NOW)
WEB_SVID = CA.issue_svid(SpiffeId.workload(MESH, WEB, "web-0"), NOW)
OPERATOR = CA.issue_svid(SpiffeId(MESH, operator="ann"), NOW)
AUTHORITY = CA.issue_svid(SpiffeId(MESH, authority="root"), NOW)
VERIFIER = Verifier(CA.bundle)
REQUEST = signing_request(KEY)


def identity(svid: Svid = WEB_SVID) -> Identity:
    return Identity(svid, CA.bundle)


def signed(svid: Svid, purpose: str, *, live: bool = False) -> Callable[[bytes], bytes]:
    """Return what puts a body into an envelope; ``live``: for who asks the clock."""
    return lambda body: seal_signed(svid, purpose, body, time.time() if live else NOW)


def resigned(key: ec.EllipticCurvePrivateKey, algorithm: bytes) -> Callable[[bytes], bytes]:
    """Return what signs the inner part of a certificate or request, whatever it is."""

    def sign(inner: bytes) -> bytes:
        signature = key.sign(inner, ec.ECDSA(hashes.SHA256()))
        return _der(0x30, inner + algorithm + _der(0x03, b"\0" + signature))

    return sign


#: ecdsa-with-SHA256, as both write it (RFC 5758 section 3.2).
ECDSA = bytes.fromhex("300a06082a8648ce3d040302")
CERTIFICATE = ORDERS_SVID.certificate.tbs_certificate_bytes
SIGNING_REQUEST = x509.load_der_x509_csr(REQUEST).tbs_certrequest_bytes
by_root = resigned(CA.private_key, ECDSA)
by_key = resigned(KEY, ECDSA)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    width = (size.bit_length() + 7) // 8
    length = bytes([size]) if size < 0x80 else bytes([0x80 | width]) + size.to_bytes(width)
    return bytes([tag]) + length + content


def driven(work: Any) -> Any:
    """Run a coroutine that waits for nothing, without a loop."""
    try:
        while True:
            work.send(None)
    except StopIteration as end:
        return end.value
