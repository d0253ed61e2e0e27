"""What processes cost: the arithmetic on the text of /proc."""

from __future__ import annotations

import os

from benchmarks import proc


def stat(parent: int, cpu_s: float = 0.0, command: str = "x") -> proc.Stat:
    return proc.Stat(parent, command, cpu_s)


def test_a_stat_line_with_a_hostile_command_name() -> None:
    fields = ["S", "7", *["0"] * 9, "150", "50", *["0"] * 8, "3", "0"]
    found = proc.parse_stat(f"42 (a) b (c)) {' '.join(fields)}\n")
    assert found == (7, "a) b (c)", 200 / proc.TICKS_PER_SECOND)


def test_the_peak_is_read_in_bytes_and_a_zombie_has_none() -> None:
    assert proc.parse_peak("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t  1000 kB\n") == 1234 * 1024
    assert proc.parse_peak("Name:\tx\nState:\tZ (zombie)\n") == 0


TREE = {
    1: stat(0, 99.0),
    10: stat(1, 1.0),  # `up`, watched
    11: stat(10, 2.0),  # its bus, watched apart
    12: stat(11, 4.0),  # a child of the bus
    13: stat(10, 8.0),  # another child of `up`
    20: stat(1, 16.0),  # nobody's
}


def test_processes_are_charged_to_their_nearest_watched_ancestor() -> None:
    watched = {10: "authority", 11: "bus", 30: "gone"}
    assert proc.attribute(TREE, watched) == {"authority": 9.0, "bus": 6.0, "gone": 0.0}
    assert proc.owners(TREE, watched) == {10: "authority", 11: "bus", 12: "bus", 13: "authority"}


def test_two_processes_may_share_a_role() -> None:
    assert proc.attribute({1: stat(0, 1.0), 2: stat(0, 2.0)}, {1: "r", 2: "r"}) == {"r": 3.0}


def test_stolen_time_is_busy_and_waiting_is_not() -> None:
    # user nice system idle iowait irq softirq steal guest guest_nice
    text = "cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9 9 9 9 9 9 9 9\n"
    assert proc.busy_seconds(text) == 63 / proc.TICKS_PER_SECOND


def test_a_process_that_is_gone_has_no_memory() -> None:
    gone = max(proc.processes()) + 2**22
    assert proc.reset_peaks({gone: "r"}) == {}
    assert proc.peaks({gone: "r"}) == {}


def test_the_peak_of_a_real_process_is_at_least_what_is_resident() -> None:
    assert proc.reset_peaks({os.getpid(): "r"})["r"] > 2**20
