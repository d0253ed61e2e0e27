"""The two ends of the bus by itself: ``python -m benchmarks.bus_peer respond|request URL [NUMBERS...]``.

The same as ``floor_peer`` in the bare NATS protocol (PUB, SUB, MSG) on a socket: as little as a peer in
Python can cost, so that the figures are those of the bus. What one read of the socket brought is answered
by one write.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import cast

import uvloop

from benchmarks.floor import Work
from benchmarks.generator import address_of, percentile

SUBJECT = b"bench.echo"
_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"lang":"python","version":"0","protocol":1}\r\n'


def publication(subject: bytes, reply: bytes, payload: bytes) -> bytes:
    """Return a PUB frame; an empty reply subject asks for no answer."""
    words = b" ".join(filter(None, (b"PUB", subject, reply, b"%d" % len(payload))))
    return b"%b\r\n%b\r\n" % (words, payload)


class MessageReader:
    """Cuts what the server sends into messages; INFO, PING and the like go to ``on_line``."""

    def __init__(self, on_message: Callable[[bytes, bytes], None], on_line: Callable[[bytes], None]) -> None:
        self._on_message = on_message
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Call ``on_message(subject, reply)`` for every message that is complete."""
        data = self._rest + data
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            line = data[at:end]
            if not line.startswith(b"MSG "):
                self._on_line(line)
                at = end + 2
                continue
            words = line.split(b" ")
            following = end + 2 + int(words[-1]) + 2
            if following > len(data):
                break
            self._on_message(words[1], words[3] if len(words) == 5 else b"")
            at = following
        self._rest = data[at:]


class Peer(asyncio.Protocol):
    """A connection to the server: subscribes, and writes once per read what ``answer`` returns."""

    def __init__(self, subscription: bytes, answer: Callable[[bytes, bytes], bytes]) -> None:
        self._subscription = subscription
        self._answer = answer
        self._reader = MessageReader(self._on_message, self._on_line)
        self._out: list[bytes] = []
        self.subscribed = asyncio.Event()
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's own are no subclass
        self.transport.write(_CONNECT + b"SUB %b 1\r\nPING\r\n" % self._subscription)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._out and self.transport is not None:
            self.transport.write(b"".join(self._out))
            self._out.clear()

    def _on_message(self, subject: bytes, reply: bytes) -> None:
        self._out.append(self._answer(subject, reply))

    def _on_line(self, line: bytes) -> None:
        if line == b"PING":
            self._out.append(b"PONG\r\n")
        elif line == b"PONG":
            self.subscribed.set()
        elif line.startswith(b"-ERR"):
            raise RuntimeError(line.decode())


async def connect(url: str, subscription: bytes, answer: Callable[[bytes, bytes], bytes]) -> Peer:
    """Return a peer whose subscription the server has."""
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(lambda: Peer(subscription, answer), *address_of(url))
    await asyncio.wait_for(peer.subscribed.wait(), 5)
    return peer


async def respond(url: str) -> None:
    """Answer every request until the process is ended."""
    bodies: dict[bytes, bytes] = {}

    def answer(subject: bytes, reply: bytes) -> bytes:
        size = subject.rpartition(b".")[2]
        if size not in bodies:
            bodies[size] = b"x" * int(size)
        return publication(reply, b"", bodies[size])

    await connect(url, SUBJECT + b".*", answer)
    print(json.dumps({"event": "ready"}), flush=True)
    await asyncio.Event().wait()


async def request(url: str, work: Work, seconds: float) -> dict[str, float]:
    """Drive the responder to the end and return the fields of ``Load``."""
    subject, payload = SUBJECT + b".%d" % work.reply_bytes, b"x" * work.request_bytes
    requests = [publication(subject, b"inbox.%d" % n, payload) for n in range(work.in_flight)]
    sent_ns = [0] * work.in_flight
    latencies_ns: list[int] = []
    done = asyncio.Event()
    deadline_ns = 0

    def answer(inbox: bytes, _reply: bytes) -> bytes:
        now = time.perf_counter_ns()
        number = int(inbox.rpartition(b".")[2])
        latencies_ns.append(now - sent_ns[number])
        sent_ns[number] = now
        if len(latencies_ns) >= work.requests if work.requests else now >= deadline_ns:
            done.set()
            return b""
        return requests[number]

    peer = await connect(url, b"inbox.*", answer)
    assert peer.transport is not None
    began_ns, cpu_began = time.perf_counter_ns(), time.process_time()
    deadline_ns = began_ns + int(seconds * 1e9)
    sent_ns[:] = [began_ns] * work.in_flight
    peer.transport.write(b"".join(requests))
    await done.wait()
    lasted, cpu_s = (time.perf_counter_ns() - began_ns) / 1e9, time.process_time() - cpu_began
    peer.transport.close()
    ordered = sorted(latencies_ns)
    return {
        "requests": len(ordered),
        "seconds": lasted,
        "p50_us": percentile(ordered, 0.50) / 1e3,
        "p99_us": percentile(ordered, 0.99) / 1e3,
        "errors": 0,
        "cpu_s": cpu_s,
    }


def main(role: str, url: str, *numbers: str) -> None:
    """Run one end."""
    if role == "respond":
        uvloop.run(respond(url))
    else:
        *whole, seconds = numbers
        print(json.dumps(uvloop.run(request(url, Work(*map(int, whole)), float(seconds)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
