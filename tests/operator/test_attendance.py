"""Which answers to "is an authority there?" are believed."""

from __future__ import annotations

import pytest

from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.signed import seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.members.presence import PURPOSE, Presence, encode
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.attendance import MAX_AGE_S, Attended, read_presences
from tests.operator.fakes import MESH

NOW = 1_800_000_000.0


def authority(ca: CertificateAuthority, name: str = "one") -> Svid:
    return ca.issue_svid(SpiffeId(MESH, authority=name), NOW)


def said(svid: Svid, *, at: float = NOW, purpose: str = PURPOSE, trust: int = 1) -> bytes:
    return seal_signed(svid, purpose, encode(Presence(issues=True, trust=trust)), at)


def read(ca: CertificateAuthority, *answers: bytes) -> Attended:
    return read_presences(answers, Verifier(ca.bundle), NOW)


def test_each_authority_counts_once_by_its_latest_word(ca: CertificateAuthority) -> None:
    one, two = authority(ca), authority(ca, "two")
    old, new = said(one, at=NOW - 1, trust=1), said(one, trust=2)
    for answers in ((old, new, said(two)), (said(two), new, old)):
        attended = read(ca, *answers)
        assert [(each.name, each.presence.trust) for each in attended.authorities] == [("one", 2), ("two", 1)]
        assert attended.dropped == 0


@pytest.mark.parametrize("astray", [-(MAX_AGE_S + 30), 30])
def test_one_of_another_time_counts_for_nothing(ca: CertificateAuthority, astray: float) -> None:
    assert read(ca, said(authority(ca), at=NOW + astray)) == Attended((), dropped=1, astray=1)


def test_who_is_no_authority_of_this_mesh_counts_for_nothing(
    ca: CertificateAuthority, impostor: CertificateAuthority
) -> None:
    agent = ca.issue_svid(SpiffeId.workload(MESH, ServiceName("orders"), "orders-0"), NOW)
    operator = ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW)
    answers = [said(agent), said(operator), said(authority(impostor)), b"", b"junk"]
    answers += [said(authority(ca), purpose="member"), seal_signed(authority(ca), PURPOSE, b"junk", NOW)]
    assert read(ca, *answers) == Attended((), dropped=len(answers))
