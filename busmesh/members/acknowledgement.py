"""The acknowledgement: what one agent says of one policy revision, signed by that very instance.

It is a quick answer for the operator who waits. Whoever missed it reads the same from the next announcement,
which carries revision, digest and what was refused; so losing one is harmless.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from busmesh.members.versioned import Codec

PURPOSE = "policy.ack"
VERSION = 1
#: Far above what an agent writes; checked before decoding.
MAX_BYTES = 4 * 1024

Verdict = Literal["applied", "rejected"]


class Acknowledgement(BaseModel):
    """What an agent says of one revision; who says it is the signer of the envelope.

    Attributes:
        revision: its number.
        digest: of the whole policy set that the agent holds now; after a refusal that is the old one.
        code: why it was refused, as for every error; empty if it was applied.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    revision: int = Field(ge=1, lt=2**53)
    digest: str = Field(max_length=64)
    state: Verdict
    code: str = Field(default="", max_length=32)
    reason: str = Field(default="", max_length=512)


_CODEC = Codec(Acknowledgement, "an acknowledgement", VERSION, MAX_BYTES, ("BM5101", "BM5102", "BM5103"))


def encode(acknowledgement: Acknowledgement) -> bytes:
    return _CODEC.encode(acknowledgement)


def decode(body: bytes) -> Acknowledgement:
    """Read the body of a signed acknowledgement.

    Raises:
        RemoteProtocolError: too large (code BM5101), of another version (BM5102), or not what an agent
            acknowledges with (BM5103).
    """
    return _CODEC.decode(body)
