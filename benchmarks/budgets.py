"""The bars of the data plane, and whether a run met them.

A bar is judged by the median of the rounds, growth of memory by the worst round. If busmesh failed in one of
them, the bar is missed, whatever the others say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.contest import CALLER, SERVICE, Sample
from benchmarks.figures import MB_PER_S, P50, READY, RPS, Figure, cpu, growth, idle_memory
from benchmarks.jobs import Get, Idle, Job, Start, Stream
from benchmarks.tables import Table, number

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Budget:
    """A bar that busmesh is held to in one job."""

    title: str
    job: Job
    figure: Figure
    #: One of ≤, < and ≥: how what was measured must stand to the bar.
    sign: str
    bar: float
    #: Judge the ratio to the other mesh rather than the figure itself.
    relative: bool = False

    def met(self, value: float) -> bool:
        """Say whether a value is on the right side of the bar."""
        return {"≤": value <= self.bar, "<": value < self.bar, "≥": value >= self.bar}[self.sign]

    def row(self, ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[str]:
        """Return the row of the table: title, job, bar, both figures, their ratio, verdict."""
        mine, its = self.figure.summary(ours), self.figure.summary(theirs)
        ratios = [] if self.figure.worst else self.figure.ratios(ours, theirs)
        ratio = median(ratios) if ratios else None
        judged = ratio if self.relative else mine
        invalid = sum(not sample.valid for sample in ours)
        if invalid or mine is None:
            verdict = f"MISSED: {invalid} of {len(ours)} runs failed"
        elif judged is None:
            verdict = "unknown: no valid run to compare with"
        else:
            verdict = "met" if self.met(judged) else "MISSED"
        unit = "× Envoy's" if self.relative else self.figure.unit
        bar = f"{self.sign} {self.bar:g} {unit}"
        shown = [number(mine), number(its), number(ratio)]
        return [f"{self.title}, {self.figure.unit}", self.job.name, bar, *shown, verdict]


def _stream_budgets(upload: bool) -> tuple[Budget, ...]:
    job = Stream(upload, _GIB)
    grown = growth(CALLER, SERVICE)
    return (
        Budget("growth of memory, the larger proxy's", job, grown, "<", 32.0),
        Budget("throughput", job, MB_PER_S, "≥", 0.5, relative=True),
    )


BUDGETS = (
    Budget("CPU per request, caller's proxy", Get(32), cpu(CALLER), "≤", 30.0),
    Budget("CPU per request, service's proxy", Get(32), cpu(SERVICE), "≤", 30.0),
    Budget("throughput", Get(32), RPS, "≥", 1.0, relative=True),
    Budget("p50", Get(1), P50, "≤", 1.3, relative=True),
    *_stream_budgets(upload=False),
    *_stream_budgets(upload=True),
    Budget("resident memory, caller's proxy", Idle(), idle_memory(CALLER), "≤", 64.0),
    Budget("resident memory, service's proxy", Idle(), idle_memory(SERVICE), "≤", 64.0),
    Budget("start to ready", Start(), READY, "≤", 1000.0),
)


def budget_table(samples: Sequence[Sample], ours: str, theirs: str) -> Table:
    """Return every bar with what was measured, for the jobs that this run had."""
    ran = {sample.job for sample in samples}
    rows = []
    for budget in BUDGETS:
        if budget.job in ran:
            of = [sample for sample in samples if sample.job == budget.job]
            mine = [sample for sample in of if sample.contestant == ours]
            rows.append(budget.row(mine, [sample for sample in of if sample.contestant == theirs]))
    return Table("Budgets", ["figure", "job", "bar", ours, theirs, "ratio, round by round", "verdict"], rows)
