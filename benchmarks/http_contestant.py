"""A contestant that speaks HTTP at a loopback address: Envoy, busmesh, or the bare upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.contest import LOAD, UPSTREAM, Job, Load
from benchmarks.load import Generator
from benchmarks.stand import Process, get
from benchmarks.upstream import Upstream, body_of


@dataclass(frozen=True, slots=True)
class HttpContestant:
    """Where to send requests, and whose cost counts."""

    name: str
    port: int
    host: str
    roles: Mapping[int, str]
    generator: Generator
    load_role: str = LOAD

    def drive(self, job: Job, seconds: float) -> Load:
        headers = {"Host": self.host} if self.host else {}
        url = f"http://127.0.0.1:{self.port}/{job.body_bytes}"
        return self.generator.drive(url, headers, job, seconds)


def await_answer(process: Process, port: int, host: str, size: int) -> None:
    """Wait until a GET through the contestant brings exactly the upstream's body."""
    process.wait_until(lambda: get(port, f"/{size}", host) == (200, body_of(size)))


def bare_upstream(upstream: Upstream, generator: Generator) -> HttpContestant:
    """Return the upstream without any mesh: the ceiling of this machine and load generator."""
    roles = {upstream.process.pid: UPSTREAM}
    return HttpContestant("no mesh", upstream.port, "", roles, generator)
