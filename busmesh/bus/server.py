"""A NATS server of one's own: found, configured, started on loopback, kept running, and ended with us.

It is the real server as a child process, so that what works with it works with any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from types import TracebackType

from busmesh.bus.child import Child
from busmesh.bus.ports import free_port, port_error
from busmesh.bus.serverconfig import MAX_PAYLOAD, Security, base_lines, quoted
from busmesh.errors import BusmeshError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
DEFAULT_PORT = 4222
READY_S = 10.0
#: A server killed together with its parent's death needs a moment to let go of its files.
LOCK_PATIENCE_S = 2.0
RESTART_FIRST_S = 0.1
RESTART_MAX_S = 5.0
#: A run this long counts as healthy: the next failure backs off from the beginning.
HEALTHY_AFTER_S = 30.0

#: For the server's Go runtime, unless the environment says otherwise. Bodies are garbage after one trip: with
#: Go's own setting, 100, collecting them took half of the server's time and a third of a stream's speed. The
#: heap of a bus that only forwards stays small; from 512 MiB on Go collects as often as it has to.
#: This bus shares the machine with all that it connects: on half of the cores it passes work between threads
#: less, which was a third of what a small message cost it on two cores.
RUNTIME = {
    "GOGC": "400",
    "GOMEMLIMIT": "512MiB",
    "GOMAXPROCS": str(max(1, (os.cpu_count() or 2) // 2)),
}


class ServerError(BusmeshError):
    """The local NATS server cannot run."""


def find_server() -> Path:
    """Return the path of nats-server: beside this Python, where pip puts programs, else on PATH.

    Raises:
        ServerError: there is none (code BM3201).
    """
    folders = [str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    with contextlib.suppress(KeyError):
        folders.append(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    found = shutil.which("nats-server", path=os.pathsep.join(folders)) or shutil.which("nats-server")
    if found is None:
        raise ServerError(
            "there is no nats-server on this machine",
            code="BM3201",
            hint="pip install 'busmesh[demo]' brings one, or install it from https://nats.io/download",
        )
    return Path(found)


def restart_pause(failures: int) -> float:
    """Return the seconds to wait before starting again after ``failures`` (at least 1) in a row."""
    return float(min(RESTART_MAX_S, RESTART_FIRST_S * 2 ** min(failures - 1, 16)))


class LocalServer:
    """One nats-server with JetStream on 127.0.0.1, started again when it dies.

    Args:
        directory: its configuration, log and streams; made with mode 0700. Two servers cannot share it.
        port: a fixed port; 0 chooses one at the start and keeps it over restarts.
        name: the server's name, shown by ``nats server list``.
        max_payload: bytes of the largest message.
        security: what locks it down; None lets anybody on this machine do everything.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int = DEFAULT_PORT,
        name: str = "busmesh",
        max_payload: int = MAX_PAYLOAD,
        security: Security | None = None,
    ) -> None:
        self.directory = directory
        self.port = port
        self.name = name
        self.max_payload = max_payload
        self.security = security
        self.restarts = 0
        self.log_file = directory / "server.log"
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lock = -1

    @property
    def url(self) -> str:
        scheme = "nats" if self.security is None or self.security.tls is None else "tls"
        return f"{scheme}://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        child = self._child
        return child.pid if child is not None and child.status is None else None

    def __repr__(self) -> str:
        return f"<LocalServer {self.url} pid={self.pid} restarts={self.restarts}>"

    async def start(self) -> None:
        """Start the server and return when it answers.

        Raises:
            ServerError: no nats-server is installed (code BM3201), the port is taken (BM3202), by another
                NATS server (BM3203), the server ends or does not answer (BM3204), or the directory is
                another one's (BM3205) or not writable (BM3206).
        """
        find_server()
        try:
            await self._take_lock()
            if self.port:
                await self._check_port()
            else:
                self.port = free_port(HOST)
            await self._launch()
        except BaseException as error:
            await self._end()
            self._release_lock()
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                raise ServerError(f"no bus can run in {self.directory}: {reason}", code="BM3206") from None
            raise
        self._keeper = asyncio.get_running_loop().create_task(self._keep_running(), name="local bus")

    async def stop(self) -> None:
        """End the server: SIGTERM, and SIGKILL after 5 s."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        await self._end()
        self._release_lock()

    async def __aenter__(self) -> LocalServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- keeping it running ------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        failures, began = 0, loop.time()
        while True:
            if self._child is not None:
                status = await self._child.wait()
                log.error(
                    "the bus ended with status %s; starting it again (its log: %s)", status, self.log_file
                )
            failures = 1 if loop.time() - began > HEALTHY_AFTER_S else failures + 1
            await self._end()
            await asyncio.sleep(restart_pause(failures))
            began = loop.time()
            try:
                await self._launch()
            except (ServerError, OSError) as error:
                log.error("the bus did not start: %s", error)
                await self._end()
            else:
                self.restarts += 1
                log.warning("the bus runs again at %s", self.url)

    async def _launch(self) -> None:
        self._write_configuration()
        log_file = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            argv = [str(find_server()), "-c", str(self.directory / "server.conf")]
            inherit = [self._lock] if self._lock >= 0 else []
            self._child = child = await Child.start(
                argv, output=log_file, inherit=inherit, environment=RUNTIME | os.environ
            )
        finally:
            os.close(log_file)
        try:
            async with asyncio.timeout(READY_S):
                while not await self._answers(child):
                    if child.status is not None:
                        raise self._failed(f"ended with status {child.status}")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise self._failed(f"did not answer within {READY_S:g} s") from None

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await child.end()

    async def _answers(self, child: Child) -> bool:
        """Say whether this very process, and no other at its port, talks to clients."""
        if not (self.directory / f"nats-server_{child.pid}.ports").exists():  # written once it listens
            return False
        return await greeting(HOST, self.port) is not None

    def _write_configuration(self) -> None:
        for old in self.directory.glob("nats-server_*.ports"):
            old.unlink(missing_ok=True)
        listen = f"{HOST}:{self.port}"
        lines = base_lines(name=self.name, listen=listen, store=self.directory, max_payload=self.max_payload)
        lines.append(f"ports_file_dir: {quoted(self.directory)}")
        if self.security is not None:
            lines += self.security.lines(self.directory)
        file = self.directory / "server.conf"
        file.touch(0o600)
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")

    def _failed(self, how: str) -> ServerError:
        try:
            said = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        except OSError:
            said = []
        return ServerError(
            f"nats-server {how}", code="BM3204", hint="\n".join([f"its log is {self.log_file}", *said])
        )

    # -- not in somebody's way ---------------------------------------------------------------------

    async def _check_port(self) -> None:
        error = port_error(HOST, self.port)
        if error is None:
            return
        if await greeting(HOST, self.port) is not None:
            raise ServerError(
                f"a NATS server answers at port {self.port} already",
                code="BM3203",
                hint=f"use it: busmesh authority run --bus {self.url}\n"
                "or start one beside it: --port 0 takes any free port",
            )
        raise ServerError(
            f"port {self.port} of {HOST} cannot be had: {error}",
            code="BM3202",
            hint="choose another with --port; --port 0 takes any free one",
        )

    async def _take_lock(self) -> None:
        """Lock the directory; the server inherits the lock, so it lasts as long as either of us lives."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "posix":
            return
        import fcntl

        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = asyncio.get_running_loop().time() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(0.05)
                    continue
                raise ServerError(
                    f"another bus uses {self.directory}",
                    code="BM3205",
                    hint="stop the other `busmesh up`, or give this one its own --home and --port",
                ) from None
            return

    def _release_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


async def greeting(host: str, port: int, timeout: float = 1.0) -> dict[str, object] | None:
    """Return what a NATS server at ``host:port`` says of itself; None without one in ``timeout`` seconds."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port, limit=64 * 1024)
            try:
                line = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError):
        return None
    return told(line)


def told(line: bytes) -> dict[str, object] | None:
    """Return what the first line that a server sends says of it; None if it is no NATS server's."""
    if not line.startswith(b"INFO "):
        return None
    try:
        info = json.loads(line[5:])
    except (ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) else None
