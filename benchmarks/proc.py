"""What processes cost, read from ``/proc``: CPU time and resident memory of whole process trees.

Pure functions on the text of ``/proc`` (proc(5)) and small readers, so that the arithmetic has tests.
Peaks are the kernel's own (``VmHWM``), set back before each run: no sampling that could miss one.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.errors import BenchFailed

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)


class Stat(NamedTuple):
    """One line of ``/proc/<pid>/stat``, as far as the benchmarks need it."""

    parent: int
    command: str
    cpu_s: float


def parse_stat(line: str) -> Stat:
    """Read one ``/proc/<pid>/stat`` line; the command may itself hold blanks and parentheses."""
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    ticks = int(fields[11]) + int(fields[12])
    return Stat(parent=int(fields[1]), command=head.partition("(")[2], cpu_s=ticks / TICKS_PER_SECOND)


def parse_peak(status: str) -> int:
    """Return the peak of resident memory in bytes from ``/proc/<pid>/status``; 0 for a zombie."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def busy_seconds(stat: str) -> float:
    """Return the CPU time that the machine has spent on anything but idling, from ``/proc/stat``.

    Time stolen by the hypervisor counts as busy: it was not there for the job.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


def owners(table: Mapping[int, Stat], roles: Mapping[int, str]) -> dict[int, str]:
    """Return process id -> role of every process that has a watched ancestor, itself included.

    Args:
        table: all processes by id.
        roles: watched process id -> role; several ids may share a role, and the nearest one counts.
    """
    found = {}
    for pid in table:
        ancestor = pid
        while ancestor not in roles and ancestor in table:
            ancestor = table[ancestor].parent
        if (role := roles.get(ancestor)) is not None:
            found[pid] = role
    return found


def attribute(table: Mapping[int, Stat], roles: Mapping[int, str]) -> dict[str, float]:
    """Return role -> CPU seconds since birth; a role whose processes are gone has cost zero."""
    costs = dict.fromkeys(roles.values(), 0.0)
    for pid, role in owners(table, roles).items():
        costs[role] += table[pid].cpu_s
    return costs


def processes() -> dict[int, Stat]:
    """Read the whole process table; a process that ends meanwhile is left out."""
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                table[int(entry.name)] = parse_stat(Path(entry.path, "stat").read_text())
            except _GONE:
                continue
    return table


def reset_peaks(owned: Mapping[int, str]) -> dict[str, int]:
    """Set the peaks of resident memory back to what is resident now, and return that, by role.

    Raises:
        BenchFailed: the kernel does not allow it.
    """
    for pid in owned:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except _GONE:
            continue
        except OSError as error:
            hint = "run as the user who owns the processes, on a kernel with CONFIG_PROC_PAGE_MONITOR"
            raise BenchFailed(f"the peak of memory cannot be set back: {error}", hint=hint) from error
    return peaks(owned)


def peaks(owned: Mapping[int, str]) -> dict[str, int]:
    """Return role -> bytes: the peak of resident memory since it was last set back."""
    totals: Counter[str] = Counter()
    for pid, role in owned.items():
        try:
            totals[role] += parse_peak(Path(f"/proc/{pid}/status").read_text())
        except _GONE:
            continue
    return dict(totals)


def machine_busy_seconds() -> float:
    """Return :func:`busy_seconds` of this machine, now."""
    return busy_seconds(Path("/proc/stat").read_text())
