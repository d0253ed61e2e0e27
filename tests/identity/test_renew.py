"""Renewal: the same identity, a new key, and the way by which new roots spread."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import BusmeshError, IdentityError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.enrol import Answer, Refusal
from busmesh.identity.fields import pack
from busmesh.identity.profile import key_bytes
from busmesh.identity.renew import Renewal, answer_renewal
from busmesh.identity.signed import seal_signed
from busmesh.identity.svid import Svid, new_key, signing_request
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier, verify_certificate
from busmesh.names import SpiffeId
from tests.identity.forge import MESH, NOW, svid

AUTHORITY = SpiffeId(MESH, authority="root")


@pytest.fixture(scope="module")
def root(ca: CertificateAuthority) -> Svid:
    """The authority's own SVID."""
    return ca.issue_svid(AUTHORITY, NOW)


def test_member_gets_its_next_svid(
    ca: CertificateAuthority, root: Svid, orders: Svid, verifier: Verifier
) -> None:
    key, later = new_key(), NOW + 1800
    renewal = Renewal(orders, key, later)
    answered = answer_renewal(renewal.request(), ca, root, verifier, later)
    svid_, bundle, _ = renewal.finish(answered.reply, verifier, later)
    assert (answered.id, answered.refusal) == (orders.id, None)
    assert (svid_.id, svid_.private_key, bundle) == (orders.id, key, ca.bundle)
    assert svid_.not_after == later + 3600
    assert repr(renewal) == f"<Renewal of {orders.id}>"


@pytest.mark.parametrize("defect", ["expired", "other root", "other purpose", "old", "no request", "junk"])
def test_authority_denies(
    ca: CertificateAuthority,
    other_ca: CertificateAuthority,
    root: Svid,
    orders: Svid,
    verifier: Verifier,
    defect: str,
) -> None:
    csr = pack(signing_request(new_key()), b"", b"")
    now = NOW + 4000 if defect == "expired" else NOW
    request = {
        "expired": seal_signed(orders, "renew", csr, now),
        "other root": seal_signed(svid(other_ca, "orders"), "renew", csr, NOW),
        "other purpose": seal_signed(orders, "member", csr, NOW),
        "old": seal_signed(orders, "renew", csr, NOW - 100),
        "no request": seal_signed(orders, "renew", pack(b"junk", b""), NOW),
        "junk": b"junk",
    }[defect]
    assert answer_renewal(request, ca, root, verifier, now) == Answer(pack(b""), None, Refusal.DENIED)


def test_denial_says_what_to_do(orders: Svid, verifier: Verifier) -> None:
    with pytest.raises(IdentityError, match=r"BM4203.*join token"):
        Renewal(orders, new_key(), NOW).finish(pack(b""), verifier, NOW)


def test_reply_must_be_the_authoritys_and_to_this_request(
    ca: CertificateAuthority, other_ca: CertificateAuthority, root: Svid, orders: Svid, verifier: Verifier
) -> None:
    key = new_key()
    renewal, earlier = Renewal(orders, key, NOW), Renewal(orders, key, NOW - 1)
    false_root = other_ca.issue_svid(AUTHORITY, NOW)
    answers = {
        "by a member": ("BM4204", answer_renewal(renewal.request(), ca, svid(ca, "web"), verifier, NOW)),
        "by an operator": (
            "BM4204",
            answer_renewal(
                renewal.request(), ca, ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW), verifier, NOW
            ),
        ),
        "by a false authority": (
            "BM4005",
            answer_renewal(renewal.request(), other_ca, false_root, verifier, NOW, bundle=other_ca.bundle),
        ),
        "to an earlier request": ("BM4204", answer_renewal(earlier.request(), ca, root, verifier, NOW)),
        "issued by a root that it does not name": (
            "BM4005",
            answer_renewal(renewal.request(), other_ca, root, verifier, NOW),
        ),
        "old": ("BM4104", answer_renewal(renewal.request(), ca, root, verifier, NOW - 15)),
    }
    for case, (code, answered) in answers.items():
        assert answered.refusal is None, case
        with pytest.raises(IdentityError, match=code):
            renewal.finish(answered.reply, verifier, NOW + 70 if case == "old" else NOW)


def test_reply_with_another_id_or_key_is_refused(
    ca: CertificateAuthority, root: Svid, orders: Svid, verifier: Verifier
) -> None:
    key = new_key()
    renewal = Renewal(orders, key, NOW)
    good = msgpack.unpackb(answer_renewal(renewal.request(), ca, root, verifier, NOW).reply)
    digest = msgpack.unpackb(good[3])[1]
    for certificate, code in (
        (ca.issue(svid(ca, "web").id, key.public_key(), NOW), "BM4206"),
        (ca.issue(orders.id, new_key().public_key(), NOW), "BM4001"),
    ):
        body = pack(digest, certificate, ca.bundle.to_pem(), b"")
        with pytest.raises(IdentityError, match=code):
            renewal.finish(seal_signed(root, "renewed", body, NOW), verifier, NOW)


def test_every_altered_byte_of_the_reply_is_noticed(
    ca: CertificateAuthority, root: Svid, orders: Svid, verifier: Verifier
) -> None:
    renewal = Renewal(orders, new_key(), NOW)
    reply = answer_renewal(renewal.request(), ca, root, verifier, NOW).reply
    for position in range(len(reply)):
        bad = bytearray(reply)
        bad[position] ^= 1
        with pytest.raises(BusmeshError):
            renewal.finish(bytes(bad), verifier, NOW)


def test_new_root_spreads_in_three_steps(
    ca: CertificateAuthority, other_ca: CertificateAuthority, root: Svid, orders: Svid
) -> None:
    """Hand out both roots, issue under the new one, drop the old one: each step by renewal alone."""
    both = TrustBundle(MESH, (ca.certificate, other_ca.certificate))
    member, member_trust, authority_trust = orders, Verifier(ca.bundle), Verifier(ca.bundle)
    steps = [
        (ca, root, both),
        (other_ca, root, both),
        (other_ca, other_ca.issue_svid(AUTHORITY, NOW), other_ca.bundle),
    ]
    for issuer, signer, bundle in steps:
        renewal = Renewal(member, new_key(), NOW)
        reply = answer_renewal(renewal.request(), issuer, signer, authority_trust, NOW, bundle=bundle).reply
        member, learnt, _ = renewal.finish(reply, member_trust, NOW)
        assert learnt == bundle
        member_trust.trust(learnt)
        authority_trust.trust(bundle)
    assert verify_certificate(member.der, other_ca.bundle, NOW).id == orders.id
    with pytest.raises(IdentityError, match="BM4005"):
        member_trust.certificate(orders.der, NOW)


def test_request_sent_twice_is_answered_twice_for_the_same_key(
    ca: CertificateAuthority, root: Svid, orders: Svid, verifier: Verifier
) -> None:
    key = new_key()
    renewal = Renewal(orders, key, NOW)
    for _ in range(2):
        reply = answer_renewal(renewal.request(), ca, root, verifier, NOW).reply
        renewed, _, _ = renewal.finish(reply, verifier, NOW)
        assert verify_certificate(renewed.der, ca.bundle, NOW).key_der == key_bytes(key.public_key())


_CA = CertificateAuthority.create(MESH, NOW)
_ROOT = _CA.issue_svid(AUTHORITY, NOW)
_VERIFIER = Verifier(_CA.bundle)
_RENEWAL = Renewal(svid(_CA, "orders"), new_key(), NOW)


@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    assert answer_renewal(data, _CA, _ROOT, _VERIFIER, NOW).refusal is Refusal.DENIED
    with pytest.raises(BusmeshError):
        _RENEWAL.finish(data, _VERIFIER, NOW)
    digest_only = seal_signed(_ROOT, "renewed", data, NOW)
    with pytest.raises(BusmeshError):
        _RENEWAL.finish(digest_only, _VERIFIER, NOW)
