"""One authority for all tests of identity: making roots is the dear part."""

from __future__ import annotations

import pytest

from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from tests.identity.forge import MESH, NOW, svid


@pytest.fixture(scope="session")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(MESH, NOW)


@pytest.fixture(scope="session")
def other_ca() -> CertificateAuthority:
    """Another root of the same mesh name: an impostor's, or the next one."""
    return CertificateAuthority.create(MESH, NOW)


@pytest.fixture
def verifier(ca: CertificateAuthority) -> Verifier:
    return Verifier(ca.bundle)


@pytest.fixture(scope="session")
def web(ca: CertificateAuthority) -> Svid:
    return svid(ca, "web")


@pytest.fixture(scope="session")
def orders(ca: CertificateAuthority) -> Svid:
    return svid(ca, "orders")
