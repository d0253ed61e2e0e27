"""Flat records on the bus: a msgpack array of a version, integers and byte strings.

Everything that is read before it is authenticated is this flat. A nested value is refused by its first byte,
because a megabyte of tiny arrays would cost the event loop 0.2 s to decode.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from busmesh.errors import RemoteProtocolError

VERSION = 1

_INTEGER = frozenset([*range(0x80), 0xCC, 0xCD, 0xCE, 0xCF])  # positive fixint, uint 8 to uint 64
_BINARY = frozenset([0xC4, 0xC5, 0xC6])  # bin 8 to bin 32


def pack(*fields: int | bytes) -> bytes:
    """Return the record of the current version with these fields."""
    packed: bytes = msgpack.packb([VERSION, *fields])
    return packed


def bind(label: bytes, *parts: bytes) -> bytes:
    """Return what a signature or MAC covers: the label, NUL, then each part after its length.

    The label separates purposes, so that what proves one thing is worthless for another; the lengths keep a
    byte from moving from one part into the next.
    """
    framed = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return b"busmesh/v1/" + label + b"\0" + framed


class FieldReader:
    """Reads one record field by field, each by the type that is expected there.

    Args:
        data: the record, from anybody.
        count: how many fields follow the version.
        max_size: more bytes than this are refused before a single one is decoded.
        what: what the record is, for the error.

    Raises:
        RemoteProtocolError: from here and from every method: too large (code BM4101), another version
            (BM4102), malformed (BM4103).
    """

    def __init__(self, data: bytes, count: int, *, max_size: int, what: str) -> None:
        self._data = data
        self._what = what
        if len(data) > max_size:
            raise self._error(f"has {len(data)} bytes, more than {max_size}", "BM4101")
        # Without a size it begins with a buffer of the largest record that there may be, for every heartbeat.
        self._unpacker = msgpack.Unpacker(max_buffer_size=max_size, read_size=max(1, len(data)))
        self._unpacker.feed(data)
        try:
            length = self._unpacker.read_array_header()
        except (msgpack.UnpackException, ValueError):
            raise self._error("is not a record") from None
        version = self.integer()
        if version != VERSION:
            raise self._error(
                f"is of version {version}, and this is version {VERSION}", "BM4102", "upgrade the older side"
            )
        if length != count + 1:
            raise self._error(f"has {length - 1} fields, not {count}")

    def integer(self) -> int:
        """Return the next field, an integer of 0 to 2**64 - 1."""
        value: int = self._next(_INTEGER)
        return value

    def binary(self, limit: int | None = None) -> bytes:
        """Return the next field, a byte string of at most ``limit`` bytes."""
        value: bytes = self._next(_BINARY)
        if limit is not None and len(value) > limit:
            raise self._error(f"has a field of {len(value)} bytes, more than {limit}")
        return value

    def end(self) -> None:
        """Refuse bytes after the last field."""
        if self._unpacker.tell() != len(self._data):
            raise self._error("has bytes after its end")

    def _next(self, first_bytes: frozenset[int]) -> Any:
        at = self._unpacker.tell()
        if at >= len(self._data) or self._data[at] not in first_bytes:
            raise self._error(f"has no field of the expected type at byte {at}")
        try:
            return self._unpacker.unpack()
        except (msgpack.UnpackException, ValueError):
            raise self._error("is cut off") from None

    def _error(self, reason: str, code: str = "BM4103", hint: str = "") -> RemoteProtocolError:
        return RemoteProtocolError(f"the {self._what} {reason}", code=code, hint=hint)
