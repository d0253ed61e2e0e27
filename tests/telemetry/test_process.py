from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.process import open_fds, register_process, started_at
from tests.telemetry.promtext import parse

STAT = "42 ({name}) S 1 42 42 0 -1 4194304 7 0 0 0 1 2 3 4 20 0 1 0 12345 0 0\n"
SYSTEM = "cpu  1 2 3\nbtime 1700000000\nprocesses 9\n"


def values(registry: Registry) -> dict[str, float]:
    return {
        name: value
        for name, family in parse(registry.prometheus()).items()
        for value in family.samples.values()
    }


@pytest.mark.parametrize("name", ["python", "a b", "x) S 9 9 (y"])
def test_the_start_is_boot_plus_ticks_whatever_the_command_is_called(name: str):
    assert started_at(STAT.format(name=name), SYSTEM, 100) == 1_700_000_123.45


def test_the_standard_names_are_read_from_proc(tmp_path: Path):
    own = tmp_path / "self"
    (own / "fd").mkdir(parents=True)
    (own / "statm").write_text("100 25 9 1 0 9 0\n")
    (own / "stat").write_text(STAT.format(name="python"))
    (own / "limits").write_text(
        "Limit  Soft Limit Hard Limit Units\nMax open files            1024   4096   files\n"
    )
    (tmp_path / "stat").write_text(SYSTEM)
    registry = Registry()
    register_process(registry, tmp_path)
    page = os.sysconf("SC_PAGE_SIZE")
    told = values(registry)
    assert told["process_resident_memory_bytes"] == 25 * page
    assert told["process_virtual_memory_bytes"] == 100 * page
    assert told["process_max_fds"] == 1024
    assert told["process_start_time_seconds"] == 1_700_000_000 + 12345 / os.sysconf("SC_CLK_TCK")
    assert 0 < told["process_cpu_seconds_total"] <= time.process_time()


def test_without_proc_the_processor_time_is_still_known(tmp_path: Path):
    registry = Registry()
    register_process(registry, tmp_path)
    assert values(registry).keys() == {"busmesh_telemetry_overflow_total", "process_cpu_seconds_total"}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc on this system")
def test_this_process_is_measured():
    registry = Registry()
    register_process(registry)
    before = values(registry)
    with open(os.devnull) as first, open(os.devnull) as second:
        after = values(registry)
        assert (first.fileno(), second.fileno()) != (0, 0)
    assert after["process_open_fds"] - before["process_open_fds"] == 2
    assert 5 << 20 < after["process_resident_memory_bytes"] < after["process_virtual_memory_bytes"]
    assert after["process_open_fds"] <= after["process_max_fds"]
    assert time.time() - 7200 < after["process_start_time_seconds"] <= time.time() + 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc on this system")
def test_both_ways_of_counting_descriptors_agree(monkeypatch: pytest.MonkeyPatch):
    listed = len(os.listdir("/proc/self/fd")) - 1
    assert open_fds(Path("/proc/self/fd")) == listed
    monkeypatch.setattr(Path, "stat", lambda _: SimpleNamespace(st_size=0))  # a kernel before 6.2
    assert open_fds(Path("/proc/self/fd")) == listed
