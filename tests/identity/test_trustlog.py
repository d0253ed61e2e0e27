"""The trust log: who may say what, what follows what, and that nothing old comes back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from busmesh.errors import BusmeshError, IdentityError, RemoteProtocolError
from busmesh.identity import trustlog
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.fields import pack
from busmesh.identity.revocation import Revocation
from busmesh.identity.rooted import seal_rooted
from busmesh.identity.signed import seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.trust import RetiredRoot, TrustBundle, key_identifier, newest
from busmesh.identity.trustlog import Taken, TrustState, open_entry, seal_bundle, seal_revocation
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId
from tests.identity.forge import MESH, NOW, svid, workload

CA = CertificateAuthority
AT, UNTIL = int(NOW * 1000), int((NOW + 7200) * 1000)
WORKLOAD = Revocation(str(workload()), 0, AT, UNTIL)


@pytest.fixture(scope="module")
def ann(ca: CA) -> Svid:
    return ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW)


@pytest.fixture(scope="module")
def chain(ca: CA, other_ca: CA) -> list[tuple[TrustBundle, bytes]]:
    """A rotation: the bundles after each of its three steps, and the entries that brought them."""
    added = TrustBundle(MESH, (ca.certificate, other_ca.certificate), 2)
    switched = TrustBundle(MESH, (other_ca.certificate, ca.certificate), 3)
    removed = TrustBundle(MESH, (other_ca.certificate,), 4, (RetiredRoot(ca.certificate, 7, "0" * 64),))
    return [
        (added, seal_bundle(ca, added, NOW)),
        (switched, seal_bundle(other_ca, switched, NOW)),
        (removed, seal_bundle(other_ca, removed, NOW)),
    ]


def test_bundles_follow_one_another(ca: CA, other_ca: CA, chain: list[tuple[TrustBundle, bytes]]) -> None:
    state = TrustState(Verifier(ca.bundle))
    old, new = svid(ca, "orders"), svid(other_ca, "orders")
    for bundle, entry in chain:
        assert state.take(entry, NOW) is Taken.BUNDLE
        assert state.verifier.bundle == bundle
        assert state.verifier.bundle.issuer == bundle.issuer
    assert state.verifier.certificate(new.der, NOW).id == new.id
    with pytest.raises(IdentityError, match="BM4005"):
        state.verifier.certificate(old.der, NOW)
    assert repr(state) == "<TrustState version=4 <Revocations 0> entries=3>"


def test_an_older_bundle_never_comes_back(ca: CA, chain: list[tuple[TrustBundle, bytes]]) -> None:
    """Every replay of what was in force once, in any order, leaves the newest in force."""
    state = TrustState(Verifier(ca.bundle))
    for _, entry in chain:
        state.take(entry, NOW)
    fresh = TrustState(Verifier(chain[-1][0]))  # has forgotten the log, not the bundle
    rng = random.Random(4)
    for _ in range(30):
        _, entry = rng.choice(chain)
        for each in (state, fresh):
            with contextlib.suppress(IdentityError):  # signed by a root that counts no more
                assert each.take(entry, NOW + rng.uniform(0, 1e6)) is Taken.KNOWN
            assert each.verifier.bundle == chain[-1][0]


def test_a_gap_is_early_and_leads_nowhere(ca: CA, chain: list[tuple[TrustBundle, bytes]]) -> None:
    both = replace(chain[0][0], version=1)
    state = TrustState(Verifier(both))
    assert state.take(chain[1][1], NOW) is Taken.EARLY
    assert state.verifier.bundle == both
    assert not state.holds(chain[1][1]), "it must be looked at again"


def test_two_bundles_of_one_number(ca: CA, other_ca: CA) -> None:
    """The first one holds: what everybody has counts, not what came last."""
    state = TrustState(Verifier(ca.bundle))
    first = TrustBundle(MESH, (ca.certificate, other_ca.certificate), 2)
    second = TrustBundle(MESH, (ca.certificate,), 2)
    assert state.take(seal_bundle(ca, first, NOW), NOW) is Taken.BUNDLE
    assert state.take(seal_bundle(ca, second, NOW), NOW) is Taken.KNOWN
    assert state.verifier.bundle == first


Made = Callable[[CA, CA, Svid], bytes]
REFUSED: dict[str, tuple[str, Made]] = {
    "a bundle by a root that nobody knows": (
        "BM4005",
        lambda ca, other, ann: seal_bundle(other, replace(other.bundle, version=2), NOW),
    ),
    "a bundle by an operator": (
        "BM4103",
        lambda ca, other, ann: pack(
            1, seal_signed(ann, "trust.bundle", replace(ca.bundle, version=2).to_pem(), NOW)
        ),
    ),
    "a bundle signed as a revocation": (
        "BM4008",
        lambda ca, other, ann: pack(1, seal_rooted(ca, "trust.revocation", ca.bundle.to_pem(), NOW)),
    ),
    "a bundle of another mesh": (
        "BM4002",
        lambda ca, other, ann: pack(
            1, seal_rooted(ca, "trust.bundle", CA.create("other", NOW).bundle.to_pem(), NOW)
        ),
    ),
    "a bundle without a root": (
        "BM4002",
        lambda ca, other, ann: pack(1, seal_rooted(ca, "trust.bundle", b"# busmesh version 2\n", NOW)),
    ),
    "a bundle of the future": (
        "BM4104",
        lambda ca, other, ann: seal_bundle(ca, replace(ca.bundle, version=2), NOW + 60),
    ),
    "altered": (
        "BM4008",
        lambda ca, other, ann: seal_bundle(ca, replace(ca.bundle, version=2), NOW).replace(
            b"version 2", b"version 9"
        ),
    ),
    "a revocation by a workload": (
        "BM4121",
        lambda ca, other, ann: pack(
            2, seal_signed(svid(ca, "web"), "trust.revocation", WORKLOAD.encode(), NOW)
        ),
    ),
    "of an operator by an operator": (
        "BM4121",
        lambda ca, other, ann: pack(
            2,
            seal_signed(
                ann,
                "trust.revocation",
                Revocation(f"spiffe://{MESH}/operator/bob", 0, AT, UNTIL).encode(),
                NOW,
            ),
        ),
    ),
    "of a bare serial number by an operator": (
        "BM4121",
        lambda ca, other, ann: pack(
            2, seal_signed(ann, "trust.revocation", Revocation("", 5, AT, UNTIL).encode(), NOW)
        ),
    ),
    "a revocation dated otherwise": (
        "BM4120",
        lambda ca, other, ann: pack(2, seal_signed(ann, "trust.revocation", WORKLOAD.encode(), NOW - 1)),
    ),
    "an operator of another root": (
        "BM4005",
        lambda ca, other, ann: seal_revocation(other.issue_svid(ann.id, NOW), WORKLOAD, NOW),
    ),
    "of an unknown kind": ("BM4103", lambda ca, other, ann: pack(9, b"")),
    "too large": ("BM4101", lambda ca, other, ann: pack(1, bytes(trustlog.MAX_ENTRY))),
    "no record": ("BM4103", lambda ca, other, ann: b"junk"),
}


@pytest.mark.parametrize("defect", REFUSED)
def test_refused(ca: CA, other_ca: CA, ann: Svid, defect: str) -> None:
    code, make = REFUSED[defect]
    state = TrustState(Verifier(ca.bundle))
    with pytest.raises((IdentityError, RemoteProtocolError), match=code):
        state.take(make(ca, other_ca, ann), NOW)
    assert state.verifier.bundle == ca.bundle
    assert len(state.verifier.revocations) == len(state.entries) == 0


def test_who_may_not_revoke_cannot_even_sign(ca: CA, ann: Svid) -> None:
    for signer, target in (
        (ann, Revocation(f"spiffe://{MESH}/operator/bob", 0, AT, UNTIL)),
        (ann, Revocation("", 5, AT, UNTIL)),
        (svid(ca, "web"), WORKLOAD),
    ):
        with pytest.raises(IdentityError, match="BM4121"):
            seal_revocation(signer, target, NOW)


def test_an_operator_revokes_workloads_and_the_root_anybody(ca: CA, ann: Svid) -> None:
    state = TrustState(Verifier(ca.bundle))
    entry = seal_revocation(ann, WORKLOAD, NOW)
    assert state.take(entry, NOW) is Taken.REVOCATION
    assert state.take(entry, NOW) is Taken.KNOWN
    operator = Revocation(str(ann.id), 0, AT + 1, UNTIL, through=3)
    assert state.take(seal_revocation(ca, operator, NOW), NOW) is Taken.REVOCATION
    # What ann says now counts for nothing, whatever date it bears; what she said before still does.
    late = seal_revocation(ann, replace(WORKLOAD, target=str(workload("web", "web-0"))), NOW)
    with pytest.raises(IdentityError, match="BM4009"):
        state.take(late, NOW)
    assert len(state.verifier.revocations) == 2
    signer = state.verifier.signer_in_log(ann.der, NOW)
    assert signer.through == 3


def test_a_retired_root_vouches_for_the_past_only(
    ca: CA, chain: list[tuple[TrustBundle, bytes]], ann: Svid
) -> None:
    verifier = Verifier(chain[-1][0])
    signer = verifier.signer_in_log(ann.der, NOW)
    assert (signer.through, signer.digest) == (7, "0" * 64)
    with pytest.raises(IdentityError, match="BM4009"):
        open_entry(seal_revocation(ann, WORKLOAD, NOW), verifier, NOW)
    with pytest.raises(IdentityError, match="BM4005"):
        verifier.certificate(ann.der, NOW)


def test_what_a_root_repeats_is_kept(ca: CA, ann: Svid) -> None:
    """So that a revocation outlives the operator's root."""
    state = TrustState(Verifier(ca.bundle))
    by_operator = seal_revocation(ann, WORKLOAD, NOW)
    by_root = seal_revocation(ca, WORKLOAD, NOW)
    assert state.take(by_operator, NOW) is Taken.REVOCATION
    assert state.take(by_root, NOW) is Taken.KNOWN
    assert set(state.entries.values()) == {by_operator, by_root}
    assert not state.expire(NOW + 7000)
    assert state.expire(NOW + 7200)
    assert state.entries == {}


def test_the_log_is_bounded(ca: CA, ann: Svid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trustlog, "MAX_ENTRIES", 1)
    state = TrustState(Verifier(ca.bundle))
    assert state.take(seal_revocation(ann, WORKLOAD, NOW), NOW) is Taken.REVOCATION
    other = replace(WORKLOAD, target=str(workload("web", "web-0")))
    assert state.take(seal_revocation(ann, other, NOW), NOW) is Taken.KNOWN
    assert len(state.entries) == 1


def test_joining_anew_never_leads_back(ca: CA, other_ca: CA, chain: list[tuple[TrustBundle, bytes]]) -> None:
    old, new = (key_identifier(each.certificate).hex() for each in (ca, other_ca))
    added, switched, removed = (bundle for bundle, _ in chain)
    founded_anew = CA.create(MESH, NOW)
    stranger = key_identifier(founded_anew.certificate).hex()
    for held, offered, issuer, believed in (
        (None, added, old, added),
        (added, switched, new, switched),
        (switched, added, old, switched),  # an authority that has not heard yet
        (removed, added, new, removed),
        (removed, removed, new, removed),
        (removed, founded_anew.bundle, stranger, founded_anew.bundle),
        (CA.create("other", NOW).bundle, added, old, added),
    ):
        assert newest(held, offered, issuer) == believed
    for offered in (ca.bundle, added, switched, replace(added, version=99)):
        with pytest.raises(IdentityError, match="BM4207"):
            newest(removed, offered, old)


def test_notes_in_the_bundle_survive_pem(chain: list[tuple[TrustBundle, bytes]]) -> None:
    for bundle, _ in chain:
        assert TrustBundle.from_pem(bundle.to_pem(), MESH) == bundle


@pytest.mark.parametrize(
    "note",
    [
        b"# busmesh version 0",
        b"# busmesh version -1",
        b"# busmesh version 99999999999999999",
        b"# busmesh version x",
        b"# busmesh retired 1 00 AAAA",
        b"# busmesh retired x " + b"0" * 64 + b" AAAA",
        b"# busmesh retired 1 " + b"0" * 64 + b" !!!!",
        b"# busmesh retired 1 " + b"0" * 64 + b" AAAA",
    ],
)
def test_a_note_that_cannot_be_read(ca: CA, note: bytes) -> None:
    pem = ca.bundle.to_pem().split(b"\n", 1)[1]
    with pytest.raises(BusmeshError, match="BM4002"):
        TrustBundle.from_pem(note + b"\n" + pem, MESH)


def test_roots_are_found_by_their_key(ca: CA, other_ca: CA) -> None:
    bundle = TrustBundle(MESH, (ca.certificate, other_ca.certificate))
    assert bundle.root(key_identifier(other_ca.certificate).hex()) == other_ca.certificate
    assert bundle.root("00") is None
    assert bundle.issuer == key_identifier(ca.certificate).hex()
