"""Samples in, tables out: medians, and ratios taken round by round.

A ratio compares two contestants within the same round and its median is quoted, so that a machine
that gets slower or faster during the run moves both sides of it. Invalid samples count nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.contest import AUTHORITY, BUS, CALLER, MESH_ROLES, ROLES, SERVICE, Sample
from benchmarks.figures import (
    COMPARISONS,
    LATE,
    MB_PER_S,
    P50,
    P99,
    READY,
    RPS,
    Figure,
    cpu,
    cpu_per_gib,
    growth,
    idle_memory,
    loaded_memory,
)
from benchmarks.jobs import Get, Idle, Job, Rate, Start, Stream
from benchmarks.tables import Table, number


def of(samples: Sequence[Sample], contestant: str, job: Job) -> list[Sample]:
    """Return the samples of one contestant and job, in the order of the rounds."""
    return [sample for sample in samples if sample.contestant == contestant and sample.job == job]


def contestants(samples: Iterable[Sample]) -> list[str]:
    """Return the contestants in the order in which they first ran."""
    return list(dict.fromkeys(sample.contestant for sample in samples))


def jobs(samples: Iterable[Sample]) -> list[Job]:
    """Return the jobs in the order in which they first ran."""
    return list(dict.fromkeys(sample.job for sample in samples))


def roles(samples: Iterable[Sample]) -> list[str]:
    """Return the roles that any contestant has, in the order of a request."""
    charged = {role for sample in samples for role in sample.costs}
    return [role for role in ROLES if role in charged]


def columns(job: Job, charged: Sequence[str]) -> list[tuple[str, Figure]]:
    """Return the heads and figures of one job's table; ``charged`` are the roles to show."""
    latencies = [("p50 us", P50), ("p99 us", P99)]
    per_request = [("mesh CPU us", cpu(*MESH_ROLES)), *((f"{role} us", cpu(role)) for role in charged)]
    match job:
        case Get():
            return [("req/s", RPS), *latencies, *per_request]
        case Rate():
            return [("req/s", RPS), *latencies, ("generator late, p99 us", LATE), *per_request]
        case Stream():
            cpus = [(f"{role} s/GiB", cpu_per_gib(role)) for role in charged]
            grown = [(f"{role} grew MiB", growth(role)) for role in (CALLER, BUS, SERVICE)]
            return [("MB/s", MB_PER_S), ("mesh CPU s/GiB", cpu_per_gib(*MESH_ROLES)), *cpus, *grown]
        case Start():
            return [("ms", READY)]
        case Idle():
            return [(f"{role} MiB", idle_memory(role)) for role in charged]


def job_table(samples: Sequence[Sample], job: Job) -> Table:
    """Return one job's medians; of the growth of memory the worst round."""
    mine = [sample for sample in samples if sample.job == job]
    charged = [role for role in roles(mine) if role != AUTHORITY or isinstance(job, Idle)]
    shown = columns(job, charged)
    rows = []
    for contestant in contestants(mine):
        runs = of(mine, contestant, job)
        cells = [number(figure.summary(runs)) for _, figure in shown]
        rows.append([contestant, *cells, verdict(runs)])
    return Table(str(job), ["median of rounds", *(head for head, _ in shown), "valid rounds"], rows)


def verdict(runs: Sequence[Sample]) -> str:
    """Return how many runs are valid, and what is wrong with the first one that is not."""
    faults = [run.faults for run in runs if not run.valid]
    count = f"{len(runs) - len(faults)} of {len(runs)}"
    return f"{count}: {faults[0]}" if faults else count


def ratio_table(samples: Sequence[Sample], ours: str, theirs: str) -> Table:
    """Return ours / theirs of every job and figure: the median and the spread over the rounds."""
    rows = []
    for job in jobs(samples):
        mine, its = of(samples, ours, job), of(samples, theirs, job)
        found = [figure.ratios(mine, its) for figure in COMPARISONS]
        if any(found):
            rows.append([str(job), *map(_spread, found)])
    heads = ["median (min–max) of rounds", *(figure.title for figure in COMPARISONS)]
    return Table(f"{ours} / {theirs}", heads, rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return number(None)
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def memory_table(samples: Sequence[Sample]) -> Table:
    """Return resident memory of each role: idle, and the peak of all runs under load."""
    charged = [role for role in roles(samples) if loaded_memory(role).valid(samples)]
    rows = []
    for contestant in contestants(samples):
        mine = [sample for sample in samples if sample.contestant == contestant]
        cells = (
            f"{number(idle_memory(role).summary(mine))} / {number(loaded_memory(role).summary(mine))}"
            for role in charged
        )
        rows.append([contestant, *(cell.replace("– / –", "–") for cell in cells)])
    return Table("Resident memory", ["idle / peak under load, MiB", *charged], rows)


def round_table(samples: Sequence[Sample]) -> Table:
    """Return every single sample, invalid ones marked, with what others used of the machine meanwhile."""
    heads = [
        "contestant",
        "round",
        "job",
        "measured",
        "p50",
        "p99",
        "mesh CPU",
        "others' cores",
        "verdict",
    ]
    rows = []
    for sample in samples:
        state = f"INVALID: {sample.faults}" if sample.faults else "valid"
        shown = [*_measured(sample), f"{sample.foreign_cores:.2f}", state]
        rows.append([sample.contestant, str(sample.round), sample.job.name, *shown])
    return Table("Every round", heads, rows)


#: What a run is about, and what it cost: the first of each that it has.
_MAIN = (RPS, MB_PER_S, READY, idle_memory(CALLER))
_COST = (cpu(*MESH_ROLES), cpu_per_gib(*MESH_ROLES))


def _measured(sample: Sample) -> list[str]:
    """Return the main figure, latencies, and what the mesh cost, for people."""
    return [with_unit(sample, *choice) for choice in (_MAIN, (P50,), (P99,), _COST)]


def with_unit(sample: Sample, *choice: Figure) -> str:
    """Return the first of some figures that a sample has; a dash if it has none of them."""
    for figure in choice:
        if (value := figure.read(sample)) is not None:
            return f"{number(value)} {figure.unit}"
    return number(None)


def line(sample: Sample) -> str:
    """Return one run in one line, for who watches."""
    main, p50, p99, cost = _measured(sample)
    told = [main, f"p50 {p50}", f"p99 {p99}", f"mesh CPU {cost}"]
    shown = ", ".join(words for words in told if not words.endswith("–"))
    state = f"  INVALID: {sample.faults}" if sample.faults else ""
    return f"round {sample.round}  {sample.job.name:12} {sample.contestant:12} {shown}{state}"
