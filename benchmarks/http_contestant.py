"""A contestant that speaks HTTP at a loopback address: Envoy, busmesh, or the bare upstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks import curl, load
from benchmarks.contest import LOAD, Load
from benchmarks.jobs import SMALL_BYTES, Get, Job, Rate, Start, Stream
from benchmarks.stand import Process, get
from benchmarks.upstream import UPLOAD_PATH, Upstream, body_of


@dataclass(frozen=True, slots=True)
class HttpContestant:
    """Where to send requests, and whose cost counts."""

    name: str
    port: int
    #: The authority to ask for; empty: the address itself.
    host: str
    roles: Mapping[int, str]
    generator: load.Generator
    upstream: Upstream
    #: Starts one more proxy, ends it, and returns the seconds from its birth until it was ready.
    start_another: Callable[[], float] | None = None
    is_reference: bool = False
    load_role: str = field(default=LOAD, init=False)

    def can(self, job: Job) -> bool:
        return self.start_another is not None or not isinstance(job, Start)

    def drive(self, job: Job, seconds: float) -> Load:
        headers = {"Host": self.host} if self.host else {}
        base = f"http://127.0.0.1:{self.port}"
        match job:
            case Get():
                return self.generator.drive(f"{base}/{job.body_bytes}", headers, job, seconds)
            case Rate():
                return load.drive_at_rate(f"{base}/{job.body_bytes}", headers, job, seconds)
            case Stream():
                path = UPLOAD_PATH if job.upload else f"/{job.body_bytes}"
                body = self.upstream.directory / str(job.body_bytes)
                return curl.drive(base + path, headers, job, body)
            case Start() if self.start_another is not None:
                took = self.start_another()
                return Load(1, took, p50_us=took * 1e6, p99_us=took * 1e6)
            case _:
                raise AssertionError(f"{self.name} cannot do {job}")


def await_answer(process: Process, port: int, host: str) -> None:
    """Wait until a small GET through the contestant brings exactly the upstream's body."""
    expected = (200, body_of(SMALL_BYTES))
    process.wait_until(lambda: get(port, f"/{SMALL_BYTES}", host) == expected)


def bare_upstream(upstream: Upstream, generator: load.Generator) -> HttpContestant:
    """Return the upstream without any mesh: the ceiling of this machine and load generator."""
    return HttpContestant(
        "no mesh", upstream.port, "", upstream.roles, generator, upstream, is_reference=True
    )
