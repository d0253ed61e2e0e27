"""What memory a process holds, and held at the most: the kernel notes the peak, so nothing is missed."""

from __future__ import annotations

from pathlib import Path

MIB = 1024 * 1024


def resident(pid: int) -> int:
    """Return the resident bytes of a process."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """Return the most resident bytes since its start, or since :func:`forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let the peak be what is resident now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Growth:
    """How much memory processes take beyond what they hold when this is made."""

    def __init__(self, *pids: int) -> None:
        for pid in pids:
            forget_peak(pid)
        self._before = {pid: resident(pid) for pid in pids}

    def most(self) -> list[int]:
        """Return by how many bytes each has grown at its largest moment so far."""
        return [max(0, peak(pid) - before) for pid, before in self._before.items()]


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no {name}: it has ended")
