"""The two ends of the floor: ``python -m benchmarks.floor_peer respond|request URL N [SECONDS]``.

``respond`` prints a ready line and answers with N bytes until it is ended; ``request`` keeps N requests
in flight for so many seconds and prints one JSON line with the fields of ``Load``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import nats
import uvloop
from nats.aio.msg import Msg
from nats.errors import Error

from benchmarks.generator import percentile

SUBJECT = "bench.echo"
#: About what the head of a small request needs, sealed.
_REQUEST_BYTES = 200


async def respond(url: str, size: int) -> None:
    """Answer every request until the process is ended."""
    body = b"x" * size
    client = await nats.connect(url)

    async def answer(message: Msg) -> None:
        await client.publish(message.reply, body)

    await client.subscribe(SUBJECT, cb=answer)
    await client.flush()
    print(json.dumps({"event": "ready"}), flush=True)
    await asyncio.Event().wait()


async def request(url: str, in_flight: int, seconds: float) -> dict[str, float]:
    """Drive the responder and return the fields of ``Load``."""
    client = await nats.connect(url)
    payload = b"x" * _REQUEST_BYTES
    latencies_ns: list[int] = []
    errors = 0
    await client.request(SUBJECT, payload, timeout=5)
    began, cpu_began = time.perf_counter(), time.process_time()

    async def one_connection() -> None:
        nonlocal errors
        while time.perf_counter() - began < seconds:
            sent_ns = time.perf_counter_ns()
            try:
                await client.request(SUBJECT, payload, timeout=5)
            except Error:
                errors += 1
            latencies_ns.append(time.perf_counter_ns() - sent_ns)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_connection())
    lasted, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    await client.close()
    ordered = sorted(latencies_ns)
    return {
        "requests": len(ordered),
        "seconds": lasted,
        "p50_us": percentile(ordered, 0.50) / 1e3,
        "p99_us": percentile(ordered, 0.99) / 1e3,
        "errors": errors,
        "cpu_s": cpu_s,
    }


def main(role: str, url: str, number: str, seconds: str = "5") -> None:
    """Run one end."""
    if role == "respond":
        uvloop.run(respond(url, int(number)))
    else:
        print(json.dumps(uvloop.run(request(url, int(number), float(seconds)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
