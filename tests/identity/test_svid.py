"""SVIDs, what the authority issues, and when to renew."""

from __future__ import annotations

import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import IdentityError, InvalidName
from busmesh.identity.ca import CertificateAuthority, requested_key
from busmesh.identity.profile import Kind, key_bytes, kind_of
from busmesh.identity.svid import Svid, new_key, renewal_time, signing_request
from busmesh.identity.verify import verify_certificate, verify_signature
from busmesh.names import SpiffeId
from tests.identity.forge import MESH, NOW, forge, name, workload

OPERATOR = SpiffeId(MESH, operator="ann")
AUTHORITY = SpiffeId(MESH, authority="root")


def test_what_an_svid_signs_verifies_with_its_certificate(ca: CertificateAuthority, orders: Svid) -> None:
    verified = verify_certificate(orders.der, ca.bundle, NOW)
    verify_signature(verified, orders.sign(b"data"), b"data")
    with pytest.raises(IdentityError, match="BM4008"):
        verify_signature(verified, orders.sign(b"data"), b"date")


def test_svid_needs_its_own_key(ca: CertificateAuthority) -> None:
    key = new_key()
    der = ca.issue(workload(), key.public_key(), NOW)
    assert Svid.of(der, key).id == workload()
    bad = {
        "another key": (der, new_key()),
        "junk": (b"junk", key),
        "too large": (der + bytes(5000), key),
        "a root": (ca.certificate.public_bytes(serialization.Encoding.DER), ca.private_key),
        "not P-256": (forge(ca, key=ec.generate_private_key(ec.SECP384R1()).public_key()), key),
        "no name": (forge(ca, change={"names": None}, key=key.public_key()), key),
    }
    for certificate, its_key in bad.values():
        with pytest.raises(IdentityError, match="BM4001"):
            Svid.of(certificate, its_key)


def test_repr_shows_no_key(orders: Svid, ca: CertificateAuthority) -> None:
    assert "orders-0" in repr(orders)
    for text in (repr(orders), repr(ca)):
        assert "Key" not in text
        assert "key" not in text


@pytest.mark.parametrize(
    ("spiffe_id", "kind", "lifetime_s"),
    [
        (workload(), Kind.WORKLOAD, 3600),
        (OPERATOR, Kind.OPERATOR, 90 * 86400),
        (AUTHORITY, Kind.AUTHORITY, 3600),
    ],
)
def test_lifetime_follows_the_kind(
    ca: CertificateAuthority, spiffe_id: SpiffeId, kind: Kind, lifetime_s: float
) -> None:
    issued = ca.issue_svid(spiffe_id, NOW)
    assert kind_of(issued.id) is kind
    assert (issued.not_before, issued.not_after) == (NOW - 30, NOW + lifetime_s)
    assert ca.issue_svid(spiffe_id, NOW, lifetime_s=10).not_after == NOW + 10


def test_nothing_outlives_the_root() -> None:
    short = CertificateAuthority.create(MESH, NOW, lifetime_s=100)
    assert short.issue_svid(workload(), NOW).not_after == NOW + 100


def test_root_lives_for_ten_years_and_signs_no_other_authority(ca: CertificateAuthority) -> None:
    root = ca.certificate
    assert root.not_valid_after_utc.timestamp() - NOW == 3652 * 86400
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.path_length) == (True, 0)
    other = CertificateAuthority.create(MESH, NOW).certificate
    assert (other.subject != root.subject) is True
    assert CertificateAuthority.create("a" * 63, NOW).mesh == "a" * 63


def test_authority_keeps_to_its_mesh(ca: CertificateAuthority, other_ca: CertificateAuthority) -> None:
    with pytest.raises(IdentityError, match="BM4011"):
        ca.issue_svid(workload(mesh="other"), NOW)
    with pytest.raises(IdentityError, match="BM4002"):
        CertificateAuthority("other", ca.certificate, ca.private_key)
    with pytest.raises(IdentityError, match="BM4010"):
        CertificateAuthority(MESH, ca.certificate, other_ca.private_key)
    with pytest.raises(InvalidName):
        CertificateAuthority.create("*", NOW)


def _csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, digest: hashes.SHA256 | hashes.SHA384) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("whatever"))
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


def test_signing_request_proves_its_key(ca: CertificateAuthority) -> None:
    key = new_key()
    assert key_bytes(requested_key(signing_request(key))) == key_bytes(key.public_key())
    issued = ca.issue(workload(), signing_request(key), NOW)
    assert Svid.of(issued, key).id == workload()


def test_signing_request_cannot_choose_a_name(ca: CertificateAuthority) -> None:
    key = new_key()
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(OPERATOR))])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name("ann"))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    issued = ca.issue(workload(), request.public_bytes(serialization.Encoding.DER), NOW)
    assert verify_certificate(issued, ca.bundle, NOW).id == workload()


def test_bad_signing_requests_are_refused() -> None:
    key = new_key()
    good = signing_request(key)
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    somebody_elses = good.replace(key_bytes(key.public_key()), key_bytes(new_key().public_key()))
    assert somebody_elses != good
    bad = {
        "empty": b"",
        "flipped signature": flipped,
        "another's key": somebody_elses,
        "cut off": good[:-1],
        "bytes after": good + b"\0",
        "too large": good + bytes(3000),
        "P-384": _csr(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        "RSA": _csr(rsa.generate_private_key(public_exponent=65537, key_size=2048), hashes.SHA256()),
        "SHA-384": _csr(key, hashes.SHA384()),
    }
    for request in bad.values():
        with pytest.raises(IdentityError, match="BM4012"):
            requested_key(request)


_REQUEST = signing_request(new_key())


@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(_REQUEST) - 1), st.integers(1, 255)).map(
        lambda at: _REQUEST[: at[0]] + bytes([_REQUEST[at[0]] ^ at[1]]) + _REQUEST[at[0] + 1 :]
    )
)
def test_arbitrary_signing_requests_raise_typed_errors_only(data: bytes) -> None:
    try:
        key = requested_key(data)
    except IdentityError:
        return
    assert key_bytes(key) in _REQUEST  # the one byte that its signature does not cover


@given(st.integers(0, 2**32))
def test_renewal_at_half_life_give_or_take_a_tenth(seed: int) -> None:
    at = renewal_time(NOW, NOW + 3600, random.Random(seed))
    assert NOW + 1620 <= at <= NOW + 1980


def test_renewals_spread() -> None:
    rng = random.Random(1)
    times = [renewal_time(0, 3600, rng) for _ in range(1000)]
    assert min(times) < 1640
    assert max(times) > 1960
    assert 1790 < sum(times) / 1000 < 1810
