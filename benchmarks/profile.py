"""Where the time goes: py-spy on both agents under load, and the functions that held the CPU themselves.

C code that a function calls (the seal, a socket write) is charged to that function; what the event loop
does by itself (polling, reading) appears as ``Runner.run``. Sampling slows the agents down a little, so a
profile is a run of its own and its requests/s count nowhere.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.contest import Contestant
from benchmarks.errors import BenchFailed
from benchmarks.jobs import Job
from benchmarks.stand import need_program
from benchmarks.tables import Table

_SAMPLES_PER_SECOND = 250
_LEAF = re.compile(r"(?P<function>.+?) \((?P<file>[^()]+?)(?::\d+)?\)")


def self_times(folded: str) -> list[tuple[str, float]]:
    """Return function -> share of all samples in which it was the innermost, largest share first.

    Args:
        folded: stacks as py-spy's raw format writes them: ``frame;frame;frame count`` per line.
    """
    counts: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack and count.isdigit():
            counts[_label(stack.rsplit(";", 1)[-1])] += int(count)
    total = counts.total()
    return [(label, count / total) for label, count in counts.most_common()]


def _label(frame: str) -> str:
    """Return ``function (package/module.py)`` without line, and without where the file lies."""
    if (found := _LEAF.fullmatch(frame)) is None:
        return frame
    return f"{found['function']} ({'/'.join(Path(found['file']).parts[-3:])})"


def self_time_table(role: str, folded: str, top: int = 15) -> Table:
    """Return the functions with the largest self time of one process."""
    shares = self_times(folded)
    rows = [[label, f"{share:.1%}"] for label, share in shares[:top]]
    rows.append([f"{max(0, len(shares) - top)} others", f"{sum(share for _, share in shares[top:]):.1%}"])
    return Table(f"Where the time goes: {role}", ["function", "self time"], rows)


def record(
    contestant: Contestant, watched: Mapping[int, str], job: Job, seconds: int, into: Path
) -> dict[str, str]:
    """Drive the job with py-spy on some processes.

    Args:
        watched: process id -> role.
        into: a directory for the folded stacks, one file per role.

    Returns:
        Role -> folded stacks.

    Raises:
        BenchFailed: py-spy is missing, or may not look at the processes.
    """
    program = need_program("py-spy", hint="pip install '.[bench]'")
    files = {role: into / f"{role.replace(' ', '-')}.folded" for role in watched.values()}
    options = ["--format", "raw", "--rate", str(_SAMPLES_PER_SECOND), "--function"]
    spies = [
        subprocess.Popen(
            [program, "record", *options, "-d", str(seconds), "-p", str(pid), "-o", str(files[role])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for pid, role in watched.items()
    ]
    try:
        contestant.drive(job, seconds + 1)
        for spy in spies:
            _, printed = spy.communicate(timeout=30)
            if spy.returncode:
                raise BenchFailed(
                    f"py-spy ended with status {spy.returncode}: {printed.decode(errors='replace')[-300:]}",
                    hint="it needs leave to trace other processes: root, or CAP_SYS_PTRACE",
                )
    finally:
        for spy in spies:
            spy.kill()
            spy.wait()
    return {role: path.read_text() for role, path in files.items()}
