"""The system's word on which TCP connections there are: an attacker's own count may be late."""

from __future__ import annotations

from pathlib import Path

_TIME_WAIT, _LISTEN = "06", "0A"


def connections_at(port: int) -> int:
    """Return how many ends of connections to ``port`` of this machine exist, both ends counted.

    Those that wait for late packets (TIME_WAIT) are over.
    """
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        ports = {int(address.rpartition(":")[2], 16) for address in (local, remote)}
        count += port in ports and state not in (_TIME_WAIT, _LISTEN)
    return count
