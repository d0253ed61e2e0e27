"""Free TCP ports that stay free while nobody listens on them.

A port that the kernel hands out lies in its ephemeral range. When the server behind it is killed, a client
that keeps reconnecting can be given that very port as its own and connect to itself, and then the server
cannot come back. So ports for servers that a test restarts come from below that range.
"""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

_FIRST = 15_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _first_ephemeral() -> int:
    try:
        return max(int(_RANGE.read_text().split()[0]), _FIRST + 1_000)
    except (OSError, ValueError):  # not Linux: IANA's range, RFC 6335 section 6
        return 49_152


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens and which no outgoing connection takes."""
    end = _first_ephemeral()
    for _ in range(200):
        port = _FIRST + secrets.randbelow(end - _FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {_FIRST} and {end}")
