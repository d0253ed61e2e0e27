"""Revocations: what they hit, how two are joined, and how long they are kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import IdentityError, RemoteProtocolError
from busmesh.identity import revocation as module
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.profile import BACKDATE_S, CLOCK_SKEW_S
from busmesh.identity.revocation import Revocation, Revocations, check_target
from busmesh.identity.verify import Verifier
from tests.identity.forge import MESH, NOW, svid, workload

ID = str(workload())
SERVICE = workload().principal
AT = int(NOW * 1000)
UNTIL = AT + 7_200_000


@pytest.mark.parametrize(
    ("target", "by_serial", "issued", "hit"),
    [
        (ID, False, NOW - 1, True),
        (SERVICE, False, NOW - 1, True),
        ("", True, NOW - 1, True),
        (ID, True, NOW - 1, True),
        (ID, False, NOW + CLOCK_SKEW_S - 1, True),
        (ID, False, NOW + CLOCK_SKEW_S + 1, False),
        (SERVICE, False, NOW + CLOCK_SKEW_S + 1, False),
        (ID, True, NOW + CLOCK_SKEW_S + 1, True),
        (str(workload(instance="orders-1")), False, NOW - 1, False),
        (workload("web").principal, False, NOW - 1, False),
    ],
)
def test_who_is_hit(
    ca: CertificateAuthority, verifier: Verifier, target: str, by_serial: bool, issued: float, hit: bool
) -> None:
    member = svid(ca, "orders", issued)
    verifier.certificate(member.der, NOW)  # remembered, and yet refused afterwards
    serial = member.certificate.serial_number if by_serial else 0
    assert verifier.revocations.add(Revocation(target, serial, AT, UNTIL, reason="stolen"), NOW)
    if not hit:
        assert verifier.certificate(member.der, NOW).id == member.id
        return
    with pytest.raises(IdentityError, match="BM4009") as caught:
        verifier.certificate(member.der, NOW)
    assert "stolen" in str(caught.value.hint)


def test_another_serial_number_is_not_hit(ca: CertificateAuthority, verifier: Verifier) -> None:
    stolen, kept = svid(ca, "orders"), svid(ca, "orders")
    verifier.revocations.add(Revocation(ID, stolen.certificate.serial_number, AT, UNTIL), NOW)
    assert verifier.certificate(kept.der, NOW).id == kept.id
    with pytest.raises(IdentityError, match="BM4009"):
        verifier.certificate(stolen.der, NOW)


times = st.integers(AT, AT + 10_000)
statements = st.builds(Revocation, st.just(ID), st.just(0), times, times, st.integers(0, 9))


@given(st.lists(statements, min_size=1, max_size=4))
def test_the_order_in_which_they_come_does_not_matter(said: list[Revocation]) -> None:
    """And a later one never weakens an earlier one, so a replay changes nothing."""
    found = set()
    for order in permutations(said):
        held = Revocations()
        for each in (*order, *order):
            held.add(each, NOW - 1)
        (one,) = held
        found.add((one.at_ms, one.until_ms, one.through, held.digest))
    assert len(found) == 1
    ((at, until, through, _),) = found
    assert at == max(each.at_ms for each in said)
    assert until == max(each.until_ms for each in said)
    assert through == min(each.through for each in said)


def test_it_is_forgotten_when_all_that_it_hits_has_expired() -> None:
    held = Revocations()
    assert held.digest == ""
    assert held.add(Revocation(ID, 0, AT, UNTIL), NOW)
    assert not held.add(Revocation(ID, 0, AT, UNTIL), NOW), "nothing new"
    assert held.expire(UNTIL / 1000 - 1) == []
    assert [each.target for each in held.expire(UNTIL / 1000)] == [ID]
    assert (len(held), held.digest, repr(held)) == (0, "", "<Revocations 0>")
    assert not held.add(Revocation(ID, 0, AT, UNTIL), UNTIL / 1000), "nothing any more"


def test_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REVOCATIONS", 2)
    held = Revocations()
    assert [held.add(Revocation("", number, AT, UNTIL), NOW) for number in (1, 2, 3)] == [True, True, False]
    assert held.add(Revocation("", 1, AT + 1, UNTIL), NOW), "what is held may change"


@given(
    st.sampled_from([ID, SERVICE, "spiffe://local/operator/ann", "spiffe://local/authority/x"]),
    st.integers(0, (1 << 159) - 1),
    times,
    times,
    st.integers(0, 1 << 40),
    st.text(max_size=60),
)
def test_it_is_read_as_it_was_written(
    target: str, serial: int, at: int, until: int, through: int, reason: str
) -> None:
    said = Revocation(target, serial, at, until, through, reason)
    assert Revocation.decode(said.encode(), MESH) == said


@pytest.mark.parametrize(
    "target",
    [
        "spiffe://other/ns/default/svc/orders",
        "spiffe://other/operator/ann",
        "spiffe://local",
        "spiffe://local/ns/default/svc/*",
        "spiffe://local/ns/Default/svc/orders",
        "orders",
    ],
)
def test_what_cannot_be_revoked(target: str) -> None:
    with pytest.raises(RemoteProtocolError, match="BM4120"):
        check_target(target, MESH)
    with pytest.raises(RemoteProtocolError, match="BM4120"):
        Revocation.decode(Revocation(target, 0, AT, UNTIL).encode(), MESH)


def test_a_revocation_of_everybody_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="BM4120"):
        Revocation.decode(Revocation("", 0, AT, UNTIL).encode(), MESH)
    with pytest.raises(RemoteProtocolError, match="BM4120"):
        Revocation.decode(replace(Revocation(ID, 0, AT, UNTIL), until_ms=1 << 60).encode(), MESH)


@given(st.binary(max_size=200))
def test_junk_raises_typed_errors_only(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Revocation.decode(data, MESH)


def test_the_skew_fits_into_what_the_authority_dates_back() -> None:
    """Else a certificate issued just before could count as issued after."""
    assert CLOCK_SKEW_S < BACKDATE_S


def test_who_asks_without_a_number_is_told_by_the_time(ca: CertificateAuthority) -> None:
    """As before anything is issued: what is issued long after a revocation of the same ID counts."""
    held = Revocations()
    held.add(Revocation(ID, 0, AT, UNTIL), NOW)
    assert held.hitting(workload(), 0, NOW - BACKDATE_S) is not None
    assert held.hitting(ID, 0, NOW - BACKDATE_S + CLOCK_SKEW_S + 1) is None


def test_what_was_revoked_of_a_service_the_latest_first() -> None:
    held = Revocations()
    assert held.of(SERVICE) == []
    one, two = Revocation(ID, 0, AT, UNTIL), Revocation(SERVICE, 0, AT + 5, UNTIL)
    for each in (one, two, Revocation(workload("web").principal, 0, AT, UNTIL)):
        held.add(each, NOW)
    assert held.of(SERVICE) == [two, one]
    held.expire(NOW + 10_000)
    assert held.of(SERVICE) == []


def test_what_is_heeded_covers_what_was_said_before() -> None:
    held = Revocations()
    assert not held.covers(Revocation(ID, 0, AT, UNTIL))
    held.add(Revocation(ID, 0, AT, UNTIL), NOW)
    assert held.covers(Revocation(ID, 0, AT - 1, UNTIL))
    assert not held.covers(Revocation(ID, 0, AT + 1, UNTIL))
    assert not held.covers(Revocation(SERVICE, 0, AT, UNTIL))
