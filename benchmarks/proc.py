"""What processes cost, read from ``/proc``: CPU time and resident memory of whole process trees.

Pure functions on the text of ``/proc`` (proc(5)) and one reader, so that the arithmetic has tests.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """One line of ``/proc/<pid>/stat``, as far as the benchmarks need it."""

    parent: int
    command: str
    cpu_s: float
    rss_bytes: int


class Usage(NamedTuple):
    """CPU time since birth and resident memory now, summed over some processes."""

    cpu_s: float = 0.0
    rss_bytes: int = 0


def parse_stat(line: str) -> Stat:
    """Read one ``/proc/<pid>/stat`` line; the command may itself hold blanks and parentheses."""
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    ticks = int(fields[11]) + int(fields[12])
    return Stat(
        parent=int(fields[1]),
        command=head.partition("(")[2],
        cpu_s=ticks / TICKS_PER_SECOND,
        rss_bytes=int(fields[21]) * PAGE_BYTES,
    )


def busy_seconds(stat: str) -> float:
    """Return the CPU time that the machine has spent on anything but idling, from ``/proc/stat``.

    Time stolen by the hypervisor counts as busy: it was not there for the job.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


def attribute(table: Mapping[int, Stat], roles: Mapping[int, str]) -> dict[str, Usage]:
    """Charge every process to the nearest watched ancestor, itself included.

    Args:
        table: all processes by id.
        roles: watched process id -> role; several ids may share a role.

    Returns:
        The sum of each role; a role whose processes are gone has cost zero.
    """
    costs = dict.fromkeys(roles.values(), Usage())
    for pid, stat in table.items():
        ancestor = pid
        while ancestor not in roles and ancestor in table:
            ancestor = table[ancestor].parent
        if (role := roles.get(ancestor)) is not None:
            cpu_s, rss_bytes = costs[role]
            costs[role] = Usage(cpu_s + stat.cpu_s, rss_bytes + stat.rss_bytes)
    return costs


def processes() -> dict[int, Stat]:
    """Read the whole process table; a process that ends meanwhile is left out."""
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                table[int(entry.name)] = parse_stat(Path(entry.path, "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return table


def machine_busy_seconds() -> float:
    """Return :func:`busy_seconds` of this machine, now."""
    return busy_seconds(Path("/proc/stat").read_text())
