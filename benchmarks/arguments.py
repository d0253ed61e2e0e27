"""The command line: which jobs, which contestants, how often and how long."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.jobs import DEFAULT_NAMES, Job, parse_job, parse_jobs

#: In the order in which they run within a round.
CONTESTANTS = ("envoy", "busmesh", "none", "nats", "bus")
DEFAULT_OUTPUT = Path(__file__).with_name("RESULTS.md")
_ROUNDS, _SECONDS, _WARM_UP_S = 5, 3.0, 1.0
_QUICK_ROUNDS, _QUICK_SECONDS = 2, 1.0

_EPILOG = f"""\
jobs:
  idle                    resident memory and CPU before any load
  start                   a proxy's birth until it is ready
  download-SIZE           large bodies one after the other: MB/s, CPU per GiB, growth of memory
  upload-SIZE             the same the other way
  get-CONNECTIONS[-SIZE]  each connection sends its next GET when it has its answer (body: 100 bytes)
  rate-PER_SECOND         GETs at fixed times; latency counts from the time for which a request was meant
  SIZE is 100, 16k, 1m or 1g. A pattern means those of the default jobs that match it.
  default: {", ".join(DEFAULT_NAMES[:6])},
           {", ".join(DEFAULT_NAMES[6:])}

contestants:
  envoy    two Envoy sidecars with mutual TLS
  busmesh  two busmesh agents on a bus of their own
  none     the application alone: the ceiling of this machine
  nats     request and reply of plain nats-py: the floor of a mesh on NATS in Python
  bus      the bare NATS protocol: what the bus costs by itself

examples:
  python -m benchmarks --quick                                    everything, short: numbers to look at only
  python -m benchmarks --jobs 'get-32,rate-*' --rounds 3          two jobs
  python -m benchmarks --jobs get-64-4k --contestants busmesh     a job that is not among the default ones
  python -m benchmarks --jobs get-32 --profile .                  and where the time goes in both agents
"""


def _jobs(text: str) -> list[Job]:
    try:
        return parse_jobs(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _contestants(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in CONTESTANTS]:
        known = ", ".join(CONTESTANTS)
        raise argparse.ArgumentTypeError(f"no contestant {unknown[0]!r}; there are {known}")
    return chosen


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600")
    return value


def _rounds(text: str) -> int:
    return int(_positive(text))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line and fill in what depends on other options."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="The same jobs through busmesh and through Envoy, in turn, on one machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--jobs", type=_jobs, metavar="NAMES", help="names and patterns, by commas; see below (all)")
    add("--contestants", type=_contestants, metavar="NAMES", help=f"{','.join(CONTESTANTS)} (all)")
    add("--rounds", type=_rounds, help=f"how often each contestant runs each job ({_ROUNDS})")
    add("--seconds", type=_positive, help=f"length of one run ({_SECONDS:g}); streams end by themselves")
    add("--warm-up", type=_positive, default=_WARM_UP_S, help=f"seconds before each run ({_WARM_UP_S:g})")
    quick = f"{_QUICK_ROUNDS} rounds of {_QUICK_SECONDS:g} s: to see that all works, not to quote"
    add("--quick", action="store_true", help=quick)
    add("--output", metavar="FILE", help="where the results go, charts in charts/ beside it; '-': nowhere")
    profile = (
        "profile both agents as well, under the first get job or else the first stream; DIR keeps the stacks"
    )
    add("--profile", nargs="?", const="", metavar="DIR", help=profile)
    options = parser.parse_args(argv)
    if options.output is None:
        # What is published is a whole run: a part of one must not take its place.
        whole = options.jobs is None and options.contestants is None and not options.quick
        options.output = str(DEFAULT_OUTPUT) if whole else "-"
    options.jobs = options.jobs or [parse_job(name) for name in DEFAULT_NAMES]
    options.contestants = options.contestants or list(CONTESTANTS)
    options.rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    options.seconds = options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS)
    return options
