"""A certificate proves an identity, or is refused; here is what is refused, one defect at a time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.errors import IdentityError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.profile import CLOCK_SKEW_S, key_usage
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Purpose, Verified, Verifier, verify_certificate, verify_signature
from busmesh.names import SpiffeId
from tests.identity.forge import (
    MESH,
    NOW,
    body,
    elements,
    forge,
    good_extensions,
    name,
    resigned,
    svid,
    tlv,
    uri,
    workload,
)

CA = CertificateAuthority
_P256 = ec.generate_private_key(ec.SECP256R1())
_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
_ID = str(workload())


def _usage(*purposes: ObjectIdentifier) -> tuple[x509.ExtendedKeyUsage, bool]:
    return x509.ExtendedKeyUsage(purposes), False


def _key_usage(**changed: bool) -> tuple[x509.KeyUsage, bool]:
    flags = {
        "digital_signature": True,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    return x509.KeyUsage(**(flags | changed)), True


def _uri_and(other: x509.GeneralName) -> tuple[x509.SubjectAlternativeName, bool]:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_ID), other]), False


def _below_a_leaf(ca: CA) -> bytes:
    """A member that plays the authority: signed by its own, genuine key."""
    member = svid(ca, "orders")
    return forge(ca, signer=member.private_key, issuer=member.certificate.subject)


def _below_an_intermediate(ca: CA) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return forge(ca, signer=key, issuer=name("intermediate"))


def _double_extension(fields: list[bytes]) -> list[bytes]:
    extensions = elements(body(elements(body(fields[7]))[0]))
    return [*fields[:7], tlv(0xA3, tlv(0x30, b"".join([*extensions, extensions[0]])))]


def _serial(content: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda fields: [fields[0], tlv(0x02, content), *fields[2:]]


def _flipped_signature(ca: CA) -> bytes:
    der = bytearray(forge(ca))
    der[-1] ^= 1
    return bytes(der)


def _padded(ca: CA) -> bytes:
    extra = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(4000))
    return forge(ca, change={"extra": (extra, False)})


def _unknown(critical: bool) -> tuple[x509.UnrecognizedExtension, bool]:
    return x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00"), critical


def _by_sha1(ca: CA) -> bytes:
    """Signed by the true root with SHA-1, of which two documents with one digest have been made."""
    (tbs,) = elements(x509.load_der_x509_certificate(forge(ca)).tbs_certificate_bytes)
    fields = elements(body(tbs))
    altered = tlv(0x30, b"".join([*fields[:2], _ECDSA_SHA1, *fields[3:]]))
    signature = ca.private_key.sign(altered, ec.ECDSA(hashes.SHA1()))
    return tlv(0x30, altered + _ECDSA_SHA1 + tlv(0x03, b"\0" + signature))


def _below_a_granted_authority(ca: CA) -> bytes:
    """Signed by an authority that the root itself vouched for: the root's path length is 0."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    middle = forge(
        ca,
        key=key.public_key(),
        change={
            "constraints": (x509.BasicConstraints(True, 0), True),
            "usage": (key_usage(root=True), True),
            "subject": (identifier, False),
        },
    )
    issuer = x509.load_der_x509_certificate(middle).subject
    named = (x509.AuthorityKeyIdentifier(identifier.digest, None, None), False)
    return forge(ca, signer=key, issuer=issuer, change={"authority": named})


def _as(uri_text: str) -> Callable[[CA], bytes]:
    return lambda ca: forge(ca, change={"names": uri(uri_text)})


def _changed(**change: tuple[x509.ExtensionType, bool] | None) -> Callable[[CA], bytes]:
    return lambda ca: forge(ca, change=dict(change))


_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
_ECDSA_SHA1 = bytes.fromhex("300906072a8648ce3d0401")
_SHA384_INSIDE = bytes.fromhex("300a06082a8648ce3d040303")

BAD: dict[str, tuple[str, Callable[[CA], bytes]]] = {
    # form
    "empty": ("BM4003", lambda ca: b""),
    "junk": ("BM4003", lambda ca: b"\x30\x82\x01\x00" + bytes(256)),
    "too large": ("BM4003", _padded),
    "cut off": ("BM4003", lambda ca: forge(ca)[:-1]),
    "bytes after it": ("BM4003", lambda ca: forge(ca) + b"\0"),
    "PEM": (
        "BM4003",
        lambda ca: x509.load_der_x509_certificate(forge(ca)).public_bytes(serialization.Encoding.PEM),
    ),
    "version 1": ("BM4003", lambda ca: resigned(ca, lambda fields: fields[1:])),
    "version 8": (
        "BM4003",
        lambda ca: resigned(ca, lambda fields: [tlv(0xA0, b"\x02\x01\x07"), *fields[1:]]),
    ),
    "serial 0": ("BM4003", lambda ca: resigned(ca, _serial(b"\0"))),
    "negative serial": ("BM4003", lambda ca: resigned(ca, _serial(b"\x85"))),
    "serial of 21 octets": ("BM4003", lambda ca: resigned(ca, _serial(b"\x7f" + bytes(20)))),
    "an extension twice": ("BM4003", lambda ca: resigned(ca, _double_extension)),
    "no extensions": ("BM4003", lambda ca: resigned(ca, lambda fields: fields[:7])),
    "two signature algorithms": (
        "BM4003",
        lambda ca: resigned(ca, lambda fields: [*fields[:2], _SHA384_INSIDE, *fields[3:]]),
    ),
    # algorithms
    "signed with SHA-384": ("BM4003", lambda ca: forge(ca, digest=hashes.SHA384())),
    "signed with SHA-1": ("BM4003", _by_sha1),
    "signed with RSA": ("BM4003", lambda ca: forge(ca, signer=_RSA)),
    "P-384 key": ("BM4003", lambda ca: forge(ca, key=ec.generate_private_key(ec.SECP384R1()).public_key())),
    "P-224 key": ("BM4003", lambda ca: forge(ca, key=ec.generate_private_key(ec.SECP224R1()).public_key())),
    "secp256k1 key": (
        "BM4003",
        lambda ca: forge(ca, key=ec.generate_private_key(ec.SECP256K1()).public_key()),
    ),
    "weak RSA key": ("BM4003", lambda ca: forge(ca, key=_WEAK_RSA.public_key())),
    "RSA key": ("BM4003", lambda ca: forge(ca, key=_RSA.public_key())),
    "Ed25519 key": ("BM4003", lambda ca: forge(ca, key=ed25519.Ed25519PrivateKey.generate().public_key())),
    # who issued it
    "by itself": ("BM4005", lambda ca: forge(ca, key=_P256.public_key(), signer=_P256)),
    "by a root of the same name": ("BM4005", lambda ca: forge(ca, signer=_P256)),
    "by a member": ("BM4005", _below_a_leaf),
    "by an intermediate": ("BM4005", _below_an_intermediate),
    "by an authority below the root": ("BM4005", _below_a_granted_authority),
    "by the root before this one": ("BM4005", lambda ca: forge(CA.create(MESH, NOW))),
    "flipped signature": ("BM4005", _flipped_signature),
    "another root's key identifier": (
        "BM4005",
        _changed(authority=(x509.AuthorityKeyIdentifier(bytes(20), None, None), False)),
    ),
    "no authority key identifier": ("BM4003", _changed(authority=None)),
    "the root itself": (
        "BM4003",
        lambda ca: ca.certificate.public_bytes(serialization.Encoding.DER),
    ),
    # time
    "expired": ("BM4006", lambda ca: forge(ca, end=NOW - CLOCK_SKEW_S - 1)),
    "not yet valid": ("BM4006", lambda ca: forge(ca, begin=NOW + CLOCK_SKEW_S + 1)),
    # what it may do
    "an authority's": ("BM4003", _changed(constraints=(x509.BasicConstraints(True, None), True))),
    "no basic constraints": ("BM4003", _changed(constraints=None)),
    "no key usage": ("BM4003", _changed(usage=None)),
    "key usage of a root": ("BM4003", _changed(usage=(key_usage(root=True), True))),
    "may sign certificates too": ("BM4003", _changed(usage=_key_usage(key_cert_sign=True))),
    "may not sign": (
        "BM4003",
        _changed(usage=_key_usage(digital_signature=False, key_agreement=True)),
    ),
    "no extended key usage": ("BM4003", _changed(extended=None)),
    "client only": ("BM4003", _changed(extended=_usage(_CLIENT))),
    "server only": ("BM4003", _changed(extended=_usage(_SERVER))),
    "code signing too": (
        "BM4003",
        _changed(extended=_usage(_CLIENT, _SERVER, ExtendedKeyUsageOID.CODE_SIGNING)),
    ),
    "any purpose": ("BM4003", _changed(extended=_usage(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE))),
    "unknown critical extension": ("BM4003", _changed(extra=_unknown(critical=True))),
    "critical name constraints": (
        "BM4003",
        _changed(extra=(x509.NameConstraints([x509.DNSName("mesh")], None), True)),
    ),
    # whom it names
    "no name": ("BM4003", _changed(names=None)),
    "two SPIFFE IDs": ("BM4003", _changed(names=uri(_ID, str(workload("web", "web-0"))))),
    "the same ID twice": ("BM4003", _changed(names=uri(_ID, _ID))),
    "a DNS name too": ("BM4003", _changed(names=_uri_and(x509.DNSName("orders")))),
    "only a DNS name": (
        "BM4003",
        _changed(names=(x509.SubjectAlternativeName([x509.DNSName("orders")]), False)),
    ),
    "an e-mail address too": ("BM4003", _changed(names=_uri_and(x509.RFC822Name("a@b.c")))),
    "https URI": ("BM4003", _as("https://local/ns/default/svc/orders/i/orders-0")),
    "no path": ("BM4003", _as("spiffe://local")),
    "query": ("BM4003", _as(_ID + "?x=1")),
    "fragment": ("BM4003", _as(_ID + "#x")),
    "port": ("BM4003", _as("spiffe://local:443/ns/default/svc/orders/i/orders-0")),
    "user": ("BM4003", _as("spiffe://root@local/ns/default/svc/orders/i/orders-0")),
    "capitals": ("BM4003", _as("spiffe://local/ns/default/svc/Orders/i/orders-0")),
    "wildcard": ("BM4003", _as("spiffe://local/ns/default/svc/*/i/orders-0")),
    "trailing slash": ("BM4003", _as(_ID + "/")),
    "dot segments": ("BM4003", _as("spiffe://local/ns/default/svc/../i/orders-0")),
    "NUL": ("BM4003", _as(_ID + "\0")),
    "another mesh": ("BM4004", _as("spiffe://other/ns/default/svc/orders/i/orders-0")),
    "operator with a workload's usage": ("BM4003", _as("spiffe://local/operator/ann")),
}


def test_forgery_without_a_defect_passes(ca: CA) -> None:
    """Each row below is refused for its defect alone."""
    assert verify_certificate(forge(ca), ca.bundle, NOW).id == workload()
    assert verify_certificate(resigned(ca, lambda fields: fields), ca.bundle, NOW).id == workload()
    assert verify_certificate(_changed(extra=_unknown(critical=False))(ca), ca.bundle, NOW).id == workload()
    assert len(BAD) >= 50


@pytest.mark.parametrize("defect", BAD)
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_t07_bad_certificate_is_refused(ca: CA, defect: str) -> None:
    code, make = BAD[defect]
    der = make(ca)
    verifier = Verifier(ca.bundle)
    with pytest.raises(IdentityError, match=code):
        verify_certificate(der, ca.bundle, NOW)
    with pytest.raises(IdentityError, match=code):
        verifier.certificate(der, NOW)
    if code != "BM4006":
        assert verifier.statistics()["known"] == 0


def test_warning_about_a_serial_number_as_error_is_a_refusal_too(ca: CA) -> None:
    with pytest.raises(IdentityError, match="BM4003"):
        verify_certificate(resigned(ca, _serial(b"\x85")), ca.bundle, NOW)


def test_every_flipped_byte_is_refused(ca: CA) -> None:
    der = svid(ca, "orders").der
    while der[-1] & 1:  # then the count of unused bits, which no signature covers, can be 1 in valid DER
        der = svid(ca, "orders").der
    for position in range(len(der)):
        for bit in (1, 0x80):
            altered = bytearray(der)
            altered[position] ^= bit
            with pytest.raises(IdentityError):
                verify_certificate(bytes(altered), ca.bundle, NOW)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(IdentityError):
        verify_certificate(data, _FUZZ_CA.bundle, NOW)


_FUZZ_CA = CertificateAuthority.create(MESH, NOW)
_FUZZ_DER = forge(_FUZZ_CA)


@settings(max_examples=300)
@given(st.integers(0, len(_FUZZ_DER)), st.integers(0, 8), st.binary(max_size=8))
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_spliced_certificate_is_refused(at: int, removed: int, added: bytes) -> None:
    altered = _FUZZ_DER[:at] + added + _FUZZ_DER[at + removed :]
    if altered != _FUZZ_DER:
        with pytest.raises(IdentityError):
            verify_certificate(altered, _FUZZ_CA.bundle, NOW)


@pytest.mark.parametrize(
    ("spiffe_id", "purpose", "admitted"),
    [
        (workload(), Purpose.SIGNATURE, True),
        (workload(), Purpose.TLS_CLIENT, True),
        (workload(), Purpose.TLS_SERVER, True),
        (SpiffeId(MESH, operator="ann"), Purpose.SIGNATURE, True),
        (SpiffeId(MESH, operator="ann"), Purpose.TLS_CLIENT, True),
        (SpiffeId(MESH, operator="ann"), Purpose.TLS_SERVER, False),
        (SpiffeId(MESH, authority="root"), Purpose.SIGNATURE, True),
        (SpiffeId(MESH, authority="root"), Purpose.TLS_SERVER, False),
    ],
)
def test_purpose(ca: CA, spiffe_id: SpiffeId, purpose: Purpose, admitted: bool) -> None:
    der = ca.issue_svid(spiffe_id, NOW).der
    if admitted:
        assert verify_certificate(der, ca.bundle, NOW, purpose=purpose).id == spiffe_id
    else:
        with pytest.raises(IdentityError, match="BM4007"):
            verify_certificate(der, ca.bundle, NOW, purpose=purpose)


@pytest.mark.parametrize(
    ("offset", "admitted"),
    [(-30 - 20, True), (-30 - 21, False), (0, True), (3600 + 20, True), (3600 + 21, False)],
)
def test_validity_allows_twenty_seconds_of_skew(ca: CA, offset: float, admitted: bool) -> None:
    der = svid(ca, "orders").der
    verifier = Verifier(ca.bundle)
    verifier.certificate(der, NOW)  # remembered, and yet time is checked anew
    if admitted:
        assert verifier.certificate(der, NOW + offset).id == workload()
    else:
        with pytest.raises(IdentityError, match="BM4006"):
            verifier.certificate(der, NOW + offset)


def test_expired_root_vouches_for_nobody() -> None:
    short = CertificateAuthority.create(MESH, NOW, lifetime_s=100)
    der = forge(short, end=NOW + 3600)
    assert verify_certificate(der, short.bundle, NOW + 100).not_after == NOW + 100
    with pytest.raises(IdentityError, match="BM4006"):
        verify_certificate(der, short.bundle, NOW + 121)


def test_verified_says_who_and_which_key(ca: CA) -> None:
    member = svid(ca, "orders")
    verified = verify_certificate(member.der, ca.bundle, NOW)
    assert verified.id == member.id
    assert verified.fingerprint == member.fingerprint == hashlib.sha256(member.der).hexdigest()
    assert (verified.not_before, verified.not_after) == (NOW - 30, NOW + 3600)
    assert verified.key_der == member.private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_either_of_two_roots_vouches_while_one_replaces_the_other(ca: CA, other_ca: CA) -> None:
    both = TrustBundle(MESH, (ca.certificate, other_ca.certificate))
    old, new = svid(ca, "orders").der, svid(other_ca, "orders").der
    assert verify_certificate(old, both, NOW).id == verify_certificate(new, both, NOW).id
    for der, bundle in ((new, ca.bundle), (old, other_ca.bundle)):
        with pytest.raises(IdentityError, match="BM4005"):
            verify_certificate(der, bundle, NOW)


def test_verifier_forgets_what_a_removed_root_vouched_for(ca: CA, other_ca: CA) -> None:
    verifier = Verifier(TrustBundle(MESH, (ca.certificate, other_ca.certificate)))
    der = svid(ca, "orders").der
    verifier.certificate(der, NOW)
    verifier.trust(other_ca.bundle)
    with pytest.raises(IdentityError, match="BM4005"):
        verifier.certificate(der, NOW)
    with pytest.raises(IdentityError, match="BM4002"):
        verifier.trust(CertificateAuthority.create("elsewhere", NOW).bundle)


def test_verifier_remembers_within_its_bound(ca: CA) -> None:
    verifier = Verifier(ca.bundle, capacity=3)
    members = [forge(ca) for _ in range(5)]
    for der in members:
        verifier.certificate(der, NOW)
        verifier.certificate(der, NOW)
    assert verifier.statistics() == {"known": 3, "capacity": 3, "hits": 5, "misses": 5}
    verifier.certificate(members[0], NOW)
    assert verifier.statistics()["misses"] == 6
    assert repr(verifier) == "<Verifier mesh=local roots=1 known=3>"


def _root(ca: CA, **change: tuple[x509.ExtensionType, bool] | None) -> x509.Certificate:
    """A self-signed certificate with a root's profile, but for what changes."""
    profile: dict[str, tuple[x509.ExtensionType, bool] | None] = {
        "constraints": (x509.BasicConstraints(True, 0), True),
        "usage": (key_usage(root=True), True),
        "extended": None,
        "names": uri(f"spiffe://{MESH}"),
        "subject": (x509.SubjectKeyIdentifier.from_public_key(_P256.public_key()), False),
    }
    der = forge(ca, change=profile | change, key=_P256.public_key(), signer=_P256, issuer=name("orders-0"))
    return x509.load_der_x509_certificate(der)


@pytest.mark.parametrize(
    "change",
    [
        {"constraints": (x509.BasicConstraints(False, None), True)},
        {"constraints": (x509.BasicConstraints(True, 0), False)},
        {"constraints": None},
        {"usage": (key_usage(root=False), True)},
        {"usage": None},
        {"names": None},
        {"names": uri("spiffe://other")},
        {"names": uri(f"spiffe://{MESH}", "spiffe://other")},
        {"subject": None},
    ],
)
def test_bundle_refuses_what_is_no_root_of_the_mesh(
    ca: CA, change: dict[str, tuple[x509.ExtensionType, bool] | None]
) -> None:
    TrustBundle(MESH, (_root(ca),))
    with pytest.raises(IdentityError, match="BM4002"):
        TrustBundle(MESH, (_root(ca, **change),))


def test_bundle_refuses_a_root_that_did_not_sign_itself(ca: CA) -> None:
    crossed = forge(
        ca,
        change={
            "constraints": (x509.BasicConstraints(True, 0), True),
            "usage": (key_usage(root=True), True),
            "names": uri(f"spiffe://{MESH}"),
            "subject": (x509.SubjectKeyIdentifier.from_public_key(_P256.public_key()), False),
        },
        key=_P256.public_key(),
    )
    with pytest.raises(IdentityError, match="BM4002"):
        TrustBundle(MESH, (x509.load_der_x509_certificate(crossed),))


def test_bundle_bounds_its_roots(ca: CA) -> None:
    with pytest.raises(IdentityError, match="BM4002"):
        TrustBundle(MESH, ())
    with pytest.raises(IdentityError, match="BM4002"):
        TrustBundle(MESH, (ca.certificate,) * 9)
    with pytest.raises(IdentityError, match="BM4002"):
        TrustBundle("*", (ca.certificate,))


def test_bundle_survives_pem(ca: CA, other_ca: CA) -> None:
    both = TrustBundle(MESH, (ca.certificate, other_ca.certificate))
    assert TrustBundle.from_pem(both.to_pem(), MESH) == both
    with pytest.raises(IdentityError, match="BM4002"):
        TrustBundle.from_pem(both.to_pem(), "other")
    with pytest.raises(IdentityError, match="BM4002"):
        TrustBundle.from_pem(b"#" * 70_000, MESH)


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda b: _FUZZ_CA.bundle.to_pem() + b))
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_bundle_from_arbitrary_pem(pem: bytes) -> None:
    with contextlib.suppress(IdentityError):
        assert TrustBundle.from_pem(pem, MESH).roots[0] == _FUZZ_CA.certificate


def test_signature_vector_of_rfc_6979() -> None:
    """RFC 6979 section A.2.5: P-256, SHA-256, message "sample"."""
    public_key = ec.EllipticCurvePublicNumbers(
        0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6,
        0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299,
        ec.SECP256R1(),
    ).public_key()
    signer = Verified(workload(), public_key, "", 0, 0, b"", 1)
    r = bytes.fromhex("EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716")
    s = bytes.fromhex("F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8")
    signature = tlv(0x30, tlv(0x02, b"\0" + r) + tlv(0x02, b"\0" + s))
    verify_signature(signer, signature, b"sample")
    for bad, data in ((signature, b"samplf"), (signature[:-1], b"sample"), (b"", b"sample")):
        with pytest.raises(IdentityError, match="BM4008"):
            verify_signature(signer, bad, data)


def test_good_extensions_match_what_the_authority_issues(ca: CA) -> None:
    """The table's baseline is the product's own certificate."""
    issued = svid(ca, "orders").certificate.extensions
    assert {(e.value, e.critical) for e in issued} == set(good_extensions(ca).values())
