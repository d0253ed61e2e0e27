"""What asyncio does not ask of a socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys

if sys.platform == "linux":
    import fcntl
    import termios

    def unacknowledged(transport: asyncio.Transport) -> int:
        """Return how many bytes the system has taken from us and the peer's has not acknowledged."""
        sock = transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return 0
        try:
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except OSError:  # closed meanwhile
            return 0
        return int.from_bytes(answer, sys.byteorder)

else:

    def unacknowledged(transport: asyncio.Transport) -> int:
        """Return 0: only Linux can be asked, elsewhere a slow reader is seen when our own buffer fills."""
        return 0


#: Bytes that the system may keep of a connection without having sent them. By itself Linux lets that grow to
#: 4 MB: 200 clients that asked for 5 MB each and hardly read cost 1.4 GB, of which no window of ours knew.
UNSENT = 256 * 1024


def keep_little_unsent(transport: asyncio.Transport) -> None:
    """Have the system take no more than it can send soon: what waits does so where it is counted."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # Windows has none
    sock = transport.get_extra_info("socket")
    if option is not None and sock is not None:
        with contextlib.suppress(OSError):  # closed meanwhile
            sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT)


_AT_ONCE = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Close at once with a reset: the peer takes it for an error, never for the end of a message."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()


def failed(transport: asyncio.Transport) -> bool:
    """Say whether the system knows of an error on a connection that nobody reads any more."""
    sock = transport.get_extra_info("socket")
    return sock is not None and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
