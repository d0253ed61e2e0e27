"""The envelope of a revision: who may sign, what must agree, and that hostile bytes are refused politely."""

from __future__ import annotations

import dataclasses

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import BusmeshError, IdentityError, InvalidDocument, RemoteProtocolError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.revisions import MAX_ENTRY, PURPOSE, open_revision, seal_revision
from busmesh.identity.signed import seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.names import ServiceName, SpiffeId
from busmesh.policy.revision import EMPTY, Revision, propose
from tests.operator.fakes import MESH, route

NOW = 1_800_000_000.123


@pytest.fixture(scope="module")
def ann(ca: CertificateAuthority) -> Svid:
    return ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW)


def revision(author: str = "ann", now: float = NOW) -> Revision:
    return propose(EMPTY, [route(v1=80, v2=20)], (), author=author, reason="why", now=now)


def code_of(ca: CertificateAuthority, entry: bytes, now: float = NOW, **options: int) -> str:
    with pytest.raises(BusmeshError) as refused:
        open_revision(entry, Verifier(ca.bundle), now, **options)
    return refused.value.code


def test_what_goes_in_comes_out(ca: CertificateAuthority, ann: Svid) -> None:
    entry = seal_revision(ann, revision(), NOW)
    assert open_revision(entry, Verifier(ca.bundle), NOW + 3600) == (
        revision(),
        "spiffe://local/operator/ann",
    )


def test_the_log_outlives_the_certificates_of_its_authors(ca: CertificateAuthority, ann: Svid) -> None:
    entry = seal_revision(ann, revision(), NOW)
    much_later = ann.not_after + 86400 * 365
    assert open_revision(entry, Verifier(ca.bundle), much_later)[0] == revision()


def test_only_its_author_seals_it(ca: CertificateAuthority, ann: Svid) -> None:
    agent = ca.issue_svid(SpiffeId.workload(MESH, ServiceName("orders"), "orders-0"), NOW)
    with pytest.raises(IdentityError, match="BM4301"):
        seal_revision(agent, revision(), NOW)
    with pytest.raises(IdentityError, match="BM4302"):
        seal_revision(ann, revision("bob"), NOW)
    with pytest.raises(ValueError, match="not when"):
        seal_revision(ann, revision(), NOW + 1)


def packed(found: Revision, version: int = 1) -> bytes:
    body: bytes = msgpack.packb([version, found.to_plain()])
    return body


@pytest.mark.parametrize("who", ["agent", "authority"])
def test_who_is_no_operator_is_refused_before_anything_is_decoded(ca: CertificateAuthority, who: str) -> None:
    spiffe_id = (
        SpiffeId(MESH, authority="a")
        if who == "authority"
        else SpiffeId.workload(MESH, ServiceName("orders"), "orders-0")
    )
    signer = ca.issue_svid(spiffe_id, NOW)
    assert code_of(ca, seal_signed(signer, PURPOSE, b"\xc1 cannot be decoded", NOW)) == "BM4301"


def test_author_and_time_must_be_the_signers(ca: CertificateAuthority, ann: Svid) -> None:
    assert code_of(ca, seal_signed(ann, PURPOSE, packed(revision("bob")), NOW)) == "BM4302"
    assert code_of(ca, seal_signed(ann, PURPOSE, packed(revision(now=NOW - 1)), NOW)) == "BM4303"


def test_other_roots_purposes_and_times_are_refused(
    ca: CertificateAuthority, impostor: CertificateAuthority, ann: Svid
) -> None:
    fake = impostor.issue_svid(ann.id, NOW)
    assert code_of(ca, seal_revision(fake, revision(), NOW)) == "BM4005"
    assert code_of(ca, seal_signed(ann, "member", packed(revision()), NOW)) == "BM4008"
    assert code_of(ca, seal_revision(ann, revision(), NOW), now=NOW - 3600) == "BM4104"
    late = ann.not_after + 3600
    dated_now = dataclasses.replace(revision(), time_ms=int(late * 1000))
    assert code_of(ca, seal_revision(ann, dated_now, late), now=late) == "BM4006"


def test_a_revision_may_not_be_dated_before_the_one_it_follows(ca: CertificateAuthority, ann: Svid) -> None:
    entry = seal_revision(ann, revision(), NOW)
    before = int(NOW * 1000)
    verifier = Verifier(ca.bundle)
    assert open_revision(entry, verifier, NOW, previous_ms=before + 19_000)  # two clocks that differ a little
    assert code_of(ca, entry, previous_ms=before + 21_000) == "BM4305"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "BM4304"),
        (b"\xc1", "BM4304"),
        (msgpack.packb({}), "BM4304"),
        (msgpack.packb([1]), "BM4304"),
        (msgpack.packb([1, {}, 2]), "BM4304"),
        (msgpack.packb([1, {}]) + b"\x00", "BM4304"),
        (msgpack.packb([2, {}]), "BM4102"),
        (msgpack.packb(["x" * 1000, {}]), "BM4102"),
        (msgpack.packb([1, {}]), "BM2207"),
        (msgpack.packb([1, {"format": 1, "put": [b"bytes"]}]), "BM1203"),
        (b"\x92\x01" + b"\x91" * 200_000 + b"\xc0", "BM4304"),
    ],
)
def test_a_body_that_is_none_is_refused(body: bytes, code: str, ca: CertificateAuthority, ann: Svid) -> None:
    assert code_of(ca, seal_signed(ann, PURPOSE, body, NOW)) == code


def test_too_large_is_refused_by_its_size_alone(ca: CertificateAuthority, ann: Svid) -> None:
    assert code_of(ca, b"\x00" * (MAX_ENTRY + 1)) == "BM4101"
    floats = route()
    # Numbers take more room in msgpack than in JSON, which the limit of a revision is about.
    huge = dataclasses.replace(floats, plain={"x": [0.5] * 120_000})
    with pytest.raises(InvalidDocument, match="BM2206"):
        seal_revision(ann, dataclasses.replace(revision(), put=(huge,)), NOW)


CA = CertificateAuthority.create(MESH, NOW)
ENTRY = seal_revision(CA.issue_svid(SpiffeId(MESH, operator="ann"), NOW), revision(), NOW)


@given(at=st.integers(0, 2**16), change=st.integers(1, 255))
def test_no_changed_byte_is_believed(at: int, change: int) -> None:
    entry = bytearray(ENTRY)
    entry[at % len(entry)] ^= change
    with pytest.raises((IdentityError, RemoteProtocolError)):
        open_revision(bytes(entry), Verifier(CA.bundle), NOW)
