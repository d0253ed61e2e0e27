"""The body of a control message: a version, and fields that a model reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgpack
from pydantic import BaseModel

from busmesh.errors import RemoteProtocolError

M = TypeVar("M", bound=BaseModel)


#: Lists and maps in one message. The largest revision, made of the shortest rules, has a quarter less.
MAX_CONTAINERS = 1 << 16


def unpack_nested(body: bytes) -> Any:
    """Decode msgpack that may hold anything, and that is not too large.

    A list takes one byte of msgpack and 60 of memory, so their number has a bound of its own: half a megabyte
    of them takes as long as ten of an ordinary message.

    Raises:
        ValueError: it is no msgpack, is nested too deeply, or holds too many lists and maps.
    """
    left = MAX_CONTAINERS

    def counted(container: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {MAX_CONTAINERS} lists and maps")
        return container

    try:
        return msgpack.unpackb(body, list_hook=counted, object_hook=counted)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def unpacked(body: bytes, what: str) -> object:
    """Decode a body that anybody may have written, and that is not too large.

    Raises:
        RemoteProtocolError: it is no msgpack.
    """
    try:
        return unpack_nested(body)
    except ValueError:
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
            fields = unpack_nested(body)
            if not (isinstance(fields, list) and len(fields) == 2):
                raise ValueError("not a pair of version and fields")
            if fields[0] != self.version:
                raise RemoteProtocolError(
                    f"{self.what} of version {fields[0]!r:.40}; this is version {self.version}",
                    code=other_version,
                    hint="use the same version of busmesh everywhere",
                )
            return self.model.model_validate(fields[1])
        except ValueError as error:  # pydantic's ValidationError is one
            name = type(error).__name__
            raise RemoteProtocolError(f"{self.what} that cannot be read: {name}", code=unreadable) from None
