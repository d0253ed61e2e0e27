"""The demo's child processes: they say when they are ready, and nothing of them is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from busmesh.demo.processes import MAX_LINE, Guard, Process
from busmesh.errors import BusmeshError
from tests.support.mesh import eventually
from tests.support.processes import clean_environment

READY = 'print(\'{"event": "ready", "port": 7}\', flush=True)'
FOR_EVER = "import time; time.sleep(600)"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def child(folder: Path, *lines: str) -> AsyncIterator[Process]:
    guard = Guard(folder / "none")
    process = Process(
        "child", [sys.executable, "-c", "\n".join(lines)], clean_environment(), folder / "child.log", guard
    )
    try:
        yield process
    finally:
        await process.end(0)
        guard.dismiss()


def test_it_is_ready_when_it_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        noise = "print('no JSON'); print('[7]'); print('{\"event\": \"other\"}')"
        async with child(tmp_path, noise, READY, FOR_EVER) as process:
            assert await process.ready(10) == {"event": "ready", "port": 7}
            assert process.status is None
        assert process.status == -signal.SIGTERM or process.status == -signal.SIGKILL

    asyncio.run(main())


def test_an_early_end_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with child(
            tmp_path, "import sys; sys.exit('error: BM3201 there is no nats-server')"
        ) as process:
            with pytest.raises(BusmeshError, match="child ended while starting") as caught:
                await process.ready(10)
            assert (caught.value.code, caught.value.hint) == (
                "BM7002",
                "error: BM3201 there is no nats-server",
            )
            await process.wait()
            with pytest.raises(BusmeshError, match="child ended while starting"):
                await process.until(never, 10)

    asyncio.run(main())


async def never() -> bool:
    return False


def test_of_a_log_in_json_the_messages_are_told(tmp_path: Path) -> None:
    async def main() -> None:
        log = json.dumps({"time": "now", "level": "error", "logger": "x", "message": "the address is in use"})
        async with child(tmp_path, f"import sys; sys.exit({log!r})") as process:
            await process.wait()
            assert process.last_words() == "error: the address is in use"

    asyncio.run(main())


def test_who_is_too_slow_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with child(tmp_path, FOR_EVER) as process:
            for waiting in (process.ready(0.05), process.until(never, 0.05)):
                with pytest.raises(BusmeshError, match=r"child was not ready within 0\.05 s") as caught:
                    await waiting
                assert caught.value.code == "BM7003"

    asyncio.run(main())


def test_endless_output_is_read_and_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        flood = f"import sys; sys.stdout.write('x' * {4 * MAX_LINE}); print()"
        async with child(tmp_path, flood, READY, FOR_EVER) as process:
            assert (await process.ready(10))["port"] == 7

    asyncio.run(main())


def test_killing_it_kills_what_it_has_started(tmp_path: Path) -> None:
    async def main() -> None:
        start = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {FOR_EVER!r}])"
        tell = 'print(\'{"event": "ready", "pid": %d}\' % child.pid, flush=True)'
        async with child(tmp_path, start, tell, FOR_EVER) as process:
            grandchild = (await process.ready(10))["pid"]
            assert alive(grandchild)
            process.kill()
            assert await process.wait() == -signal.SIGKILL
            await asyncio.to_thread(eventually, lambda: not alive(grandchild), "its child is gone as well")

    asyncio.run(main())


def test_who_does_not_end_politely_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
        async with child(tmp_path, stubborn, READY, FOR_EVER) as process:
            await process.ready(10)
            await process.end(0.1)
            assert process.status == -signal.SIGKILL

    asyncio.run(main())


def test_the_guard_ends_whom_it_watches_and_removes_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo's folder"
    folder.mkdir()
    (folder / "log").touch()
    watched, forgotten = (
        subprocess.Popen([sys.executable, "-c", FOR_EVER], start_new_session=True) for _ in range(2)
    )
    try:
        dies = (
            "import os, sys; from pathlib import Path; from busmesh.demo.processes import Guard;"
            "guard = Guard(Path(sys.argv[1])); guard.watch(int(sys.argv[2]));"
            "guard.watch(int(sys.argv[3])); guard.forget(int(sys.argv[3]));"
            "os.kill(os.getpid(), 9)"
        )
        argv = [sys.executable, "-c", dies, str(folder), str(watched.pid), str(forgotten.pid)]
        assert subprocess.run(argv, env=clean_environment(), check=False).returncode == -signal.SIGKILL
        assert watched.wait(10) == -signal.SIGTERM
        eventually(lambda: not folder.exists(), "the folder is removed")
        assert forgotten.poll() is None
    finally:
        for process in (watched, forgotten):
            process.kill()
            process.wait()


def test_a_guard_that_is_dismissed_removes_nothing(tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    guard.dismiss()
    assert tmp_path.exists()
