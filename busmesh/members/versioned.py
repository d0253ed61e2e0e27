"""The body of a control message: a version, and fields that a model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgpack
from pydantic import BaseModel

from busmesh.errors import RemoteProtocolError

M = TypeVar("M", bound=BaseModel)


def unpacked(body: bytes, what: str) -> object:
    """Decode a body that anybody may have written, and that is not too large.

    Raises:
        RemoteProtocolError: it is no msgpack.
    """
    try:
        return msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException, RecursionError):
        raise RemoteProtocolError(f"{what} that cannot be read") from None


@dataclass(frozen=True, slots=True)
class Codec(Generic[M]):
    """Writes and reads one kind of message.

    Attributes:
        model: the fields; unknown ones are ignored.
        what: with its article, for errors: "an announcement".
        version: the only one that is read.
        max_bytes: checked before decoding, because decoding costs the reader more than the writer.
        codes: of the errors for too many bytes, for another version, and for what cannot be read.
    """

    model: type[M]
    what: str
    version: int
    max_bytes: int
    codes: tuple[str, str, str]

    def encode(self, message: M) -> bytes:
        fields = message.model_dump(mode="json", exclude_defaults=True)
        return msgpack.packb([self.version, fields])  # type: ignore[no-any-return]  # msgpack has no types

    def decode(self, body: bytes) -> M:
        """Read a body that anybody may have written.

        Raises:
            RemoteProtocolError: too large, of another version, or not what the model says.
        """
        too_large, other_version, unreadable = self.codes
        if len(body) > self.max_bytes:
            raise RemoteProtocolError(f"{self.what} of too many bytes", code=too_large)
        try:
            fields: Any = msgpack.unpackb(body)
            if not (isinstance(fields, list) and len(fields) == 2):
                raise ValueError("not a pair of version and fields")
            if fields[0] != self.version:
                raise RemoteProtocolError(
                    f"{self.what} of version {fields[0]!r:.40}; this is version {self.version}",
                    code=other_version,
                    hint="use the same version of busmesh everywhere",
                )
            return self.model.model_validate(fields[1])
        except (ValueError, msgpack.UnpackException, RecursionError) as error:
            # ExtraData and pydantic's ValidationError are ValueErrors.
            name = type(error).__name__
            raise RemoteProtocolError(f"{self.what} that cannot be read: {name}", code=unreadable) from None
