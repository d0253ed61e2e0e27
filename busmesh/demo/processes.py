"""Child processes that leave nothing behind, however the demo ends.

Each is the leader of a session of its own, so that Ctrl-C at the terminal reaches the demo alone, and so that
it and what it has started can be killed together. A guard, a shell at the other end of a pipe, ends them all
and removes the demo's folder when the demo itself is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from busmesh.errors import BusmeshError, UsageError

MAX_LINE = 64 * 1024
#: Lines of a child's log that an error shows.
LAST_LINES = 3
#: Between two looks whether a process has ended, seconds.
_LOOK_S = 0.02

#: Reads "+PID" and "-PID"; at the end of its input it ends who is left, politely for 3 s, and removes $1.
_GUARD = r"""
left=
while read -r word; do
  pid=${word#?}
  case $word in
    +*) left="$left $pid" ;;
    -*) kept=; for p in $left; do [ "$p" = "$pid" ] || kept="$kept $p"; done; left=$kept ;;
  esac
done
for p in $left; do kill -TERM "$p"; done
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  alive=; for p in $left; do kill -0 "$p" && alive=yes; done
  [ "$alive" ] || break
  sleep 0.2
done
for p in $left; do kill -KILL "-$p"; done
rm -rf -- "$1"
"""


class Guard:
    """Cleans up in our place if we cannot.

    Args:
        folder: removed at the end.
    """

    def __init__(self, folder: Path) -> None:
        if os.name != "posix":
            raise UsageError(
                "the demo kills processes by POSIX signals",
                code="BM7001",
                hint="run it under WSL or in a container",
            )
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "busmesh-demo-guard", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, pid: int) -> None:
        self._tell(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """The process has ended: its number may soon be another one's."""
        self._tell(f"-{pid}\n")

    def dismiss(self) -> None:
        """Everything is cleaned up already."""
        self._shell.kill()
        self._shell.wait()
        self._close()

    def _tell(self, word: str) -> None:
        assert self._shell.stdin is not None
        with contextlib.suppress(OSError):  # it was killed: nobody guards, but the demo goes on
            os.write(self._shell.stdin.fileno(), word.encode())

    def _close(self) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()

    def __repr__(self) -> str:
        return f"<Guard pid={self._shell.pid}>"


class Process:
    """One child, which prints a JSON line on stdout when it is ready and logs to a file.

    Args:
        name: what it is called in messages.
        argv: the command.
        environment: all of its variables.
        log_file: takes its stderr.
        guard: watches it from the first moment on.
    """

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], log_file: Path, guard: Guard
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._guard = guard
        # Not asyncio's: while that is awaited, a cancellation would lose a process that exists already.
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        guard.watch(self.pid)
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._read = bytearray()
        assert self._popen.stdout is not None
        os.set_blocking(self._popen.stdout.fileno(), False)
        asyncio.get_running_loop().add_reader(self._popen.stdout.fileno(), self._on_readable)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    async def ready(self, timeout: float) -> dict[str, Any]:
        """Return the line that says ready.

        Raises:
            BusmeshError: it ended before (code BM7002), or was not ready in ``timeout`` seconds (BM7003).
        """
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise self._late(timeout) from None

    async def until(self, holds: Callable[[], Awaitable[bool]], timeout: float) -> None:
        """Wait until ``holds`` says yes.

        Raises:
            BusmeshError: as :meth:`ready`.
        """
        try:
            async with asyncio.timeout(timeout):
                while not await holds():
                    if self.status is not None:
                        raise self._ended()
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise self._late(timeout) from None

    def _ended(self) -> BusmeshError:
        return BusmeshError(f"{self.name} ended while starting", code="BM7002", hint=self.last_words())

    def _late(self, timeout: float) -> BusmeshError:
        message = f"{self.name} was not ready within {timeout:g} s"
        return BusmeshError(message, code="BM7003", hint=self.last_words())

    def last_words(self) -> str:
        """Return the end of its log."""
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(_plain(line) for line in lines[-LAST_LINES:])

    def kill(self) -> None:
        """End it and all that it has started, by SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def end(self, patience: float) -> None:
        """Ask it to end, and kill what is left of it after ``patience`` seconds."""
        if self.status is None:
            self._popen.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.wait()
        self.kill()
        await self.wait()
        self._guard.forget(self.pid)
        self._stop_reading()

    async def wait(self) -> int:
        """Wait for its end and return its exit status."""
        # A pidfd would spare the polling, but only Linux has it.
        while (status := self.status) is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        return status

    def _on_readable(self) -> None:
        assert self._popen.stdout is not None
        try:
            data = os.read(self._popen.stdout.fileno(), MAX_LINE)
        except BlockingIOError:
            return
        if not data:
            self._stop_reading()
            return
        self._read += data
        *lines, rest = bytes(self._read).split(b"\n")
        self._read = bytearray(rest[-MAX_LINE:])
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        if self._ready.done():
            return
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and event.get("event") == "ready":
                self._ready.set_result(event)

    def _stop_reading(self) -> None:
        stdout = self._popen.stdout
        if stdout is None or stdout.closed:
            return
        asyncio.get_running_loop().remove_reader(stdout.fileno())
        stdout.close()
        if not self._ready.done():
            self._ready.set_exception(self._ended())
            self._ready.exception()  # whoever waits gets it; nobody has to

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self.pid} status={self.status}>"


def _plain(line: str) -> str:
    """Return a line of a log for people: of a JSON record its level and message."""
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(line)
        if isinstance(record, dict) and "message" in record:
            return f"{record.get('level', '')}: {record['message']}"
    return line
