"""The owner of every process of a measurement: starts them, waits for them, ends them by id.

Each process gets a session of its own, so that Ctrl-C reaches only the benchmark, which then ends
the others in reverse order of their birth. What they print to stderr stays in the stand's temporary
directory and is quoted when one of them does not start.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.errors import BenchFailed

ROOT = Path(__file__).resolve().parent.parent
#: Settings of the person who runs the benchmark must not change what is measured. The last would have each
#: process compile its sources anew; what is installed is compiled.
_FOREIGN_SETTINGS = ("BUSMESH_", "NATS_", "OTEL_", "PYTHONDONTWRITEBYTECODE")


def find_program(name: str) -> str | None:
    """Return a program that stands beside this Python, or else on the PATH."""
    beside = Path(sys.executable).with_name(name)
    # Debian keeps nginx where the PATH of an ordinary user does not look.
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
    return str(beside) if beside.exists() else shutil.which(name, path=search)


def need_program(name: str, hint: str) -> str:
    """Return :func:`find_program`, or fail with what to install."""
    if (found := find_program(name)) is None:
        raise BenchFailed(f"{name} is not installed", hint=hint)
    return found


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listened on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """One process of the stand, with its stdout as a pipe and its stderr in a file."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = popen.pid
        self._popen = popen
        self._log = log

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self.pid} returncode={self._popen.poll()}>"

    def read_line(self, timeout_s: float = 15.0) -> bytes:
        """Return the next line of stdout.

        Raises:
            BenchFailed: the process ended or stayed silent; the error quotes its stderr.
        """
        stdout = self._popen.stdout
        assert stdout is not None
        line = bytearray()
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self.failure(f"printed nothing within {timeout_s:g} s")
                if not (chunk := os.read(stdout.fileno(), 1)):
                    raise self.failure("ended before it was ready")
                line += chunk
        return bytes(line)

    def read_event(self, timeout_s: float = 15.0) -> dict[str, object]:
        """Return the JSON object of the next line of stdout (the ready line of a busmesh command)."""
        line = self.read_line(timeout_s)
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise self.failure(f"printed {line[:200]!r} where a JSON object was expected")
        return event

    def wait_until(
        self, ready: Callable[[], bool], timeout_s: float = 15.0, interval_s: float = 0.02
    ) -> None:
        """Poll ``ready`` until it is true.

        Raises:
            BenchFailed: the process ended, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self._popen.poll() is not None:
                raise self.failure(f"ended with status {self._popen.returncode}")
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready within {timeout_s:g} s")
            time.sleep(interval_s)

    def failure(self, what: str) -> BenchFailed:
        """Return an error that names the process and quotes the end of its stderr."""
        tail = self._log.read_text(errors="replace").strip().splitlines()[-15:]
        quoted = "\n  ".join(["", *tail]) if tail else " nothing on stderr"
        return BenchFailed(f"{self.name} {what};{quoted}")

    def end(self, patience_s: float = 5.0) -> None:
        """Stop the process, politely first, and then whatever is left of its session."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(patience_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()


class Stand:
    """A context manager that owns a temporary directory and processes."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="busmesh-bench-"))
        self._processes: list[Process] = []

    def __repr__(self) -> str:
        return f"<Stand {self._processes}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._processes:
            self._processes.pop().end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start ``argv`` and own it; ``env`` is added to a cleaned copy of this environment."""
        log = self.directory / f"{name.replace(' ', '-')}.log"
        with log.open("wb") as stderr:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=clean_environment() | dict(env or {}),
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self._processes.append(process)
        return process

    def end(self, process: Process) -> None:
        """End one process before the others."""
        self._processes.remove(process)
        process.end()

    def start_module(
        self, name: str, module: str, *argv: str, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start ``python -m module`` with the Python that runs the benchmark, from this checkout."""
        return self.start(name, module_command(module, *argv), env)


def module_command(module: str, *argv: str) -> list[str]:
    """Return the command line that runs a module with this Python."""
    return [sys.executable, "-m", module, *argv]


def clean_environment() -> dict[str, str]:
    """Return this environment without settings that would change what is measured."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN_SETTINGS)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    return kept


def get(port: int, path: str = "/", host: str = "") -> tuple[int, bytes]:
    """Send one GET to a port of 127.0.0.1; status 0 stands for a connection that failed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
