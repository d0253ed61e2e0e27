"""TCP ports for a server that comes back to the same port after each restart."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

_FIRST = 15_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def port_error(host: str, port: int) -> str | None:
    """Return why one cannot listen at ``host:port``, or None if one can."""
    with socket.socket() as probe:
        if os.name == "posix":  # elsewhere this flag would let the probe share a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None


def free_port(host: str) -> int:
    """Return a free port of ``host`` that the kernel gives to no outgoing connection.

    One from the kernel's own range could, while the server is down, become the near end of a client that
    reconnects: it would talk to itself, and the server could not come back.

    Raises:
        OSError: none of 200 random ones is free.
    """
    end = _first_ephemeral()
    for _ in range(200):
        port = _FIRST + secrets.randbelow(end - _FIRST)
        if port_error(host, port) is None:
            return port
    raise OSError(f"no free port of {host} between {_FIRST} and {end}")


def _first_ephemeral() -> int:
    try:
        return max(int(_RANGE.read_text().split()[0]), _FIRST + 1_000)
    except (OSError, ValueError):  # not Linux: IANA's range, RFC 6335 section 6
        return 49_152
