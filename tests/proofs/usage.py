"""What processes use: processor time to the microsecond, and the most memory that they held meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.memory import Growth

#: Bytes around a message that travel as well: the protocol's words and sizes, and its share of a segment.
FRAMING = 20
#: Headers of IP and TCP (RFC 791, RFC 9293): what the smallest write costs whoever makes it.
SEGMENT = 40


def processor(pid: int) -> float:
    """Return the seconds that all threads of a process have run."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


@dataclass
class Use:
    """What one load cost.

    Attributes:
        count: messages, requests or connections.
        size: bytes that were written for it.
        seconds: of the processor, in each process, less what it uses at rest.
        grown: bytes of memory at the most beyond what there was before, in each process.
    """

    count: int = 0
    size: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    grown: dict[str, int] = field(default_factory=dict)

    def per_message(self, name: str) -> float:
        return self.seconds[name] / self.count

    def per_byte(self, name: str) -> float:
        return self.seconds[name] / self.size

    def add(self, size: int, count: int = 1) -> None:
        self.count += count
        self.size += size


class Meter:
    """Measures processes (pid by name) against what they use at rest, which it finds out at first."""

    def __init__(self, processes: dict[str, int], rest: float = 4.0) -> None:
        self._processes = processes
        time.sleep(1.0)
        self._idle = self._rates(rest)

    @contextmanager
    def used(self) -> Iterator[Use]:
        """Measure what the block costs, until all are as quiet as at first."""
        self._quiet()
        use = Use()
        growth = Growth(*self._processes.values())
        before, began = self._seconds(), time.monotonic()
        yield use
        self._quiet()
        lasted, after = time.monotonic() - began, self._seconds()
        idle = self._idle
        use.seconds = {name: max(0.0, after[name] - before[name] - idle[name] * lasted) for name in before}
        use.grown = dict(zip(self._processes, growth.most(), strict=True))

    def _quiet(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            rates = self._rates(0.25)
            if all(rate <= 2 * self._idle[name] + 0.02 for name, rate in rates.items()):
                return

    def _seconds(self) -> dict[str, float]:
        return {name: processor(pid) for name, pid in self._processes.items()}

    def _rates(self, seconds: float) -> dict[str, float]:
        before, began = self._seconds(), time.monotonic()
        time.sleep(seconds)
        lasted = time.monotonic() - began
        return {name: (after - before[name]) / lasted for name, after in self._seconds().items()}


def told(rows: Iterable[tuple[str, str, float, float, float]]) -> str:
    """Return a table: what, where, times the processor by message and by byte, times the memory."""
    lines = [f"{'':58} {'process':10} {'CPU/msg':>8} {'CPU/byte':>8} {'memory':>8}"]
    lines += [f"{what:58.58} {where:10} {m:8.2f} {b:8.2f} {r:8.2f}" for what, where, m, b, r in rows]
    return "\n".join(lines)
