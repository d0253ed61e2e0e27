"""``python -m benchmarks``: the contestants in turn, round by round, and ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import envoy, floor, http_contestant, machine, mesh, profile, results, upstream
from benchmarks.contest import CALLER, SERVICE, Contestant, Job, Sample, measure
from benchmarks.errors import BenchFailed
from benchmarks.load import Generator, find_generator
from benchmarks.stand import Stand
from benchmarks.tables import Table, number
from benchmarks.upstream import Upstream
from busmesh.errors import BusmeshError

_DEFAULT_OUTPUT = Path(__file__).with_name("RESULTS.md")
Starter = Callable[[Stand, Upstream, Generator, int], Contestant]

#: Name on the command line -> how it starts. The order is the order within a round.
STARTERS: dict[str, Starter] = {
    "envoy": envoy.start,
    "busmesh": mesh.start,
    "none": lambda _stand, app, generator, _size: http_contestant.bare_upstream(app, generator),
    "nats": lambda stand, _app, _generator, size: floor.start(stand, size),
}


def numbers(text: str) -> list[int]:
    """Read ``32,1``: positive whole numbers."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise ValueError(text)
    return values


def names(text: str) -> list[str]:
    """Read ``envoy,busmesh``: contestants that exist."""
    chosen = text.split(",")
    if unknown := set(chosen) - set(STARTERS):
        raise argparse.ArgumentTypeError(f"no contestant {unknown.pop()!r}; there are {', '.join(STARTERS)}")
    return chosen


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="how often each contestant runs each job (5)")
    add("--seconds", type=int, default=5, help="length of one run (5)")
    add("--warm-up", type=int, default=2, help="seconds of load before each run (2)")
    add("--connections", type=numbers, default=[32, 1], help="one job per number (32,1)")
    add("--bodies", type=numbers, default=[100], help="response sizes in bytes, one job per size (100)")
    add("--contestants", type=names, default=list(STARTERS), help=",".join(STARTERS))
    add("--output", default=str(_DEFAULT_OUTPUT), help="where the results go; '-' writes none")
    add(
        "--profile",
        nargs="?",
        const="",
        metavar="DIR",
        help="profile both agents as well; DIR keeps the folded stacks",
    )
    return parser.parse_args(argv)


def run_rounds(
    contestants: Sequence[Contestant], options: argparse.Namespace, console: Console
) -> list[Sample]:
    """Drive every contestant with every job once per round, and say what came out at once."""
    loads = [Job(connections, body) for body in options.bodies for connections in options.connections]
    samples = []
    for turn in range(1, options.rounds + 1):
        for job in loads:
            for contestant in contestants:
                sample = measure(contestant, job, turn, warm_up_s=options.warm_up, seconds=options.seconds)
                samples.append(sample)
                state = "" if sample.valid else f"  INVALID: {sample.faults}"
                console.print(
                    f"round {turn}  {contestant.name:13}{number(sample.rps):>8} req/s  "
                    f"p50 {number(sample.load.p50_us):>6} us  {job}{state}",
                    highlight=False,
                )
    return samples


def run_profile(contestant: Contestant, options: argparse.Namespace, stand: Stand) -> list[Table]:
    """Profile both agents of the mesh under the first job."""
    agents = {pid: role for pid, role in contestant.roles.items() if role in (CALLER, SERVICE)}
    into = Path(options.profile) if options.profile else stand.directory
    into.mkdir(parents=True, exist_ok=True)
    job = Job(options.connections[0], options.bodies[0])
    folded = profile.record(contestant, agents, job, options.seconds * 2, into)
    return [profile.self_time_table(role, stacks) for role, stacks in folded.items()]


def run(options: argparse.Namespace, console: Console) -> int:
    """Measure, show and write; returns the exit status: 1 if a sample is invalid."""
    facts = machine.describe()
    generator = find_generator()
    load_before = machine.load_average()
    profiles: list[Table] = []
    with Stand() as stand:
        app = upstream.start(stand, options.bodies)
        running = [STARTERS[name](stand, app, generator, options.bodies[0]) for name in options.contestants]
        samples = run_rounds(running, options, console)
        for contestant in running:
            if options.profile is not None and contestant.name == mesh.NAME:
                profiles = run_profile(contestant, options, stand)
    facts |= {"upstream": app.name, "load generator": generator.name}
    facts["load average before the run"] = f"{load_before:.2f}"
    tables = [*results.tables(samples), *profiles]
    for table in tables:
        table.show(console)
    if options.output != "-":
        method = results.method(options.rounds, options.seconds, options.warm_up)
        today = datetime.datetime.now(datetime.UTC).date()
        Path(options.output).write_text(results.page(today, facts, method, tables), encoding="utf-8")
        console.print(f"written to {options.output}", highlight=False)
    return 0 if all(sample.valid for sample in samples) else 1


def main() -> int:
    """Run the command line; ends every process also on Ctrl-C and SIGTERM."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=None if sys.stdout.isatty() else 150)
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
