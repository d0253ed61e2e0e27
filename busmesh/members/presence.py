"""What an authority says when it is asked whether it is there, signed by its own SVID."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from busmesh.members.versioned import Codec

PURPOSE = "authority.presence"
VERSION = 1
#: Far above what an authority writes; checked before decoding.
MAX_BYTES = 4 * 1024


class Presence(BaseModel):
    """What an authority says of itself; which one it is, the signer of the envelope tells.

    Attributes:
        issues: False for one whose root the mesh has replaced: it leaves the answers to others.
        trust: version of the trust bundle there.
        revocations: digest of the revocations that it heeds; empty if there are none.
        software: version of busmesh.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    issues: bool
    trust: int = Field(default=0, ge=0)
    revocations: str = Field(default="", max_length=64)
    software: str = Field(default="", max_length=32)


_CODEC = Codec(Presence, "an authority's answer", VERSION, MAX_BYTES, ("BM5401", "BM5402", "BM5403"))


def encode(presence: Presence) -> bytes:
    return _CODEC.encode(presence)


def decode(body: bytes) -> Presence:
    """Read the body of a signed answer.

    Raises:
        RemoteProtocolError: too large (code BM5401), of another version (BM5402), or not what an authority
            says (BM5403).
    """
    return _CODEC.decode(body)
