"""A whole mesh of real processes: bus, authority, agents and applications, for tests that claim something."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.bus import NatsServer
from tests.support.processes import ROOT, Process, clean_environment


@dataclass
class Instance:
    """An agent and, if it has one, the application beside it."""

    name: str
    agent: Process
    outbound: str
    admin: str
    application: Process | None = None
    record: Path | None = None

    def page(self, path: str) -> Any:
        """Return a page of the agent's admin endpoint, whatever its status."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def metric(self, name: str, *labels: str) -> float:
        """Return what ``/metrics`` says of ``name``, summed over all series with these labels (``a="b"``)."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        assert f"# TYPE {name} " in text, f"there is no metric {name}"
        found = re.findall(rf"^{name}({{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for said, value in found if all(label in said for label in labels))

    def seen(self) -> list[dict[str, Any]]:
        """Return what the application has written down."""
        assert self.record is not None
        if not self.record.exists():
            return []
        return [json.loads(line) for line in self.record.read_text().splitlines()]


class Mesh:
    """Starts what a test asks for; everything ends with it.

    Args:
        directory: for homes, logs and records.
        bus: a server that runs; the caller's, so that it can kill it.
        bus_url: what the processes are told instead of ``bus.url``, for a proxy between.
        authority: more options of ``busmesh authority run``.
        locked: the bus is restarted with what ``busmesh bus config`` writes; else it asks nobody for a login.
    """

    def __init__(
        self,
        directory: Path,
        bus: NatsServer,
        *,
        bus_url: str = "",
        locked: bool = False,
        authority: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.home = directory / "mesh-home"
        self.bus = bus
        self.url = bus_url or bus.url
        self.locked = locked
        self._authority_options = authority
        self._stack = ExitStack()
        self._count = 0

    def _lock(self) -> None:
        """Restart the bus as one that ``busmesh bus config`` describes, on its own port and store."""
        listen = ("--listen", f"127.0.0.1:{self.bus.port}", "--host", "127.0.0.1")
        written = self.run("bus", "config", *listen, bus=False).stdout.splitlines()
        own = ("server_name:", "listen:", "jetstream ")  # the test's server writes its own
        self.bus.config += "\n".join(line for line in written if not line.startswith(own))
        self.bus.restart()

    def __enter__(self) -> Mesh:
        if self.locked:
            self._lock()
        self.start_authority()
        return self

    def start_authority(self, *options: str, home: Path | None = None) -> Process:
        """Start the authority, again or one more out of another home."""
        self.authority = self._process(
            "authority", "run", "--bus", self.url, *self._authority_options, *options, home=home
        )
        self.authority.ready()
        return self.authority

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _process(self, *args: str, name: str = "", home: Path | None = None) -> Process:
        self._count += 1
        process = Process.busmesh(
            *args,
            directory=self.directory,
            home=home or self.home,
            name=name or f"{args[0]}-{self._count}",
        )
        return self._stack.enter_context(process)

    def agent(
        self, service: str, name: str, *options: str, application: str = "", home: Path | None = None
    ) -> Instance:
        """Start an agent for ``application`` (a URL), or a client-only one, and wait until it is ready.

        Another ``home`` makes it one of another machine, which has been given a join token.
        """
        if home is not None:
            options = (*options, "--join", str(self.home / "join-token"))
        app = ("--app", application) if application else ()
        process = self._process(
            "agent",
            "run",
            "--bus",
            self.url,
            "--service",
            service,
            "--instance",
            name,
            "--outbound",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            *app,
            *options,
            name=f"agent-{name}-{self._count}",
            home=home,
        )
        ready = process.ready()
        return Instance(name, process, ready["outbound"], ready["admin"])

    def recorder(self, name: str, port: int = 0) -> tuple[Process, str, Path]:
        """Start a recording application; return it, its URL and its record."""
        self._count += 1
        record = self.directory / f"{name}.record"
        process = Process.python(
            "tests.support.recorder",
            *("--name", name, "--record", str(record), "--port", str(port)),
            directory=self.directory,
            name=f"application-{name}-{self._count}",
        )
        self._stack.enter_context(process)
        return process, process.ready()["url"], record

    def instance(self, service: str, name: str, *options: str) -> Instance:
        """Start a recording application and its agent."""
        application, url, record = self.recorder(name)
        instance = self.agent(service, name, "--health-path", "/healthz", *options, application=url)
        instance.application, instance.record = application, record
        return instance

    def run(
        self, *args: str, stdin: str = "", check: bool = True, bus: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that ends, such as ``policy publish -``; ``bus``: it is told where the bus is."""
        where = ("--bus", self.url) if bus else ()
        done = subprocess.run(
            [sys.executable, "-m", "busmesh", *args, "--home", str(self.home), *where],
            cwd=ROOT,
            env=clean_environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"busmesh {' '.join(args)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def publish(self, *documents: str, options: tuple[str, ...] = ()) -> None:
        """Publish documents given as YAML text, as one revision, and wait for all acknowledgements."""
        self.run("policy", "publish", "-", *options, stdin="\n---\n".join(documents))


def eventually(claim: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Wait until ``claim`` holds; fail saying ``what`` if it does not."""
    until = time.monotonic() + timeout
    while not claim():
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.02)
