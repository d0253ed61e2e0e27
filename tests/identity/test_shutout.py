"""What an authority answers of somebody who was revoked: believed from an authority and nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from busmesh.errors import IdentityError, RemoteProtocolError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.fields import pack
from busmesh.identity.shutout import MAX_AGE_S, PURPOSE, Outcome, ShutOut, open_answer, seal_answer
from busmesh.identity.signed import seal_signed
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId
from tests.identity.forge import MESH, NOW, svid

ANSWER = ShutOut(Outcome.FAILED, 3, "the bus says no")


@pytest.mark.parametrize("outcome", Outcome)
def test_the_answer_of_an_authority(ca: CertificateAuthority, verifier: Verifier, outcome: Outcome) -> None:
    authority = ca.issue_svid(SpiffeId(MESH, authority="one"), NOW)
    answer = replace(ANSWER, outcome=outcome)
    assert open_answer(seal_answer(authority, b"question", answer, NOW), b"question", verifier, NOW) == answer


def test_nobody_else_answers(ca: CertificateAuthority, verifier: Verifier) -> None:
    for liar in (svid(ca, "orders"), ca.issue_svid(SpiffeId(MESH, operator="eve"), NOW)):
        with pytest.raises(IdentityError, match="BM4204"):
            open_answer(seal_answer(liar, b"question", ANSWER, NOW), b"question", verifier, NOW)


def test_an_answer_to_another_question_or_of_another_time(
    ca: CertificateAuthority, verifier: Verifier
) -> None:
    authority = ca.issue_svid(SpiffeId(MESH, authority="one"), NOW)
    answer = seal_answer(authority, b"question", ANSWER, NOW)
    with pytest.raises(IdentityError, match="BM4204"):
        open_answer(answer, b"another", verifier, NOW)
    with pytest.raises(IdentityError):
        open_answer(answer, b"question", verifier, NOW + MAX_AGE_S + 60)


@pytest.mark.parametrize("body", [b"", b"junk", pack(b"x" * 32, 1, 0), pack(b"x" * 32, 99, 0, b"")])
def test_an_answer_that_is_none(ca: CertificateAuthority, verifier: Verifier, body: bytes) -> None:
    authority = ca.issue_svid(SpiffeId(MESH, authority="one"), NOW)
    with pytest.raises((RemoteProtocolError, IdentityError)):
        open_answer(seal_signed(authority, PURPOSE, body, NOW), b"question", verifier, NOW)
