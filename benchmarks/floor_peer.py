"""The two ends of the nats-py floor: ``python -m benchmarks.floor_peer respond|request URL [NUMBERS...]``.

``respond`` prints a ready line and answers until it is ended: the last token of the subject says with how
many bytes. ``request`` takes the numbers of ``floor.Work`` and prints one JSON line with the fields of
``Load``.
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

from benchmarks.floor import Work
from benchmarks.generator import percentile

SUBJECT = "bench.echo"


async def respond(url: str) -> None:
    """Answer every request until the process is ended."""
    client = await nats.connect(url)

    async def answer(message: Msg) -> None:
        size = int(message.subject.rpartition(".")[2])
        await client.publish(message.reply, b"x" * size)

    await client.subscribe(f"{SUBJECT}.*", cb=answer)
    await client.flush()
    print(json.dumps({"event": "ready"}), flush=True)
    await asyncio.Event().wait()


async def request(url: str, work: Work, seconds: float) -> dict[str, float]:
    """Drive the responder for so many seconds and return the fields of ``Load``."""
    client = await nats.connect(url)
    subject, payload = f"{SUBJECT}.{work.reply_bytes}", b"x" * work.request_bytes
    latencies_ns: list[int] = []
    errors = 0
    await client.request(subject, payload, timeout=5)
    began, cpu_began = time.perf_counter(), time.process_time()

    async def one_connection() -> None:
        nonlocal errors
        while time.perf_counter() - began < seconds:
            sent_ns = time.perf_counter_ns()
            try:
                await client.request(subject, payload, timeout=5)
            except Error:
                errors += 1
            latencies_ns.append(time.perf_counter_ns() - sent_ns)

    async with asyncio.TaskGroup() as group:
        for _ in range(work.in_flight):
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


def main(role: str, url: str, *numbers: str) -> None:
    """Run one end."""
    if role == "respond":
        uvloop.run(respond(url))
    else:
        *whole, seconds = numbers
        work = Work(*map(int, whole))
        print(json.dumps(uvloop.run(request(url, work, float(seconds)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
