"""What the process itself uses, under the standard Prometheus names.

Read from ``/proc`` where there is one; elsewhere only the processor time is known.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from busmesh.telemetry.metrics import Registry


def register_process(registry: Registry, proc: Path = Path("/proc")) -> None:
    """Add the metrics of this process to ``registry``; each is read when somebody asks."""
    registry.counter_from(
        "process_cpu_seconds_total", "User and system processor time in seconds.", time.process_time
    )
    own = proc / "self"
    if not (own / "statm").exists():
        return
    page = os.sysconf("SC_PAGE_SIZE")
    statm = own / "statm"
    registry.gauge(
        "process_virtual_memory_bytes",
        "Virtual memory in bytes.",
        lambda: int(statm.read_bytes().split()[0]) * page,
    )
    registry.gauge(
        "process_resident_memory_bytes",
        "Resident memory in bytes.",
        lambda: int(statm.read_bytes().split()[1]) * page,
    )
    registry.gauge("process_open_fds", "Open file descriptors.", lambda: open_fds(own / "fd"))
    registry.gauge("process_max_fds", "Most file descriptors allowed.", lambda: _max_fds(own))
    started = started_at((own / "stat").read_text(), (proc / "stat").read_text(), os.sysconf("SC_CLK_TCK"))
    registry.gauge(
        "process_start_time_seconds", "Start of the process, Unix time in seconds.", lambda: started
    )


def open_fds(folder: Path) -> int:
    """Return how many file descriptors the kernel lists in ``folder``.

    Linux 6.2 and later tell it as the size of the folder. Counting the entries instead costs more the
    more there are, and the listing itself is one of them.
    """
    return folder.stat().st_size or len(os.listdir(folder)) - 1


def _max_fds(own: Path) -> float:
    for line in (own / "limits").read_text().splitlines():
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return float("inf") if soft == "unlimited" else int(soft)
    return float("nan")


def started_at(own_stat: str, system_stat: str, ticks_per_second: int) -> float:
    """Return when a process began, in Unix seconds (proc(5): field 22 of stat counts from boot).

    Args:
        own_stat: text of ``/proc/<pid>/stat``. Its second field is the command's name in parentheses, which
            may hold blanks and parentheses itself: fields are counted from the last one.
        system_stat: text of ``/proc/stat``, whose line ``btime`` is the time of boot.
        ticks_per_second: ``SC_CLK_TCK``.
    """
    fields = own_stat.rpartition(")")[2].split()
    boot = next(int(line.split()[1]) for line in system_stat.splitlines() if line.startswith("btime "))
    return boot + int(fields[19]) / ticks_per_second
