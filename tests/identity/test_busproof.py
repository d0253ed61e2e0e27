from __future__ import annotations

import pytest

from busmesh.bus.nkeys import KeyPair, Role
from busmesh.errors import IdentityError
from busmesh.identity import busproof
from busmesh.names import ServiceName, SpiffeId

ORDERS = SpiffeId.workload("local", ServiceName("orders"), "orders-0")
PARCEL = SpiffeId.workload("local", ServiceName("parcel"), "parcel-0")
KEY, OTHER = KeyPair.generate(Role.USER), KeyPair.generate(Role.USER)


def test_a_proof_is_of_one_key_one_holder_and_one_request() -> None:
    public, proof = busproof.prove(KEY, ORDERS, b"request")
    assert len(proof) == busproof.SIGNATURE_BYTES
    busproof.check(public, proof, ORDERS, b"request")
    for changed in (
        (OTHER.raw_public, proof, ORDERS, b"request"),
        (public, proof, PARCEL, b"request"),
        (public, proof, ORDERS, b"another request"),
        (public, bytes(64), ORDERS, b"request"),
        (public, b"", ORDERS, b"request"),
        (public[:31], proof, ORDERS, b"request"),
        (b"", proof, ORDERS, b"request"),
        (bytes(32), proof, ORDERS, b"request"),
    ):
        with pytest.raises(IdentityError, match="BM4207"):
            busproof.check(*changed)


def test_who_wants_no_login_proves_nothing() -> None:
    busproof.check(*busproof.prove(None, ORDERS, b"request"), ORDERS, b"request")
