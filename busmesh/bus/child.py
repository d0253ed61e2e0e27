"""A child process that does not outlive us, however we end.

A process killed by SIGKILL cannot clean up; so a guard, a shell that waits for the end of a pipe from us,
ends the child in our place. The kernel's own way, a parent-death signal, would have to be set between fork
and exec, which is not safe in a process with threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

STOP_S = 5.0
#: Ends process $1 when standard input comes to its end.
_GUARD = 'read -r _; kill "$1"'


class Child:
    """A process in a session of its own: Ctrl-C at the terminal reaches us alone, and we end it."""

    def __init__(self, process: Process, guard: Process | None) -> None:
        self._process = process
        self._guard = guard

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        output: int,
        inherit: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a program.

        Args:
            argv: its path and arguments.
            output: file descriptor that takes its stdout and stderr.
            inherit: further descriptors that it keeps open.
            environment: its environment; ours if there is none.

        Raises:
            OSError: it cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=tuple(inherit),
            env=environment,
        )
        return cls(process, await _guard(process.pid))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def __repr__(self) -> str:
        return f"<Child pid={self.pid} status={self.status}>"

    async def wait(self) -> int:
        """Wait for its end and return the exit status."""
        return await self._process.wait()

    async def end(self, patience: float = STOP_S) -> None:
        """End it by SIGTERM, and by SIGKILL after ``patience`` seconds; nothing if it has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(patience):
                    await self.wait()
            except TimeoutError:
                log.warning("process %d did not end within %g s of SIGTERM: killing it", self.pid, patience)
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self.wait()
        guard, self._guard = self._guard, None
        if guard is not None:  # a guard left behind could one day hit a stranger with the same number
            with contextlib.suppress(ProcessLookupError):
                guard.kill()
            await guard.wait()


async def _guard(pid: int) -> Process | None:
    shell = shutil.which("sh")
    if os.name != "posix" or shell is None:
        log.debug("no shell to guard process %d: it outlives this one if that is killed by SIGKILL", pid)
        return None
    return await asyncio.create_subprocess_exec(
        shell,
        "-c",
        _GUARD,
        "busmesh-guard",
        str(pid),
        stdin=PIPE,
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,
    )
