"""Operators who may do only so much: what stands in their certificate, and what follows from it."""

from __future__ import annotations

import pytest
from cryptography.hazmat import asn1
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import IdentityError
from busmesh.identity import verify
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.revisions import open_revision, seal_revision
from busmesh.identity.revocation import Revocation
from busmesh.identity.scope import EVERYTHING, SCOPE_OID, Scope
from busmesh.identity.trustlog import open_entry, seal_revocation
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId
from busmesh.policy.documents import Document
from busmesh.policy.revision import EMPTY, PolicySet, propose
from tests.identity.forge import MESH, NOW

_NAMES = st.none() | st.frozensets(st.from_regex(r"\A[A-Za-z0-9-]{1,20}\Z"), min_size=1, max_size=8)
ANN = SpiffeId(MESH, operator="ann")


@given(_NAMES, _NAMES)
def test_a_scope_is_read_back(namespaces: frozenset[str] | None, kinds: frozenset[str] | None) -> None:
    scope = Scope(namespaces, kinds)
    assert Scope.from_der(scope.to_der()) == scope


@pytest.mark.parametrize(
    "text",
    [
        "",
        "namespaces=*",
        "namespaces=;kinds=*",
        "namespaces=b,a;kinds=*",
        "namespaces=a,a;kinds=*",
        "namespaces=*;kinds=*;more=*",
        "kinds=*;namespaces=*",
        "namespaces=a b;kinds=*",
        "namespaces=" + "a" * 2000 + ";kinds=*",
    ],
)
def test_what_no_authority_writes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        Scope.from_der(asn1.encode_der(text))


@given(st.binary(max_size=100))
def test_no_bytes_are_taken_for_everything(data: bytes) -> None:
    try:
        scope = Scope.from_der(data)
    except ValueError:
        return
    assert scope.to_der() == data


def test_a_certificate_says_it_and_a_workloads_may_not(ca: CertificateAuthority) -> None:
    scope = Scope(frozenset({"shop"}), None)
    verifier = Verifier(ca.bundle)
    svid = ca.issue_svid(ANN, NOW, scope=scope)
    assert verifier.certificate(svid.der, NOW).scope == scope
    extension = svid.certificate.extensions.get_extension_for_oid(SCOPE_OID)
    assert extension.critical, "who does not know it must not take its holder for one who may do everything"
    assert verifier.certificate(ca.issue_svid(ANN, NOW).der, NOW).scope == EVERYTHING
    workload = SpiffeId.parse(f"spiffe://{MESH}/ns/shop/svc/web/i/web-0")
    with pytest.raises(IdentityError, match="scope"):
        verifier.certificate(ca.issue_svid(workload, NOW, scope=scope).der, NOW)


def test_an_unreadable_scope_is_refused(ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "to_der", lambda self: b"\x0c\x01*")
    svid = ca.issue_svid(ANN, NOW, scope=Scope(frozenset({"a"}), None))
    monkeypatch.undo()
    with pytest.raises(IdentityError, match="cannot be read"):
        verify.verify_certificate(svid.der, ca.bundle, NOW)


def document(kind: str, namespace: str, **spec: object) -> Document:
    plain = {
        "apiVersion": "busmesh/v1",
        "kind": kind,
        "metadata": {"name": "a", "namespace": namespace},
        "spec": spec,
    }
    return Document.from_plain(plain)


def route(namespace: str, host: str) -> Document:
    destination = {"destination": {"host": host}}
    return document("Route", namespace, hosts=[host], http=[{"route": [destination]}])


@pytest.mark.parametrize(
    ("scope", "put", "outside"),
    [
        (EVERYTHING, route("shop", "orders"), ""),
        (Scope(frozenset({"shop"}), None), route("shop", "orders"), ""),
        (Scope(frozenset({"shop"}), None), route("bank", "orders"), "namespace bank"),
        (Scope(frozenset({"shop"}), None), route("shop", "orders.bank"), "namespace bank"),
        (Scope(None, frozenset({"Route"})), route("bank", "orders"), ""),
        (Scope(None, frozenset({"Destination"})), route("bank", "orders"), "kind Route"),
        (Scope(frozenset({"shop"}), frozenset({"Route"})), document("Authorization", "shop"), "kind Auth"),
        (Scope(frozenset({"shop"}), None), document("Authorization", "mesh"), "namespace mesh"),
        (
            Scope(frozenset({"shop"}), None),
            document("Authorization", "shop", hosts=["orders.bank"]),
            "namespace bank",
        ),
    ],
)
def test_what_is_out_of_scope_counts_for_nothing(
    ca: CertificateAuthority, scope: Scope, put: Document, outside: str
) -> None:
    verifier = Verifier(ca.bundle)
    svid = ca.issue_svid(ANN, NOW, scope=scope)
    revision = propose(EMPTY, [put], [], author="ann", reason="", now=NOW)
    entry = seal_revision(svid, revision, NOW)
    if not outside:
        assert open_revision(entry, verifier, NOW)[0] == revision
        return
    with pytest.raises(IdentityError, match=outside) as caught:
        open_revision(entry, verifier, NOW)
    assert caught.value.code == "BM4308"


def test_removing_is_a_change_as_well(ca: CertificateAuthority) -> None:
    verifier = Verifier(ca.bundle)
    held = PolicySet(1, {each.key: each for each in [route("bank", "orders")]})
    revision = propose(held, [], list(held.documents), author="ann", reason="", now=NOW)
    entry = seal_revision(ca.issue_svid(ANN, NOW, scope=Scope(frozenset({"shop"}), None)), revision, NOW)
    with pytest.raises(IdentityError, match="namespace bank"):
        open_revision(entry, verifier, NOW)


@pytest.mark.parametrize(("namespace", "right"), [("shop", True), ("bank", False)])
def test_revoking_is_within_the_scope(ca: CertificateAuthority, namespace: str, right: bool) -> None:
    verifier = Verifier(ca.bundle)
    svid = ca.issue_svid(ANN, NOW, scope=Scope(frozenset({"shop"}), None))
    target = f"spiffe://{MESH}/ns/{namespace}/svc/web/i/web-0"
    made = Revocation(target, 0, int(NOW * 1000), int(NOW * 1000) + 10**6)
    entry = seal_revocation(svid, made, NOW)
    if right:
        assert open_entry(entry, verifier, NOW).revocation == made
    else:
        with pytest.raises(IdentityError, match="may not revoke"):
            open_entry(entry, verifier, NOW)
