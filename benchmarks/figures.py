"""Figures: what can be read off a sample, each with a name and a unit; tables, charts and budgets share them.

Where a sample has no such figure (CPU of a role that the contestant lacks, MB/s of small requests), there is
None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from benchmarks.contest import CALLER, MESH_ROLES, SERVICE, Cost, Sample
from benchmarks.jobs import Get, Idle, Rate, Start, Stream

Reading = Callable[[Sample], float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A name, a unit, and how it is read."""

    title: str
    unit: str
    read: Reading
    #: The worst run tells, not the median: growth of memory, which only the first stream shows in full.
    worst: bool = False

    def __str__(self) -> str:
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def valid(self, samples: Iterable[Sample]) -> list[float]:
        """Return the figure of every valid sample that has it."""
        found = (self.read(sample) for sample in samples if sample.valid)
        return [value for value in found if value is not None]

    def summary(self, samples: Iterable[Sample]) -> float | None:
        """Return the median of the runs, or their worst; None if no valid sample has the figure."""
        if not (values := self.valid(samples)):
            return None
        return max(values) if self.worst else median(values)

    def ratios(self, ours: Iterable[Sample], theirs: Iterable[Sample]) -> list[float]:
        """Return ours / theirs for every round in which both are valid and have the figure."""
        other = {sample.round: self.read(sample) for sample in theirs if sample.valid}
        pairs = ((self.read(sample), other.get(sample.round)) for sample in ours if sample.valid)
        return [mine / its for mine, its in pairs if mine is not None and its]


def _of(*kinds: type, read: Reading) -> Reading:
    """Return a reading that samples of other kinds of jobs do not have."""
    return lambda sample: read(sample) if isinstance(sample.job, kinds) else None


RPS = Figure("requests", "req/s", _of(Get, Rate, read=lambda s: s.load.requests / s.load.seconds))
MB_PER_S = Figure("throughput", "MB/s", _of(Stream, read=lambda s: s.load.body_bytes / 1e6 / s.load.seconds))
P50 = Figure("p50", "us", _of(Get, Rate, read=lambda s: s.load.p50_us))
P99 = Figure("p99", "us", _of(Get, Rate, read=lambda s: s.load.p99_us))
LATE = Figure("generator late, p99", "us", _of(Rate, read=lambda s: s.load.late_p99_us))
READY = Figure("start to ready", "ms", _of(Start, read=lambda s: s.load.seconds * 1e3))
#: Of either loop; for ratios, in which the unit cancels out. At a fixed rate it is the same for everybody.
THROUGHPUT = Figure(
    "throughput", "", lambda s: MB_PER_S.read(s) if isinstance(s.job, Stream) else _of(Get, read=RPS.read)(s)
)


def cpu(*roles: str) -> Figure:
    """Return CPU time per request of some roles together; None where there is none of them."""
    per_request = _cpu(roles, lambda s: s.load.requests / 1e6)
    return Figure(roles[0], "us", _of(Get, Rate, read=per_request))


def cpu_per_gib(*roles: str) -> Figure:
    """Return CPU time per GiB that was streamed."""
    return Figure(roles[0], "s/GiB", _of(Stream, read=_cpu(roles, lambda s: s.load.body_bytes / 2**30)))


def cpu_work(*roles: str, title: str) -> Figure:
    """Return CPU time per request or GiB, whichever the job is about; for ratios."""
    small, large = cpu(*roles), cpu_per_gib(*roles)
    return Figure(title, "", lambda s: large.read(s) if isinstance(s.job, Stream) else small.read(s))


def growth(*roles: str) -> Figure:
    """Return by how much resident memory grew while streaming, in MiB; the larger one of several roles."""
    grown = _memory(roles, lambda cost: cost.peak_mib - cost.before_mib)
    return Figure(roles[0], "MiB", _of(Stream, read=grown), worst=True)


def idle_memory(role: str) -> Figure:
    """Return resident memory of one role before any load, in MiB."""
    return Figure(role, "MiB", _of(Idle, read=_peak(role)))


def loaded_memory(role: str) -> Figure:
    """Return the peak of resident memory of one role under load, in MiB."""
    return Figure(role, "MiB", _of(Get, Rate, Stream, read=_peak(role)), worst=True)


def _cpu(roles: tuple[str, ...], work: Callable[[Sample], float]) -> Reading:
    """Return a reading of CPU seconds per piece of work; None where there is no such role or no work."""

    def read(sample: Sample) -> float | None:
        there = [sample.costs[role].cpu_s for role in roles if role in sample.costs]
        return sum(there) / work(sample) if there and work(sample) else None

    return read


def _memory(roles: tuple[str, ...], of: Callable[[Cost], float | None]) -> Reading:
    def read(sample: Sample) -> float | None:
        there = [of(sample.costs[role]) for role in roles if role in sample.costs]
        return max((value for value in there if value is not None), default=None)

    return read


def _peak(role: str) -> Reading:
    return _memory((role,), lambda cost: cost.peak_mib or None)


#: What is compared with the other mesh, in the order of the ratio table.
COMPARISONS = (
    THROUGHPUT,
    P50,
    P99,
    cpu_work(CALLER, title="CPU of the caller's proxy"),
    cpu_work(SERVICE, title="CPU of the service's proxy"),
    cpu_work(*MESH_ROLES, title="CPU of proxies and bus"),
)
