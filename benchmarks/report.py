"""Samples in, tables out: medians, and ratios taken round by round.

A ratio compares two contestants within the same round and its median is quoted, so that a machine
that gets slower or faster during the run moves both sides of it. Invalid samples count nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.contest import AUTHORITY, CALLER, ROLES, SERVICE, Job, Sample
from benchmarks.tables import Table, number

Figure = Callable[[Sample], float | None]


def cpu(role: str) -> Figure:
    """Return a figure: microseconds of CPU per request of one role; none where there is no such role."""
    return lambda sample: cost.cpu_us_per_request if (cost := sample.costs.get(role)) else None


def memory(role: str) -> Figure:
    """Return a figure: resident MiB of one role; none where it does not exist or was not read."""
    return lambda sample: (cost.rss_mib or None) if (cost := sample.costs.get(role)) else None


def figures(samples: Iterable[Sample], figure: Figure) -> list[float]:
    """Return one figure of every valid sample that has it."""
    values = (figure(sample) for sample in samples if sample.valid)
    return [value for value in values if value is not None]


def middle(samples: Iterable[Sample], figure: Figure) -> float | None:
    """Return the median of a figure, or None if no valid sample has it."""
    values = figures(samples, figure)
    return median(values) if values else None


def ratios(ours: Iterable[Sample], theirs: Iterable[Sample], figure: Figure) -> list[float]:
    """Return ours / theirs for every round in which both are valid and have the figure."""
    other = {sample.round: figure(sample) for sample in theirs if sample.valid}
    pairs = ((figure(sample), other.get(sample.round)) for sample in ours if sample.valid)
    return [mine / its for mine, its in pairs if mine is not None and its]


#: What is compared with the other mesh, in the order of the ratio table.
COMPARISONS: Mapping[str, Figure] = {
    "requests/s": lambda sample: sample.rps,
    "p50": lambda sample: sample.load.p50_us,
    "p99": lambda sample: sample.load.p99_us,
    "CPU of the caller's proxy": cpu(CALLER),
    "CPU of the service's proxy": cpu(SERVICE),
    "CPU of proxies and bus": lambda sample: sample.mesh_cpu_us,
    "memory of the caller's proxy": memory(CALLER),
    "memory of the service's proxy": memory(SERVICE),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """A bar that busmesh is held to at some number of connections."""

    title: str
    figure: Figure
    connections: int
    bar: float
    at_least: bool = False
    #: Judge the ratio to the other mesh rather than the figure itself.
    relative: bool = False

    def measured(self, ours: Sequence[Sample], theirs: Sequence[Sample]) -> float | None:
        """Return the median that is judged, or None if the run did not produce it."""
        if self.relative:
            values = ratios(ours, theirs, self.figure)
            return median(values) if values else None
        return middle(ours, self.figure)

    def met(self, value: float) -> bool:
        """Say whether a value is on the right side of the bar; the bar itself is."""
        return value >= self.bar if self.at_least else value <= self.bar


BUDGETS = (
    Budget("requests/s, ratio", COMPARISONS["requests/s"], 32, 1.0, at_least=True, relative=True),
    Budget("p50, ratio", COMPARISONS["p50"], 1, 1.3, relative=True),
    Budget("CPU per request of the caller's proxy, us", cpu(CALLER), 32, 30.0),
    Budget("CPU per request of the service's proxy, us", cpu(SERVICE), 32, 30.0),
    Budget("memory of the caller's proxy, MiB", memory(CALLER), 32, 64.0),
    Budget("memory of the service's proxy, MiB", memory(SERVICE), 32, 64.0),
)


def of(samples: Sequence[Sample], contestant: str, job: Job) -> list[Sample]:
    """Return the samples of one contestant and job, in the order of the rounds."""
    return [sample for sample in samples if sample.contestant == contestant and sample.job == job]


def contestants(samples: Iterable[Sample]) -> list[str]:
    """Return the contestants in the order in which they first ran."""
    return list(dict.fromkeys(sample.contestant for sample in samples))


def jobs(samples: Iterable[Sample]) -> list[Job]:
    """Return the jobs in the order in which they first ran."""
    return list(dict.fromkeys(sample.job for sample in samples))


def roles(samples: Sequence[Sample]) -> list[str]:
    """Return the roles that any contestant has, in the order of a request."""
    return [role for role in ROLES if any(role in sample.costs for sample in samples)]


def job_table(samples: Sequence[Sample], job: Job) -> Table:
    """Return the medians of one job: throughput, latency, and CPU per request of each role."""
    charged = [role for role in roles(samples) if role != AUTHORITY]
    heads = ["median of rounds", "req/s", "p50 us", "p99 us", "mesh CPU us", *(f"{r} us" for r in charged)]
    rows = []
    for contestant in contestants(samples):
        mine = of(samples, contestant, job)
        shown: list[Figure] = [lambda s: s.rps, lambda s: s.load.p50_us, lambda s: s.load.p99_us]
        shown += [lambda s: s.mesh_cpu_us or None, *(cpu(role) for role in charged)]
        rows.append([contestant, *(number(middle(mine, figure)) for figure in shown)])
    return Table(str(job), heads, rows)


def ratio_table(samples: Sequence[Sample], ours: str, theirs: str) -> Table:
    """Return ours / theirs of every job and figure: the median and the spread over the rounds."""
    rows = []
    for job in jobs(samples):
        for title, figure in COMPARISONS.items():
            if values := ratios(of(samples, ours, job), of(samples, theirs, job), figure):
                spread = f"{min(values):.2f}–{max(values):.2f}"
                rows.append([f"{title}, {job}", f"{median(values):.2f}", spread])
    return Table(f"{ours} / {theirs}", ["ratio, round by round", "median", "min–max"], rows)


def budget_table(samples: Sequence[Sample], ours: str, theirs: str) -> Table:
    """Return every bar with what was measured, for the jobs of this run that it speaks of."""
    rows = []
    for job in jobs(samples):
        for budget in BUDGETS:
            if job.connections != budget.connections:
                continue
            value = budget.measured(of(samples, ours, job), of(samples, theirs, job))
            bar = f"{'≥' if budget.at_least else '≤'} {budget.bar:g}"
            verdict = "no valid sample" if value is None else "met" if budget.met(value) else "MISSED"
            rows.append([f"{budget.title}, {job}", number(value), bar, verdict])
    return Table("Budgets", ["figure", "measured", "bar", "verdict"], rows)


def memory_table(samples: Sequence[Sample]) -> Table:
    """Return the largest resident memory of each role over the whole run."""
    charged = [role for role in roles(samples) if any(memory(role)(sample) for sample in samples)]
    rows = []
    for contestant in contestants(samples):
        mine = [sample for sample in samples if sample.contestant == contestant]
        peaks = (max(figures(mine, memory(role)), default=None) for role in charged)
        rows.append([contestant, *(number(peak) for peak in peaks)])
    return Table("Resident memory", ["peak of rounds, MiB", *charged], rows)


def round_table(samples: Sequence[Sample]) -> Table:
    """Return every single sample, invalid ones marked, with what others used of the machine meanwhile."""
    heads = [
        "contestant",
        "round",
        "job",
        "req/s",
        "p50 us",
        "p99 us",
        "mesh CPU us",
        "others' cores",
        "verdict",
    ]
    rows = []
    for sample in samples:
        load = sample.load
        shown = map(number, (sample.rps, load.p50_us, load.p99_us, sample.mesh_cpu_us or None))
        verdict = f"INVALID: {sample.faults}" if sample.faults else "valid"
        job = f"{sample.job.connections} × {sample.job.body_bytes} B"
        rows.append(
            [sample.contestant, str(sample.round), job, *shown, f"{sample.foreign_cores:.2f}", verdict]
        )
    return Table("Every round", heads, rows)
