"""The announcement: all that an instance says of itself, signed, once a second and at each change.

It is registration, heartbeat and good-bye in one message: whoever hears any of them knows the instance whole,
so a lost message is mended by the next and nobody has to ask for a state that went before.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from busmesh.errors import InvalidName, RemoteProtocolError
from busmesh.members.load import Load
from busmesh.members.versioned import Codec
from busmesh.names import MAX_WORKERS, ServiceName, SpiffeId, token

PURPOSE = "member"
VERSION = 1
#: Far above what an agent writes; checked before decoding.
MAX_BYTES = 16 * 1024

LabelText = Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z0-9]?[A-Za-z0-9._/-]*$")]


class State(StrEnum):
    """What an instance says of itself."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    LEFT = "left"


class Refused(BaseModel):
    """A policy revision that an agent did not accept."""

    model_config = ConfigDict(frozen=True)

    revision: int = Field(ge=0)
    code: str = Field(max_length=32)
    reason: str = Field(max_length=512)


class Announcement(BaseModel):
    """What one instance announces.

    Attributes:
        incarnation: milliseconds of the start of its agent; of two agents of one name the later one counts.
        sequence: grows with each announcement of one incarnation.
        interval: seconds to the next announcement, at most.
        serves: False for an agent without an application, which only calls others.
        active: requests at work, as the instance counts them.
        load: what it does and how busy that makes it, if its application says so.
        revision: number of the policy revision in force there; ``digest`` is that of the whole set.
        refused: a later revision that it could not accept.
        trust: version of the trust bundle there.
        revocations: digest of the revocations that it heeds; empty if there are none.
        workers: which of its processes take sessions, by their numbers; empty if it is a single one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    namespace: str
    service: str
    instance: str
    incarnation: int = Field(ge=0)
    sequence: int = Field(ge=0)
    interval: float = Field(gt=0, le=3600)
    state: State
    serves: bool = True
    labels: dict[LabelText, LabelText] = Field(default_factory=dict, max_length=32)
    weight: int = Field(default=100, ge=0, le=10_000)
    locality: str = Field(default="", max_length=128)
    active: int = Field(default=0, ge=0)
    load: Load | None = None
    revision: int = Field(default=0, ge=0)
    digest: str = Field(default="", max_length=64)
    refused: Refused | None = None
    software: str = Field(default="", max_length=32)
    trust: int = Field(default=0, ge=0)
    revocations: str = Field(default="", max_length=64)
    workers: tuple[bool, ...] = Field(default=(), max_length=MAX_WORKERS)

    @property
    def name(self) -> ServiceName:
        return ServiceName(self.service, self.namespace)

    def is_by(self, signer: SpiffeId) -> bool:
        """Say whether ``signer`` is the very instance that this announces."""
        return signer.service == self.name and signer.instance == self.instance


_CODEC = Codec(Announcement, "an announcement", VERSION, MAX_BYTES, ("BM5001", "BM5002", "BM5003"))


def encode(announcement: Announcement) -> bytes:
    return _CODEC.encode(announcement)


def decode(body: bytes) -> Announcement:
    """Read the body of a signed announcement.

    Raises:
        RemoteProtocolError: too large, of another version, or not what an agent announces.
    """
    announcement = _CODEC.decode(body)
    try:
        token(announcement.namespace, "namespace")
        token(announcement.service, "service")
        token(announcement.instance, "instance")
    except InvalidName as error:
        raise RemoteProtocolError(
            f"an announcement that cannot be read: {error.message}", code="BM5003"
        ) from None
    return announcement
