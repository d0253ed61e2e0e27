"""Handshakes as they travel: TLS messages in two questions and two answers on ``session.<instance>``.

The caller's ClientHello, answered by the server's flight; the caller's certificate and Finished, answered by
the session's number, written inside TLS.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgpack

from busmesh.errors import RemoteProtocolError
from busmesh.names import MAX_WORKERS, SpiffeId

VERSION = 1
MAX_MESSAGE = 32 * 1024


def pack(identifier: bytes, data: bytes) -> bytes:
    return msgpack.packb([VERSION, identifier, data])  # type: ignore[no-any-return]


def unpack(message: bytes) -> tuple[bytes, bytes]:
    """Read (handshake id, TLS bytes).

    Raises:
        RemoteProtocolError: anything else.
    """
    if len(message) > MAX_MESSAGE:
        raise RemoteProtocolError("a handshake message of too many bytes", code="BM4301")
    try:
        fields: Any = msgpack.unpackb(message)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError(
            f"a handshake message that cannot be read: {type(error).__name__}"
        ) from None
    match fields:
        case [int(version), bytes(identifier), bytes(data)]:
            if version != VERSION:
                raise RemoteProtocolError(
                    f"a handshake of version {version}; this agent speaks {VERSION}", code="BM4302"
                )
            if len(identifier) != 16:
                raise RemoteProtocolError("a handshake without an id", code="BM4301")
            return identifier, data
    raise RemoteProtocolError("a handshake message that cannot be read", code="BM4301")


def lot(caller: SpiffeId, instance: str, worker: int) -> int:
    """Return the byte by which an instance of several workers knows which of them is to accept.

    The workers of one caller get different ones, so that they use all of the instance's; where that begins
    differs by caller, so that callers of one worker spread as well.
    """
    return zlib.crc32(f"{caller} {instance}".encode()) + worker & 0xFF


def number_of(parameters: bytes) -> tuple[int, int]:
    """Read (session number, worker that holds it)."""
    try:
        fields: Any = msgpack.unpackb(parameters[:256])
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError(f"session parameters that cannot be read: {type(error).__name__}") from None
    match fields:
        case {"session": int(number), "worker": int(worker)} if (
            0 < number < 1 << 63 and 0 <= worker < MAX_WORKERS
        ):
            return number, worker
        case {"session": int(number)} if 0 < number < 1 << 63:
            return number, 0
    raise RemoteProtocolError("session parameters without a number", code="BM4301")


def worker_of(parameters: bytes) -> int:
    """Read which of its processes a caller wants its answers at; most say nothing.

    Raises:
        RemoteProtocolError: what no agent writes.
    """
    if not parameters:
        return 0
    try:
        fields: Any = msgpack.unpackb(parameters[:256])
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError(f"session parameters that cannot be read: {type(error).__name__}") from None
    match fields:
        case {"worker": int(worker)} if 0 <= worker < MAX_WORKERS:
            return worker
    raise RemoteProtocolError("session parameters of a worker that cannot be", code="BM4301")
