"""Fixtures for every test: a clean environment, a bus, an application, processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from busmesh.relay.outbox import Outbox
from tests.support.bus import NatsServer
from tests.support.http import EchoApp
from tests.support.processes import Process, clean_environment


def pytest_configure() -> None:
    """Let processes of tests be interrupted: what a shell starts in the background ignores Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def busmesh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty BUSMESH_HOME, so that no test meets the mesh of whoever runs it."""
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("BUSMESH_HOME", str(home))
    return home


@pytest.fixture
def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an event loop there is no end of a turn: what is sent is written at once."""
    monkeypatch.setattr(Outbox, "send", lambda _, transport, data: transport.write(data))


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A bus of the test's own with JetStream, which it may kill and restart."""
    with NatsServer(tmp_path / "bus") as server:
        yield server


@pytest.fixture
def echo_app() -> Iterator[EchoApp]:
    """An ordinary application that listens."""
    with EchoApp() as app:
        yield app


@pytest.fixture
def busmesh(tmp_path: Path, busmesh_home: Path) -> Iterator[Callable[..., Process]]:
    """Start ``busmesh ARGS`` as a process: ``busmesh("up", "--port", "0").ready()``; all end with the test.

    Keywords: ``home``, ``env``, ``name`` (default: the first argument and a number).
    """
    with ExitStack() as stack:
        started = 0

        def start(*args: str, home: Path = busmesh_home, name: str = "", **options: object) -> Process:
            nonlocal started
            started += 1
            name = name or f"{args[0]}-{started}"
            process = Process.busmesh(*args, directory=tmp_path, home=home, name=name, **options)
            return stack.enter_context(process)

        yield start
