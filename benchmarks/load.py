"""The load generators: wrk where it is installed, a small one on uvloop where it is not; one for fixed rates.

The first two are closed-loop and send the next request of a connection when its answer is there, so their
latencies leave out what a fixed arrival rate would have waited (coordinated omission). For that there is the
open loop, our own: of the tools that package indexes offer (hey, h2load, httperf, autocannon), none counts
from the time for which a request was intended, and autocannon sends a second's worth at its beginning.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from typing import Protocol

from benchmarks import children
from benchmarks.contest import Load
from benchmarks.errors import BenchFailed
from benchmarks.jobs import Get, Rate
from benchmarks.stand import find_program, module_command

_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7, "h": 3.6e9}
_DURATION = r"([\d.]+)(us|ms|s|m|h)"


class Generator(Protocol):
    """Something that drives one HTTP address."""

    @property
    def name(self) -> str: ...

    def drive(self, url: str, headers: Mapping[str, str], job: Get, seconds: float) -> Load: ...


def duration_us(number: str, unit: str) -> float:
    """Return a duration of wrk in microseconds."""
    return float(number) * _UNITS_US[unit]


def parse_wrk(text: str) -> Load:
    """Read what ``wrk --latency`` prints.

    Raises:
        BenchFailed: a figure is missing, so the run proves nothing.
    """
    total = re.search(rf"(\d+) requests in {_DURATION}", text)
    p50 = re.search(rf"^\s*50%\s+{_DURATION}$", text, re.MULTILINE)
    p99 = re.search(rf"^\s*99%\s+{_DURATION}$", text, re.MULTILINE)
    if total is None or p50 is None or p99 is None:
        raise BenchFailed(f"wrk printed no result: {text.strip()[-300:]!r}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = (int(refused[1]) if refused else 0) + (sum(map(int, sockets.groups())) if sockets else 0)
    return Load(
        requests=int(total[1]),
        seconds=duration_us(total[2], total[3]) / 1e6,
        p50_us=duration_us(p50[1], p50[2]),
        p99_us=duration_us(p99[1], p99[2]),
        errors=errors,
    )


class Wrk:
    """wrk with one thread."""

    def __init__(self, program: str) -> None:
        self._program = program
        version = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"wrk \S*?(\d+\.\d+\.\d+)", version)
        self.name = f"wrk {found[1]}" if found else "wrk"

    def drive(self, url: str, headers: Mapping[str, str], job: Get, seconds: float) -> Load:
        argv = [self._program, "-t1", f"-c{job.connections}", f"-d{max(1, round(seconds))}s", "--latency"]
        for key, value in headers.items():
            argv += ["-H", f"{key}: {value}"]
        text, cpu_s = children.output([*argv, url], seconds)
        seen = parse_wrk(text)
        return Load(seen.requests, seen.seconds, seen.p50_us, seen.p99_us, seen.errors, cpu_s)


class PythonLoad:
    """The fallback; it costs several times what wrk costs, which the report shows."""

    name = "python (uvloop, httptools)"

    def drive(self, url: str, headers: Mapping[str, str], job: Get, seconds: float) -> Load:
        argv = module_command("benchmarks.generator", url, str(job.connections), str(seconds))
        text, _ = children.output([*argv, *_lines(headers)], seconds)
        return load_of_json(text)


def load_of_json(text: str) -> Load:
    """Read the one JSON line that the Python generators print, field by field as in :class:`Load`."""
    return Load(**json.loads(text))


def find_generator() -> Generator:
    """Return the best generator that this machine has."""
    program = find_program("wrk")
    return Wrk(program) if program else PythonLoad()


def drive_at_rate(url: str, headers: Mapping[str, str], job: Rate, seconds: float) -> Load:
    """Send requests at fixed times, however long the answers take."""
    argv = module_command(
        "benchmarks.open_loop", url, str(job.per_second), str(job.connections), str(seconds)
    )
    text, _ = children.output([*argv, *_lines(headers)], seconds)
    return load_of_json(text)


def _lines(headers: Mapping[str, str]) -> list[str]:
    return [f"{key}: {value}" for key, value in headers.items()]
