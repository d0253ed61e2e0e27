"""A client that writes the bytes it is given, whatever they are."""

from __future__ import annotations

import socket
import time
from contextlib import closing

TIMEOUT_S = 5.0


def exchange(address: tuple[str, int], data: bytes, *, quiet: float = 0.3) -> bytes:
    """Send ``data``; return all that comes until the other side closes or says nothing for ``quiet`` s."""
    with closing(socket.create_connection(address, timeout=TIMEOUT_S)) as client:
        client.sendall(data)
        return receive(client, quiet)


def receive(client: socket.socket, quiet: float = 0.3) -> bytes:
    answer = b""
    until = time.monotonic() + TIMEOUT_S
    client.settimeout(TIMEOUT_S)
    while time.monotonic() < until:
        try:
            data = client.recv(65536)
        except TimeoutError:
            break
        except ConnectionError:
            break
        if not data:
            break
        answer += data
        client.settimeout(quiet)
    return answer


def status(answer: bytes) -> int:
    """Return the status of the first response, 0 if there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0
