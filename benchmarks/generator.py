"""A closed-loop HTTP load: ``python -m benchmarks.generator URL CONNECTIONS SECONDS [HEADER...]``.

It stands in for wrk where that is not installed, and prints one JSON line with the fields of ``Load``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop


def percentile(ordered: list[int], share: float) -> float:
    """Return the value that at most ``share`` of the ordered values lie below; 0 of none."""
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * share))]) if ordered else 0.0


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of an ``http`` URL."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def request_of(url: str, headers: list[str]) -> bytes:
    """Return the GET to send; a header ``Host: ...`` takes the place of the URL's own."""
    parts = urlsplit(url)
    lines = [f"GET {parts.path or '/'} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append(f"Host: {parts.netloc}")
    return "\r\n".join([*lines, "", ""]).encode()


class Tally:
    """What all connections of one run saw."""

    def __init__(self) -> None:
        self.latencies_ns: list[int] = []
        self.errors = 0
        self.open = True


class Caller(asyncio.Protocol):
    """One connection: sends the same request again as soon as its answer is complete."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request = request
        self._tally = tally
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.WriteTransport | None = None
        self._sent_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own are no subclass
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_ns = time.perf_counter_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if not self._tally.open:
            return
        self._tally.latencies_ns.append(time.perf_counter_ns() - self._sent_ns)
        if not 200 <= self._parser.get_status_code() < 300:
            self._tally.errors += 1
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._tally.open:
            self._tally.errors += 1


async def run(url: str, connections: int, seconds: float, headers: list[str]) -> dict[str, float]:
    """Drive ``url`` and return the fields of ``Load``."""
    request = request_of(url, headers)
    tally = Tally()
    loop = asyncio.get_running_loop()
    began, cpu_began = time.perf_counter(), time.process_time()
    opened = [
        await loop.create_connection(lambda: Caller(request, tally), *address_of(url))
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    tally.open = False
    lasted, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    for transport, _ in opened:
        transport.close()
    ordered = sorted(tally.latencies_ns)
    return {
        "requests": len(ordered),
        "seconds": lasted,
        "p50_us": percentile(ordered, 0.50) / 1e3,
        "p99_us": percentile(ordered, 0.99) / 1e3,
        "errors": tally.errors,
        "cpu_s": cpu_s,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))))
