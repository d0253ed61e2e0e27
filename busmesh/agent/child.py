"""The application as a child of its agent: started when the agent is ready, ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping, Sequence

from busmesh.errors import UsageError
from busmesh.identity import coredumps


class Child:
    """One application process; its output is the agent's output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Run ``command``.

        Raises:
            UsageError: it cannot be run.
        """
        try:
            # stdout of the agent is for its ready line; the application's goes to stderr with the logs.
            process = await asyncio.create_subprocess_exec(*command, env=dict(environment), stdout=2)
        except OSError as error:
            raise UsageError(f"{command[0]} cannot be run: {error.strerror}", code="BM3202") from None
        coredumps.allow_again(process.pid)
        return cls(process)

    async def wait(self) -> int:
        """Return its exit status as a shell shows it: 128 and the number for one that a signal ended."""
        code = await self._process.wait()
        return 128 - code if code < 0 else code

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
