"""One chart per job: for every figure a panel, for every contestant a bar, for every round a dot on it.

References may be tenfold: the scale is that of the meshes, and a longer bar is shown cut, with its number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.contest import AUTHORITY, BUS, CALLER, MESH_ROLES, SERVICE, Sample
from benchmarks.figures import (
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
from benchmarks.report import contestants, jobs, of
from benchmarks.svg import Panel, Part, Row, picture
from benchmarks.tables import number

_MESH_COLOURS = ("blue", "orange")
_REFERENCE_COLOUR = "grey"
_ROLE_COLOURS = {CALLER: "purple", BUS: "yellow", SERVICE: "pink", AUTHORITY: "green"}
_MORE, _LESS = "more is better", "less is better"
_NOTE = "Bars: medians of the valid rounds, of the growth and peak of memory the worst. Dots: the rounds."


def bar_panel(
    samples: Sequence[Sample], job: Job, figure: Figure, meshes: Sequence[str], title: str
) -> Panel:
    """Return a panel of one figure: a bar for its summary, a dot for each valid round.

    A contestant that tried and failed has a row that says so; one that has no such figure has none.
    """
    colours = dict(zip(meshes, _MESH_COLOURS, strict=False))
    rows = []
    scale = longest = 0.0
    for contestant in contestants(samples):
        runs = of(samples, contestant, job)
        values = figure.valid(runs)
        length = figure.summary(runs)
        faults = [run.load.reason or run.faults for run in runs if not run.valid]
        if length is not None:
            part = Part(length, colours.get(contestant, _REFERENCE_COLOUR))
            failed = f" ({len(faults)} failed)" if faults else ""
            rows.append(Row(contestant, (part,), number(length) + failed, values))
            longest = max(longest, *values)
            scale = max(scale, *values) if contestant in meshes else scale
        elif faults:
            rows.append(Row(contestant, (), f"failed: {faults[0]}"[:48]))
    better = _MORE if figure in (RPS, MB_PER_S) else _LESS
    return Panel(f"{title}, {figure.unit}", better, rows, scale or longest)


def stacked_panel(
    samples: Sequence[Sample], job: Job | None, title: str, parts: Sequence[tuple[str, Figure]]
) -> Panel:
    """Return a panel whose bars are made of one figure per role, in one job or, without one, in all."""
    rows = []
    for contestant in contestants(samples):
        runs = [sample for sample in samples if sample.contestant == contestant and job in (None, sample.job)]
        found = [(role, figure.summary(runs)) for role, figure in parts]
        shown = [Part(value, _ROLE_COLOURS[role]) for role, value in found if value is not None]
        if shown:
            rows.append(Row(contestant, shown, number(sum(part.value for part in shown))))
    scale = max((sum(part.value for part in row.parts) for row in rows), default=0.0)
    legend = [(role, _ROLE_COLOURS[role]) for role, _ in parts]
    return Panel(f"{title}, {parts[0][1].unit}", _LESS, rows, scale, legend)


def panels(samples: Sequence[Sample], job: Job, meshes: Sequence[str]) -> list[Panel]:
    """Return the panels of one job, in the order of reading."""

    def bars(figure: Figure, title: str) -> Panel:
        return bar_panel(samples, job, figure, meshes, title)

    def stacked(title: str, figure: Callable[[str], Figure]) -> Panel:
        return stacked_panel(samples, job, title, [(role, figure(role)) for role in MESH_ROLES])

    match job:
        case Get():
            latencies = bars(P50, "latency, p50"), bars(P99, "latency, p99")
            return [bars(RPS, "throughput"), latencies[0], stacked("CPU per request", cpu), latencies[1]]
        case Rate():
            return [bars(P50, "latency, p50"), bars(P99, "latency, p99"), stacked("CPU per request", cpu)]
        case Stream():
            grown = [bars(growth(role), f"growth of resident memory, {role}") for role in (CALLER, SERVICE)]
            return [bars(MB_PER_S, "throughput"), grown[0], stacked("CPU", cpu_per_gib), grown[1]]
        case Start():
            return [bars(READY, "start to ready")]
        case Idle():
            roles = (*MESH_ROLES, AUTHORITY)
            idle = [(role, idle_memory(role)) for role in roles]
            loaded = [(role, loaded_memory(role)) for role in roles]
            pair = (
                stacked_panel(samples, job, "resident memory, idle", idle),
                stacked_panel(samples, None, "its peak under load", loaded),
            )
            scale = max(panel.scale for panel in pair)  # side by side, they are compared
            return [dataclasses.replace(panel, scale=scale) for panel in pair]


def write(samples: Sequence[Sample], meshes: Sequence[str], into: Path) -> dict[Job, str]:
    """Write the chart of every job into a directory, and return their file names."""
    into.mkdir(parents=True, exist_ok=True)
    written = {}
    for job in jobs(samples):
        drawn = picture(f"{job.name}: {job}", _NOTE, panels(samples, job, meshes))
        written[job] = f"{job.name}.svg"
        (into / written[job]).write_text(drawn, encoding="utf-8")
    return written
