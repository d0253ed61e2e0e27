"""``python -m benchmarks``: the contestants in turn, round by round, and ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import (
    charts,
    envoy,
    floor,
    http_contestant,
    machine,
    mesh,
    profile,
    report,
    results,
    upstream,
)
from benchmarks.arguments import arguments
from benchmarks.contest import CALLER, SERVICE, Contestant, Sample, measure
from benchmarks.errors import BenchFailed
from benchmarks.jobs import Get, Idle, Job, Rate, Stream
from benchmarks.load import Generator, find_generator
from benchmarks.stand import Stand
from benchmarks.tables import Table
from benchmarks.upstream import Upstream
from busmesh.errors import BusmeshError

#: Processes come to rest for so long before idle memory is read.
_SETTLE_S = 2.0
Starter = Callable[[Stand, Upstream, Generator], Contestant]

#: Name on the command line -> how it starts.
STARTERS: dict[str, Starter] = {
    "envoy": envoy.start,
    "busmesh": mesh.start,
    "none": lambda _stand, app, generator: http_contestant.bare_upstream(app, generator),
    "nats": lambda stand, _app, _generator: floor.start_nats_py(stand),
    "bus": lambda stand, _app, _generator: floor.start_bus(stand),
}


def takes_part(contestant: Contestant, job: Job, turn: int) -> bool:
    """Say whether a contestant runs a job in a round: a reference in every second one; meshes idle once."""
    if isinstance(job, Idle):
        return turn == 1 and not contestant.is_reference
    return contestant.can(job) and (turn % 2 == 1 or not contestant.is_reference)


def run_rounds(
    contestants: Sequence[Contestant], options: argparse.Namespace, console: Console
) -> list[Sample]:
    """Drive every contestant with every job once per round, and say what came out at once."""
    samples = []
    for turn in range(1, options.rounds + 1):
        for job in options.jobs:
            for contestant in contestants:
                if takes_part(contestant, job, turn):
                    seconds = max(_SETTLE_S, options.seconds) if isinstance(job, Idle) else options.seconds
                    sample = measure(contestant, job, turn, warm_up_s=options.warm_up, seconds=seconds)
                    samples.append(sample)
                    console.print(report.line(sample), highlight=False, markup=False, soft_wrap=True)
    return samples


def run_profile(contestant: Contestant, options: argparse.Namespace, stand: Stand) -> list[Table]:
    """Profile both agents of the mesh under the first closed-loop job, or else the first stream."""
    chosen = [job for kind in (Get, Stream, Rate) for job in options.jobs if isinstance(job, kind)]
    if not chosen:
        raise BenchFailed("a profile needs a job under which to take it", hint="--jobs get-32")
    job = chosen[0]
    agents = {pid: role for pid, role in contestant.roles.items() if role in (CALLER, SERVICE)}
    into = Path(options.profile) if options.profile else stand.directory
    into.mkdir(parents=True, exist_ok=True)
    folded = profile.record(contestant, agents, job, round(options.seconds * 2), into)
    return [profile.self_time_table(role, stacks) for role, stacks in folded.items()]


def write(
    options: argparse.Namespace, facts: dict[str, str], samples: list[Sample], tables: list[Table]
) -> None:
    """Write the page, and the charts beside it."""
    output = Path(options.output)
    drawn = charts.write(samples, (envoy.NAME, mesh.NAME), output.parent / "charts")
    method = results.method(options.rounds, options.seconds, options.warm_up)
    today = datetime.datetime.now(datetime.UTC).date()
    page = results.page(
        today, facts, method, tables, {str(job): f"charts/{name}" for job, name in drawn.items()}
    )
    output.write_text(page, encoding="utf-8")


def run(options: argparse.Namespace, console: Console) -> int:
    """Measure, show and write; returns the exit status: 1 if a sample is invalid."""
    facts = machine.describe()
    generator = find_generator()
    load_before = machine.load_average()
    profiles: list[Table] = []
    with Stand() as stand:
        app = upstream.start(
            stand, [job.body_bytes for job in options.jobs if isinstance(job, Get | Rate | Stream)]
        )
        running = [STARTERS[name](stand, app, generator) for name in options.contestants]
        samples = run_rounds(running, options, console)
        for contestant in running:
            if options.profile is not None and contestant.name == mesh.NAME:
                profiles = run_profile(contestant, options, stand)
    facts |= {"upstream": app.name, "load generators": results.generators(generator.name)}
    facts["load average before the run"] = f"{load_before:.2f}"
    tables = [*results.tables(samples), *profiles]
    for table in tables:
        table.show(console)
    if options.output != "-":
        write(options, facts, samples, tables)
        console.print(f"written to {options.output}", highlight=False)
    return 0 if all(sample.valid for sample in samples) else 1


def main() -> int:
    """Run the command line; ends every process also on Ctrl-C and SIGTERM."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=None if sys.stdout.isatty() else 190)
    try:
        if not Path("/proc/self/stat").exists():
            raise BenchFailed("CPU and memory are read from /proc", hint="run it on Linux")
        return run(options, console)
    except BusmeshError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
