"""One authority for all tests of the operator's side."""

from __future__ import annotations

import time

import pytest

from busmesh.identity.ca import CertificateAuthority
from tests.operator.fakes import MESH


@pytest.fixture(scope="session")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(MESH, time.time())


@pytest.fixture(scope="session")
def impostor() -> CertificateAuthority:
    """Another root of the same mesh name."""
    return CertificateAuthority.create(MESH, time.time())
