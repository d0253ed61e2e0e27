"""What is measured, and one measurement: a job driven through a contestant.

A sample is invalid as soon as one response is not a success, because a proxy that refuses is fast, or when
a proxy or the bus cost nothing, because then the requests went around it. A contestant that cannot do a job
makes an invalid sample, not the end of the run.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks import proc
from benchmarks.errors import BenchFailed
from benchmarks.jobs import Get, Idle, Job, Rate, Stream

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


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator saw, and what it cost itself."""

    requests: int
    seconds: float
    p50_us: float = 0.0
    p99_us: float = 0.0
    errors: int = 0
    cpu_s: float = 0.0
    #: Bytes of bodies that arrived, where the job is a stream.
    body_bytes: int = 0
    #: How late the generator itself was with sending, where the job has fixed times.
    late_p99_us: float | None = None
    #: The first error in words.
    reason: str = ""


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

    @property
    def is_reference(self) -> bool:
        """True for what is no mesh: it needs no warm-up, and every second round is enough for it."""

    def can(self, job: Job) -> bool:
        """Say whether the job makes sense here."""

    def drive(self, job: Job, seconds: float) -> Load:
        """Run the job to the end, for so long unless it has an end of its own."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one role cost during a run."""

    cpu_s: float
    #: Resident memory at the beginning of the run, and the most that it ever was until its end.
    before_mib: float = 0.0
    peak_mib: float = 0.0


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
    def faults(self) -> str:
        """Say why this sample proves nothing; empty for a valid one."""
        if isinstance(self.job, Idle):
            return self.load.reason
        carried = isinstance(self.job, Get | Rate | Stream)
        around = [r for r in MESH_ROLES if carried and r in self.costs and self.costs[r].cpu_s <= 0]
        reason = f" ({self.load.reason})" if self.load.reason else ""
        found = [
            f"{self.load.errors} errors{reason}" if self.load.errors else "",
            "" if self.load.requests else "no requests",
            f"went around {' and '.join(around)}" if around else "",
        ]
        return ", ".join(filter(None, found))

    @property
    def valid(self) -> bool:
        return not self.faults


def measure(contestant: Contestant, job: Job, number: int, *, warm_up_s: float, seconds: float) -> Sample:
    """Warm the contestant up, then drive it once and charge what it cost to the roles.

    A stream gets no warm-up: the growth of memory by the first one is part of what is asked for.
    """
    try:
        if isinstance(job, Get | Rate) and not contestant.is_reference:
            contestant.drive(job, warm_up_s)
        return _measure(contestant, job, number, seconds)
    except BenchFailed as error:
        return Sample(contestant.name, job, number, Load(0, seconds, errors=1, reason=first_line(error)))


def _measure(contestant: Contestant, job: Job, number: int, seconds: float) -> Sample:
    before, own_before, busy_before = proc.processes(), _own_cpu_s(), proc.machine_busy_seconds()
    resident = proc.reset_peaks(proc.owners(before, contestant.roles))
    began = time.monotonic()
    load = _idle(seconds) if isinstance(job, Idle) else contestant.drive(job, seconds)
    lasted = time.monotonic() - began
    after, own_after, busy_after = proc.processes(), _own_cpu_s(), proc.machine_busy_seconds()
    peaks = proc.peaks(proc.owners(after, contestant.roles))
    first, last = proc.attribute(before, contestant.roles), proc.attribute(after, contestant.roles)
    costs = {
        role: Cost(last[role] - first[role], resident.get(role, 0) / 2**20, peaks.get(role, 0) / 2**20)
        for role in last
    }
    if not isinstance(job, Idle):
        costs[contestant.load_role] = Cost(load.cpu_s)
    mine = {os.getpid(): "stand"}
    own = own_after - own_before
    own += proc.attribute(after, mine)["stand"] - proc.attribute(before, mine)["stand"]
    foreign = max(0.0, busy_after - busy_before - own) / lasted
    return Sample(contestant.name, job, number, load, costs, foreign)


def first_line(error: BenchFailed) -> str:
    """Return what an error says without the output that it quotes."""
    return str(error).partition("\n")[0][:120]


def _idle(seconds: float) -> Load:
    time.sleep(seconds)
    return Load(requests=0, seconds=seconds)


def _own_cpu_s() -> float:
    """CPU time of children that have ended (load generators); those alive are in the process table."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime
