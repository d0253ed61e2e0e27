"""Being shut out: what the authority answers who asks whether the bus still lets in somebody who was revoked.

The question is the revocation itself; anybody may ask, as it changes nothing. The answer is signed, since the
operator who reads it goes by it: nobody else may say that a thief is off the bus.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from busmesh.errors import IdentityError, RemoteProtocolError
from busmesh.identity.fields import FieldReader, pack
from busmesh.identity.profile import Kind, kind_of
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier

PURPOSE = "authority.shutout"
MAX_ANSWER = 8192
#: An answer older than this is about another moment.
MAX_AGE_S = 30.0
_MAX_WHY = 512


class Outcome(IntEnum):
    """What became of the logins of somebody who was revoked."""

    #: The authority has not heard of the revocation, or is telling the bus of it.
    UNDER_WAY = 1
    #: The bus refuses them, and has cut off who was connected by one.
    SHUT_OUT = 2
    #: The bus asks nobody for a login.
    OPEN = 3
    #: The bus cannot be told.
    FAILED = 4


@dataclass(frozen=True, slots=True)
class ShutOut:
    """The answer of one authority.

    Attributes:
        outcome: of the logins that this authority has signed.
        logins: how many of them had not ended yet.
        why: the reason if it failed, for people.
    """

    outcome: Outcome
    logins: int = 0
    why: str = ""


def seal_answer(svid: Svid, question: bytes, answer: ShutOut, now: float) -> bytes:
    """Return the answer to ``question``, signed by an authority."""
    why = answer.why.encode()[:_MAX_WHY]
    body = pack(hashlib.sha256(question).digest(), int(answer.outcome), answer.logins, why)
    return seal_signed(svid, PURPOSE, body, now)


def open_answer(answer: bytes, question: bytes, verifier: Verifier, now: float) -> ShutOut:
    """Return what an authority answers.

    Args:
        answer: from anybody.
        question: that was asked.
        verifier: whom to believe.
        now: unix seconds.

    Raises:
        RemoteProtocolError: malformed (codes BM4101 to BM4103).
        IdentityError: not signed by an authority, or to another question (code BM4204), or as `open_signed`
            says.
    """
    signed = open_signed(answer, PURPOSE, verifier, now, max_age=MAX_AGE_S, max_size=MAX_ANSWER)
    if kind_of(signed.signer.id) is not Kind.AUTHORITY:
        raise IdentityError(f"{signed.signer.id} is no authority", code="BM4204")
    reader = FieldReader(signed.body, 4, max_size=MAX_ANSWER, what="answer about a revocation")
    digest, outcome, logins = reader.binary(32), reader.integer(), reader.integer()
    why = reader.binary(_MAX_WHY).decode("utf-8", "replace")
    reader.end()
    if digest != hashlib.sha256(question).digest():
        raise IdentityError("the answer is to another question", code="BM4204")
    try:
        return ShutOut(Outcome(outcome), logins, why)
    except ValueError:
        raise RemoteProtocolError(f"an answer of kind {outcome}", code="BM4103") from None
