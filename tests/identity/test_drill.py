"""Orders to renew: from operators who count, once, and of late."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import IdentityError, RemoteProtocolError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.drill import MAX_AGE_S, MAX_SPREAD_S, PURPOSE, open_drill, seal_drill
from busmesh.identity.fields import pack
from busmesh.identity.profile import CLOCK_SKEW_S
from busmesh.identity.revocation import Revocation
from busmesh.identity.signed import seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId
from tests.identity.forge import MESH, NOW


@pytest.fixture(scope="module")
def ann(ca: CertificateAuthority) -> Svid:
    return ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW)


def test_an_order_is_read_as_it_was_given(verifier: Verifier, ann: Svid) -> None:
    drill = open_drill(seal_drill(ann, 2.5, NOW), verifier, NOW + 1)
    assert (drill.operator, drill.spread_s, drill.time_ms) == ("ann", 2.5, int(NOW * 1000))
    assert open_drill(seal_drill(ann, 1e9, NOW), verifier, NOW).spread_s == MAX_SPREAD_S


def test_a_workload_orders_nothing(verifier: Verifier, orders: Svid) -> None:
    with pytest.raises(IdentityError, match="BM4123"):
        seal_drill(orders, 1, NOW)
    with pytest.raises(IdentityError, match="BM4123"):
        open_drill(seal_signed(orders, PURPOSE, pack(1), NOW), verifier, NOW)


def test_a_replayed_order_is_refused(verifier: Verifier, ann: Svid) -> None:
    order = seal_drill(ann, 1, NOW)
    seen = open_drill(order, verifier, NOW).time_ms
    with pytest.raises(RemoteProtocolError, match="BM4124"):
        open_drill(order, verifier, NOW, after_ms=seen)
    assert open_drill(seal_drill(ann, 1, NOW + 1), verifier, NOW + 1, after_ms=seen).time_ms > seen
    with pytest.raises(IdentityError, match="BM4104"):
        open_drill(order, verifier, NOW + MAX_AGE_S + CLOCK_SKEW_S + 1)


REFUSED: dict[str, tuple[str, Callable[[CertificateAuthority, Svid], bytes]]] = {
    "another mesh's root": (
        "BM4005",
        lambda ca, ann: seal_drill(CertificateAuthority.create(MESH, NOW).issue_svid(ann.id, NOW), 1, NOW),
    ),
    "another purpose": ("BM4008", lambda ca, ann: seal_signed(ann, "policy.revision", pack(1), NOW)),
    "no body": ("BM4103", lambda ca, ann: seal_signed(ann, PURPOSE, b"", NOW)),
    "a negative time": ("BM4103", lambda ca, ann: seal_signed(ann, PURPOSE, b"\x92\x01\xff", NOW)),
    "bytes after it": ("BM4103", lambda ca, ann: seal_drill(ann, 1, NOW) + b"\0"),
    "too large": ("BM4101", lambda ca, ann: bytes(9000)),
}


@pytest.mark.parametrize("defect", REFUSED)
def test_refused(ca: CertificateAuthority, verifier: Verifier, ann: Svid, defect: str) -> None:
    code, make = REFUSED[defect]
    with pytest.raises((IdentityError, RemoteProtocolError), match=code):
        open_drill(make(ca, ann), verifier, NOW)


def test_a_revoked_operator_orders_nothing(verifier: Verifier, ann: Svid) -> None:
    verifier.revocations.add(Revocation(str(ann.id), 0, int(NOW * 1000), int((NOW + 1e6) * 1000)), NOW)
    with pytest.raises(IdentityError, match="BM4009"):
        open_drill(seal_drill(ann, 1, NOW), verifier, NOW)


_CA = CertificateAuthority.create(MESH, NOW)
_VERIFIER = Verifier(_CA.bundle)


@given(st.binary(max_size=300))
def test_junk_raises_typed_errors_only(data: bytes) -> None:
    with pytest.raises((IdentityError, RemoteProtocolError)):
        open_drill(data, _VERIFIER, NOW)
