"""T27: what crashes leaves no core dump, and so no keys on a disk; the application's limit stays its own."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bus import NatsServer
from tests.support.mesh import Mesh


@pytest.fixture
def dumping() -> Iterator[str]:
    """Let what is started here dump its core; return the limit as the system writes it."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("this system lets nobody dump a core")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield limit(os.getpid())
    resource.setrlimit(resource.RLIMIT_CORE, before)


def limit(pid: int) -> str:
    """Return the bytes that a core dump of a process may have."""
    _, _, rest = Path(f"/proc/{pid}/limits").read_text().partition("Max core file size")
    return rest.split()[0]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def crash(pid: int) -> int:
    """End a child of this process as a bad pointer would; return how it ended."""
    os.kill(pid, signal.SIGSEGV)
    return os.waitpid(pid, 0)[1]


def test_t27_a_crash_leaves_no_core_dump(tmp_path: Path, nats_server: NatsServer, dumping: str) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as other:
        assert os.WCOREDUMP(crash(other.pid)), "the system dumps the core of what busmesh has not started"
        other.returncode = -signal.SIGSEGV
    with Mesh(tmp_path, nats_server) as mesh:
        shop = mesh.agent("shop", "shop-0", "--workers", "2", "--", "sleep", "60")
        (application,) = (child for child in children(shop.agent.pid) if "sleep" in command(child))
        assert limit(application) == dumping
        workers = [child for child in children(shop.agent.pid) if child != application]
        assert [limit(worker) for worker in workers] == ["0"]
        for process in (shop.agent, mesh.authority):
            assert limit(process.pid) == "0"
            status = crash(process.pid)
            assert os.WTERMSIG(status) == signal.SIGSEGV
            assert not os.WCOREDUMP(status)
