"""What an operator may write as the target of a revocation, and what becomes of it."""

from __future__ import annotations

import time

import pytest

from busmesh.errors import UsageError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.profile import MAX_LIFETIME_S, Kind
from busmesh.identity.verify import Verifier
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.revoke import Target, make_revocation, read_target
from tests.operator.fakes import MESH

ORDERS = SpiffeId.workload(MESH, ServiceName("orders"), "orders-0")


@pytest.mark.parametrize(
    ("text", "kind", "needs_root"),
    [
        (str(ORDERS), Kind.WORKLOAD, False),
        (ORDERS.principal, Kind.WORKLOAD, False),
        (f"spiffe://{MESH}/operator/ann", Kind.OPERATOR, True),
        (f"spiffe://{MESH}/authority/one", Kind.AUTHORITY, True),
    ],
)
def test_names(text: str, kind: Kind, needs_root: bool) -> None:
    target = read_target(text, MESH, ())
    assert (target.uri, target.serial, target.kind, target.needs_root) == (text, 0, kind, needs_root)
    made = make_revocation(target, 1000.0, reason="why")
    assert made.target == text
    assert made.until_ms == pytest.approx(1e3 * (1000 + MAX_LIFETIME_S[kind] + 40))


def test_a_serial_number_of_somebody_who_answers(ca: CertificateAuthority) -> None:
    svid = ca.issue_svid(ORDERS, time.time())
    shown = Verifier(ca.bundle).certificate(svid.der, time.time())
    for text in (f"{shown.serial:x}", f"0x{shown.serial:X}"):
        target = read_target(text, MESH, [shown])
        assert target == Target(str(ORDERS), shown.serial, Kind.WORKLOAD, shown.not_after)
        assert not target.needs_root
        assert make_revocation(target, time.time()).until_ms == pytest.approx(1e3 * (shown.not_after + 40))
    unknown = read_target("beef", MESH, [shown])
    assert (unknown.uri, unknown.serial, unknown.needs_root) == ("", 0xBEEF, True)
    longest = max(MAX_LIFETIME_S.values())
    assert make_revocation(unknown, 0.0).until_ms == pytest.approx(1e3 * (longest + 40))


@pytest.mark.parametrize("text", ["orders", "spiffe://other/operator/ann", "spiffe://local", "", "x" * 500])
def test_nobody(text: str) -> None:
    with pytest.raises(UsageError, match="BM4122"):
        read_target(text, MESH, ())
