"""The commands of busmesh as processes of their own, cleaned up whatever a test does to them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
READY_S = 20.0
#: Variables of the person who runs the tests that would change what is tested. The last would have each of
#: some thousand processes compile the whole of busmesh anew.
_FOREIGN = ("BUSMESH_", "NATS_", "OTEL_", "PYTHONDONTWRITEBYTECODE")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without mesh, bus and proxy settings, and with ``extra``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name.lower() not in _PROXIES
    }
    path = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONFAULTHANDLER": "1", **(extra or {})}


class Process:
    """A child process that prints JSON lines to stdout and logs to stderr.

    It gets a process group of its own, so that leaving the context also ends what it has started.

    Args:
        argv: the command. :meth:`busmesh` and :meth:`python` fill in this Python.
        directory: its working directory; ``<name>.err`` there keeps its stderr.
        env: variables on top of :func:`clean_environment`.
        name: what it is called in messages and files.
    """

    def __init__(
        self, argv: Sequence[str], *, directory: Path, env: Mapping[str, str] | None = None, name: str = ""
    ) -> None:
        self.argv = [*argv]
        self.directory = directory
        self.name = name or Path(argv[0]).name
        self.stderr_file = directory / f"{self.name}.err"
        self.stdout: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        directory.mkdir(parents=True, exist_ok=True)
        with self.stderr_file.open("ab") as stderr:
            self._popen = subprocess.Popen(
                self.argv,
                cwd=directory,
                env=clean_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                text=True,
            )
        assert self._popen.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._popen.stdout,), daemon=True)
        self._reader.start()

    @classmethod
    def python(cls, module: str, *args: str, directory: Path, **options: Any) -> Process:
        """Start ``python -m module args``; ``options`` as for the class."""
        options.setdefault("name", module.rpartition(".")[2])
        return cls([sys.executable, "-m", module, *args], directory=directory, **options)

    @classmethod
    def busmesh(cls, *args: str, directory: Path, home: Path, **options: Any) -> Process:
        """Start ``busmesh args`` with its state under ``home``; ``options`` as for the class."""
        env = {"BUSMESH_HOME": str(home), **(options.pop("env", None) or {})}
        options.setdefault("name", "-".join(["busmesh", *args[:1]]))
        return cls.python("busmesh", *args, directory=directory, env=env, **options)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def stderr(self) -> str:
        """What it has logged so far."""
        return self.stderr_file.read_text(errors="replace")

    def ready(self, timeout: float = READY_S) -> dict[str, Any]:
        """Return the JSON line that says ready; fail with the log if it does not come or the process ends."""
        return self.event(lambda line: line.get("event") == "ready", timeout)

    def event(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = READY_S) -> dict[str, Any]:
        """Return the first JSON line on stdout, of all so far and to come, that is ``wanted``."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._found(wanted) is not None, timeout)
            found = self._found(wanted)
        if found is None:
            state = "ended" if self._ended else f"said nothing of it in {timeout} s"
            raise AssertionError(f"{self!r} {state}\nstdout: {self.stdout}\nstderr: {self.stderr[-4000:]}")
        return found

    def signal(self, number: int) -> None:
        """Send a signal to the process alone, not to its children."""
        self._popen.send_signal(number)

    def terminate(self, timeout: float = 15.0) -> int:
        """Send SIGTERM, which drains, and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> int:
        """Send SIGKILL to the process alone and return the exit status."""
        self._popen.kill()
        return self.wait(5)

    def wait(self, timeout: float = 15.0) -> int:
        """Wait for the end and return the exit status; fail with the log if it does not come."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self!r} did not end\nstderr: {self.stderr[-4000:]}") from None

    def close(self) -> None:
        """End the process and everything that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        self._reader.join(5)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        status = self._popen.poll()
        state = f"pid={self.pid}" if status is None else f"exit status {status}"
        return f"<Process {self.name} {state} {' '.join(self.argv[1:])}>"

    def _found(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        for line in self.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict) and wanted(event):
                    return event
        return None

    def _read(self, stdout: IO[str]) -> None:
        with stdout:
            for line in stdout:
                with self._news:
                    self.stdout.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
