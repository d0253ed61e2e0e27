"""What is measured, and one measurement: a job driven through a contestant.

A sample is invalid as soon as one response is not a success, because a proxy that refuses is fast, or when
a proxy or the bus cost nothing, because then the requests went around it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks import proc

#: Roles in the order of a request; the tables use it.
CALLER, BUS, SERVICE, UPSTREAM, LOAD, AUTHORITY = (
    "caller's proxy",
    "bus",
    "service's proxy",
    "upstream",
    "load generator",
    "authority",
)
ROLES = (CALLER, BUS, SERVICE, UPSTREAM, LOAD, AUTHORITY)
#: What the mesh itself costs; upstream and load generator are the same for every contestant.
MESH_ROLES = (CALLER, BUS, SERVICE)


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One load: closed loop, each connection sends its next request when it has its answer."""

    connections: int
    body_bytes: int

    def __str__(self) -> str:
        plural = "connection" if self.connections == 1 else "connections"
        return f"{self.connections} {plural}, GET of {self.body_bytes} bytes"


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator saw, and what it cost itself."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int
    cpu_s: float = 0.0


class Contestant(Protocol):
    """Running processes that can be driven."""

    @property
    def name(self) -> str: ...

    @property
    def roles(self) -> Mapping[int, str]:
        """Process id -> role, for every process whose cost counts."""

    @property
    def load_role(self) -> str:
        """The role that the load generator's own cost is charged to."""

    def drive(self, job: Job, seconds: float) -> Load:
        """Run the job for so long, to the end."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one role cost during a round."""

    cpu_us_per_request: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One contestant in one round of one job."""

    contestant: str
    job: Job
    round: int
    load: Load
    costs: Mapping[str, Cost] = field(default_factory=dict)
    #: Cores that others than the benchmark's own processes kept busy meanwhile.
    foreign_cores: float = 0.0

    @property
    def rps(self) -> float:
        return self.load.requests / self.load.seconds

    @property
    def faults(self) -> str:
        """Say why this sample proves nothing; empty for a valid one."""
        around = [r for r in MESH_ROLES if r in self.costs and self.costs[r].cpu_us_per_request <= 0]
        found = [
            f"{self.load.errors} errors" if self.load.errors else "",
            "" if self.load.requests else "no requests",
            f"went around {' and '.join(around)}" if around else "",
        ]
        return ", ".join(filter(None, found))

    @property
    def valid(self) -> bool:
        return not self.faults

    @property
    def mesh_cpu_us(self) -> float:
        """CPU per request of everything that the mesh adds: both proxies and the bus."""
        return sum(cost.cpu_us_per_request for role, cost in self.costs.items() if role in MESH_ROLES)


def measure(contestant: Contestant, job: Job, number: int, *, warm_up_s: float, seconds: float) -> Sample:
    """Warm the contestant up, then drive it once and charge what it cost to the roles."""
    contestant.drive(job, warm_up_s)
    before, own_before, busy_before = proc.processes(), _own_cpu_s(), proc.machine_busy_seconds()
    load = contestant.drive(job, seconds)
    after, own_after, busy_after = proc.processes(), _own_cpu_s(), proc.machine_busy_seconds()
    first, last = proc.attribute(before, contestant.roles), proc.attribute(after, contestant.roles)
    requests = max(1, load.requests)
    costs = {
        role: Cost((last[role].cpu_s - first[role].cpu_s) * 1e6 / requests, last[role].rss_bytes / 2**20)
        for role in last
    }
    costs[contestant.load_role] = Cost(load.cpu_s * 1e6 / requests, 0.0)
    mine = {os.getpid(): "stand"}
    own = own_after - own_before
    own += proc.attribute(after, mine)["stand"].cpu_s - proc.attribute(before, mine)["stand"].cpu_s
    foreign = max(0.0, busy_after - busy_before - own) / load.seconds
    return Sample(contestant.name, job, number, load, costs, foreign)


def _own_cpu_s() -> float:
    """CPU time of children that have ended (load generators); those alive are in the process table."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime
