"""The demo's mesh: bus, authority, agents and applications, as processes of this machine in a folder.

Everything is started by the command that a person would type: ``busmesh up`` and ``busmesh agent run``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from busmesh.bus.ports import free_port
from busmesh.demo.cast import AGENTS, CALLER, PACKAGE, Role, shipped
from busmesh.demo.processes import Guard, Process
from busmesh.errors import BusmeshError
from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.pool import Application, PoolLimits
from busmesh.relay.application.rendering import render_request

HOST = "127.0.0.1"
#: Not looking into the current folder, where somebody may keep a json.py.
PYTHON = (sys.executable, "-P")
#: A cold machine compiles and starts Python fifteen times.
READY_S = 60.0
#: A process that is told to end drains first, which takes half a second without requests.
END_S = 6.0
#: What would tell the demo's processes of another mesh, bus, collector or proxy.
_FOREIGN = ("BUSMESH_", "NATS_", "OTEL_")
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})


def clean_environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return ``environ`` without what concerns another mesh, and with ``home`` as the mesh's."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(_FOREIGN) and name.lower() not in _PROXIES
    }
    if (PACKAGE.parent / "pyproject.toml").exists():  # a checkout need not be installed
        kept["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "BUSMESH_HOME": str(home)}


class DemoMesh:
    """Starts the mesh on entering, ends it and removes its folder on leaving.

    Attributes:
        folder: of this demo alone, mode 0700.
        home: what ``BUSMESH_HOME`` has to be for other commands to find this mesh.
        bus_url: its bus.
        victims: instances that were killed on purpose.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="busmesh-demo-"))
        self.home = self.folder / "home"
        self.bus_url = ""
        self.victims: set[str] = set()
        self._outbound: dict[str, tuple[str, int]] = {}
        self._admin: dict[str, tuple[str, int]] = {}
        self._environment = clean_environment(os.environ, self.home)
        try:
            self._guard = Guard(self.folder)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._up: Process | None = None
        self._agents: dict[str, Process] = {}

    async def __aenter__(self) -> DemoMesh:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The agents say good-bye while there is a bus.
        await asyncio.gather(*(process.end(END_S) for process in self._agents.values()))
        if self._up is not None:
            await self._up.end(END_S)
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        self._guard.dismiss()

    @property
    def outbound(self) -> tuple[str, int]:
        """Where the caller's agent listens."""
        return self._outbound[CALLER.instance]

    @property
    def processes(self) -> int:
        """How many there are: for each agent with an application two, the authority and the bus."""
        return len(self._agents) + sum(1 for role in AGENTS if role.version) + 2

    # -- begin -------------------------------------------------------------------------------------

    async def start_bus(self) -> None:
        """Start bus and authority.

        Raises:
            BusmeshError: they did not come up.
        """
        self._up = self._spawn("busmesh up", "up", "--port", "0")
        self.bus_url = str((await self._up.ready(READY_S))["bus"])

    async def start_agents(self, progress: Callable[[int], None]) -> None:
        """Start all agents at once, each with its application, and wait until all of them serve.

        Args:
            progress: told how many are there.

        Raises:
            BusmeshError: one did not come up.
        """
        taken: set[int] = set()
        for role in AGENTS:
            self._agents[role.instance] = self._spawn(role.instance, *_command(role, taken))
        there = 0

        async def one(role: Role) -> None:
            nonlocal there
            process = self._agents[role.instance]
            line = await process.ready(READY_S)
            self._outbound[role.instance] = _address(line["outbound"])
            self._admin[role.instance] = _address(line["admin"])
            await process.until(lambda: self._is_ready(role.instance), READY_S)
            there += 1
            progress(there)

        try:
            async with asyncio.TaskGroup() as group:
                for role in AGENTS:
                    group.create_task(one(role))
        except* BusmeshError as failures:
            raise failures.exceptions[0] from None  # the first one is the reason for the rest

    async def _is_ready(self, instance: str) -> bool:
        """Ask the agent's own readiness, of which its application's health is a part."""
        answer = await ask(
            self._admin[instance], render_request(b"GET", b"/readyz", b"Host: localhost\r\n", b"")
        )
        return isinstance(answer, AppResponse) and answer.status == 200

    def _spawn(self, name: str, *words: str) -> Process:
        argv = [*PYTHON, "-m", "busmesh", *words]
        log_file = self.folder / f"{name.replace(' ', '-')}.log"
        return Process(name, argv, self._environment, log_file, self._guard)

    # -- faults ------------------------------------------------------------------------------------

    def kill(self, instance: str) -> None:
        """Kill agent and application of one instance by SIGKILL, both at once."""
        self.victims.add(instance)
        self._agents[instance].kill()

    def casualties(self) -> dict[str, str]:
        """Return what has ended though nobody killed it: its name, and the last words of its log."""
        processes = [*self._agents.values(), *([self._up] if self._up else [])]
        return {
            process.name: process.last_words()
            for process in processes
            if process.name not in self.victims and process.status is not None
        }

    def abandon(self) -> None:
        """Kill what serves, now; the guard sees to the rest when this process is gone."""
        for process in self._agents.values():
            process.kill()

    def __repr__(self) -> str:
        return f"<DemoMesh {self.folder} agents={len(self._agents)} victims={sorted(self.victims)}>"


async def ask(address: tuple[str, int], message: bytes) -> AppResponse | AppFailure:
    """Send one rendered GET over a connection of its own and return the answer."""
    pool = Application(*address, PoolLimits(connections=1, pending=1))
    answer: asyncio.Future[AppResponse | AppFailure] = asyncio.get_running_loop().create_future()
    pool.send(Call(b"GET", message, answer.set_result))
    try:
        return await answer
    finally:
        pool.close()


def _command(role: Role, taken: set[int]) -> list[str]:
    """Return the words after ``busmesh`` that start ``role``, on ports that are free."""
    words = ["agent", "run", str(shipped(f"agents/{role.definition}")), "--instance", role.instance]
    words += ["--outbound", f"{HOST}:0", "--admin", f"{HOST}:0"]
    if not role.version:
        return words
    port = free_port(HOST)
    while port in taken:
        port = free_port(HOST)
    taken.add(port)
    shop = [*PYTHON, "-m", "busmesh.demo.shop", role.service]
    shop += ["--version", role.version, "--instance", role.instance, "--port", str(port)]
    return [*words, "--app", f"http://{HOST}:{port}", "--", *shop]


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
