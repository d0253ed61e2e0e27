"""An open-loop HTTP load: ``python -m benchmarks.open_loop URL PER_SECOND CONNECTIONS SECONDS [HEADER...]``.

Request number n is intended for the time n / rate, whatever became of those before it, and its latency
counts from that time: also while it waited for a free connection. A stall is therefore seen by every
request that it delayed, not by the one alone that was under way (coordinated omission). It prints one JSON
line with the fields of ``Load``, with its own lateness among them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import httptools
import uvloop

from benchmarks.alarm import Alarm
from benchmarks.generator import address_of, percentile, request_of

#: Requests that are still without an answer so long after the last was due are errors.
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each request is meant to be sent, in nanoseconds since the beginning."""

    per_second: int
    total: int

    def intended_ns(self, number: int) -> int:
        return number * 10**9 // self.per_second

    def due(self, elapsed_ns: int) -> int:
        """Return how many requests should have been sent by now, one of this very moment included."""
        return min(self.total, elapsed_ns * self.per_second // 10**9 + 1)


@dataclass(slots=True)
class Tally:
    """What all connections of one run saw."""

    latencies_ns: list[int] = field(default_factory=list)
    lateness_ns: list[int] = field(default_factory=list)
    errors: int = 0
    reason: str = ""

    def failed(self, reason: str) -> None:
        self.errors += 1
        self.reason = self.reason or reason


class Sender:
    """Sends what is due over connections that are free; the rest waits, in order, its clock running."""

    def __init__(self, schedule: Schedule) -> None:
        self.tally = Tally()
        self.done = asyncio.Event()
        self.began_ns = 0
        self._schedule = schedule
        self._next = 0
        self._answered = 0
        self._free: deque[Connection] = deque()
        self._waiting: deque[int] = deque()

    def now_ns(self) -> int:
        return time.monotonic_ns() - self.began_ns

    def send_due(self) -> int | None:
        """Send what is due, and return when the next one is, on the system's clock; None after the last."""
        due = self._schedule.due(self.now_ns())
        for number in range(self._next, due):
            intended = self._schedule.intended_ns(number)
            if self._free:
                self.tally.lateness_ns.append(self.now_ns() - intended)
                self._free.popleft().send(intended)
            else:
                self._waiting.append(intended)
        self._next = due
        return self.began_ns + self._schedule.intended_ns(due) if due < self._schedule.total else None

    def ready(self, connection: Connection) -> None:
        """Give a connection that is free the next request, or keep it for one."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._free.append(connection)

    def answered(self, intended_ns: int, status: int) -> None:
        self.tally.latencies_ns.append(self.now_ns() - intended_ns)
        if not 200 <= status < 300:
            self.tally.failed(f"HTTP {status}")
        self._count()

    def lost(self, connection: Connection, in_flight: bool) -> None:
        """Forget a connection that the other end closed; what it was asked has no answer."""
        if connection in self._free:
            self._free.remove(connection)
        if in_flight:
            self.tally.failed("connection lost")
            self._count()

    def _count(self) -> None:
        self._answered += 1
        if self._answered == self._schedule.total:
            self.done.set()

    @property
    def unanswered(self) -> int:
        return self._schedule.total - self._answered


class Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, request: bytes, sender: Sender) -> None:
        self._request = request
        self._sender = sender
        self._parser = httptools.HttpResponseParser(self)
        self._intended_ns: int | None = None
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's own are no subclass
        self._sender.ready(self)

    def send(self, intended_ns: int) -> None:
        assert self.transport is not None
        self._intended_ns = intended_ns
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._intended_ns is None:
            return
        self._sender.answered(self._intended_ns, self._parser.get_status_code())
        self._intended_ns = None
        self._sender.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender.lost(self, self._intended_ns is not None)


async def run(
    url: str, per_second: int, connections: int, seconds: float, headers: list[str]
) -> dict[str, float | str]:
    """Drive ``url`` and return the fields of ``Load``."""
    request = request_of(url, headers)
    sender = Sender(Schedule(per_second, max(1, round(per_second * seconds))))
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(request, sender), *address_of(url))
        for _ in range(connections)
    ]
    gc.disable()  # its pauses would count as the contestant's
    cpu_began = time.process_time()
    with Alarm() as alarm:

        def ring() -> None:
            following = sender.send_due()
            if following is None:
                loop.remove_reader(alarm.fileno())
            else:
                alarm.set(following)

        loop.add_reader(alarm.fileno(), ring)
        sender.began_ns = time.monotonic_ns()
        alarm.set(sender.began_ns)
        try:
            await asyncio.wait_for(sender.done.wait(), seconds + _PATIENCE_S)
        except TimeoutError:
            sender.tally.reason = sender.tally.reason or "no answer"
        finally:
            loop.remove_reader(alarm.fileno())
    lasted, cpu_s = sender.now_ns() / 1e9, time.process_time() - cpu_began
    unanswered = sender.unanswered
    for transport, _ in opened:
        transport.close()
    ordered, late = sorted(sender.tally.latencies_ns), sorted(sender.tally.lateness_ns)
    return {
        "requests": len(ordered),
        "seconds": lasted,
        "p50_us": percentile(ordered, 0.50) / 1e3,
        "p99_us": percentile(ordered, 0.99) / 1e3,
        "errors": sender.tally.errors + unanswered,
        "cpu_s": cpu_s,
        "late_p99_us": percentile(late, 0.99) / 1e3,
        "reason": sender.tally.reason,
    }


def main(url: str, per_second: str, connections: str, seconds: str, *headers: str) -> None:
    """Run once and print what came out."""
    found = uvloop.run(run(url, int(per_second), int(connections), float(seconds), list(headers)))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
