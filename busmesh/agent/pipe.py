"""What the processes of one agent tell each other: MessagePack frames over a pair of Unix sockets.

The pair belongs to them alone, so what comes is by this agent; it is bounded all the same, because a process
that hangs must not fill the memory of the other one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import msgpack

from busmesh.errors import RemoteProtocolError

#: The signed revisions of a mesh go in one frame each; this is far above the largest.
MAX_FRAME = 16 * 1024 * 1024
#: Above this many unread bytes the other side hangs.
MAX_UNREAD = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")

#: One message: what it is about, and what it says.
Message = list[Any]


class Pipe:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Pipe:
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, kind: str, *what: object) -> bool:
        """Write a message; False if the other side is gone or does not read."""
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > MAX_UNREAD:
            return False
        frame = msgpack.packb([kind, *what])
        self._writer.write(_LENGTH.pack(len(frame)) + frame)
        return True

    async def receive(self) -> Message | None:
        """Return the next message; None when the other side is gone.

        Raises:
            RemoteProtocolError: what no process of this agent writes.
        """
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME:
                raise RemoteProtocolError(f"a message of {length} bytes between processes")
            message = msgpack.unpackb(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        if not isinstance(message, list) or not message:
            raise RemoteProtocolError("a message between processes that cannot be read")
        return message

    def close(self) -> None:
        self._writer.close()
