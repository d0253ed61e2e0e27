"""A load at a fixed rate whatever becomes of it, with the status and the time of each answer."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass

import uvloop

from benchmarks.generator import address_of, percentile, request_of
from benchmarks.open_loop import Connection, Schedule, Sender


@dataclass(frozen=True)
class Outcome:
    """What came of one run; times in seconds, from when each request was meant to be sent.

    Attributes:
        late: how late the generator itself was, 99th percentile.
        errors: connections that were lost and requests without any answer.
    """

    seconds: float
    answers: dict[int, list[float]]
    late: float
    errors: int

    def rate(self, status: int = 200) -> float:
        """Return answers of that status a second."""
        return len(self.answers.get(status, [])) / self.seconds

    def p99(self, status: int = 200) -> float:
        return percentile(sorted(self.answers[status]), 0.99)

    def __str__(self) -> str:
        told = [
            f"{status}: {self.rate(status):.0f}/s, p50 {1000 * percentile(sorted(took), 0.5):.1f} ms, "
            f"p99 {1000 * self.p99(status):.1f} ms"
            for status, took in sorted(self.answers.items())
        ]
        return "; ".join([*told, f"generator late by {1000 * self.late:.1f} ms", f"errors {self.errors}"])


class _Sender(Sender):
    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.answers: dict[int, list[float]] = {}

    def answered(self, intended_ns: int, status: int) -> None:
        self.answers.setdefault(status, []).append((self.now_ns() - intended_ns) / 1e9)
        super().answered(intended_ns, status)


async def _drive(url: str, service: str, rate: int, seconds: float, connections: int) -> Outcome:
    sender = _Sender(Schedule(rate, round(rate * seconds)))
    request = request_of(url, [f"Host: {service}"])
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(request, sender), *address_of(url))
        for _ in range(connections)
    ]
    gc.disable()  # its pauses would count as the mesh's
    sender.began_ns = sender.now_ns()
    while sender.send_due() is not None:  # noqa: ASYNC110  # time is what it waits for
        await asyncio.sleep(0.001)
    try:
        await asyncio.wait_for(sender.done.wait(), 5)
    except TimeoutError:
        sender.tally.reason = "no answer"
    gc.enable()
    lasted, unanswered = sender.now_ns() / 1e9, sender.unanswered
    lost = sender.tally.errors - sum(len(took) for status, took in sender.answers.items() if status != 200)
    for transport, _ in opened:
        transport.close()
    late = percentile(sorted(sender.tally.lateness_ns), 0.99) / 1e9
    return Outcome(lasted, sender.answers, late, lost + unanswered)


def drive(outbound: str, service: str, rate: int, seconds: float, connections: int = 400) -> Outcome:
    """Send ``rate`` GETs a second to ``service`` for so long."""
    return uvloop.run(_drive(f"http://{outbound}/", service, rate, seconds, connections))
