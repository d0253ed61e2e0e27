"""Load generators as child processes: run to their end, with what they printed and what they cost."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Sequence

from benchmarks.errors import BenchFailed
from benchmarks.stand import clean_environment


def run(argv: Sequence[str], timeout_s: float) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command; returns what it printed, whatever its exit status, and its CPU time in seconds.

    Raises:
        BenchFailed: it did not end in time; it is ended then.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=clean_environment(), timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise BenchFailed(f"{argv[0]} did not end within {timeout_s:g} s") from None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def output(argv: Sequence[str], seconds: float) -> tuple[str, float]:
    """Run a generator that drives for so many seconds; returns its stdout and its CPU time.

    Raises:
        BenchFailed: it failed; the error quotes its stderr.
    """
    done, cpu_s = run(argv, timeout_s=seconds + 30)
    if done.returncode:
        raise BenchFailed(f"the load generator ended with status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout, cpu_s
