"""``busmesh demo`` as a person runs it: it keeps its promises, notices when it cannot, and leaves nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mesh import eventually
from tests.support.processes import ROOT, Process, clean_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what is left")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the demo makes its folder; each of its processes inherits the path, and is found by it."""
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.fixture
def demo(tmp_path: Path, place: Path) -> Iterator[Callable[..., Process]]:
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Process:
            process = Process.busmesh(
                "demo", *options, directory=tmp_path, home=tmp_path / "untouched", env={"TMPDIR": str(place)}
            )
            return stack.enter_context(process)

        yield start
    assert not (tmp_path / "untouched").exists(), "the demo has a home of its own"


def left(place: Path) -> dict[int, str]:
    """The command lines of all processes that come from a demo in ``place``."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={place}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def find(place: Path, *words: str) -> list[int]:
    return [pid for pid, command in left(place).items() if all(word in command for word in words)]


def assert_nothing_is_left(place: Path) -> None:
    eventually(lambda: not left(place), f"no process is left: {left(place)}")
    assert list(place.iterdir()) == []


def said(process: Process) -> str:
    return "\n".join(process.stdout)


def test_it_keeps_its_promises_and_leaves_nothing(demo: Callable[..., Process], place: Path) -> None:
    process = demo("--duration", "12s", "-o", "json")
    assert process.wait(50) == 0, process.stdout
    (line,) = process.stdout
    told: dict[str, Any] = json.loads(line)
    assert told["ok"] is True
    assert [promise["held"] for promise in told["promises"]] == [True] * 4
    assert told["failed"] == 0
    assert told["requests"] > 300
    assert told["split"]["requests"] > 100
    assert told["split"]["shares"]["v1"] == pytest.approx(0.8, abs=0.02)
    assert told["canary"]["shares"] == {"v2": 1.0}
    assert [revision["in_force"] for revision in told["revisions"]] == [7, 7]
    assert told["killed"].startswith("orders-v1-")
    assert told["requests_after_kill"] > 50
    assert told["telemetry_messages"] > 20
    assert process.stderr == ""
    assert_nothing_is_left(place)


def test_it_notices_when_a_promise_is_broken(demo: Callable[..., Process], place: Path) -> None:
    """Somebody kills the only instance of v2 behind its back."""
    process = demo("--duration", "10s")
    eventually(lambda: "revision 2 in force" in said(process), "the canary is on", 30)
    (agent,) = find(place, "agent run", "--instance orders-v2-0")
    os.killpg(agent, signal.SIGKILL)
    assert process.wait(50) == 1
    text = said(process)
    assert re.search(r"^ × no failure +[1-9][0-9,]* of [0-9,]+ requests failed", text, re.MULTILINE)
    assert re.search(r"^ × no crash +orders-v2-0 ended by itself", text, re.MULTILINE)
    assert "no usable instance of orders" in text or "nobody serves orders" in text
    assert_nothing_is_left(place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_ends_it_and_leaves_nothing(
    demo: Callable[..., Process], place: Path, number: int
) -> None:
    process = demo("--duration", "60s")
    wanted = "failed 0 of" if number == signal.SIGINT else "agents serve"  # under traffic, and while starting
    eventually(lambda: wanted in said(process), "it is under way", 30)
    assert len(left(place)) > 5
    process.signal(number)
    assert process.wait() == 130
    assert left(place) == {}, "all have ended when the demo ends"
    assert_nothing_is_left(place)


def test_a_second_signal_ends_it_at_once_and_leaves_nothing(
    demo: Callable[..., Process], place: Path
) -> None:
    process = demo("--duration", "60s")
    eventually(lambda: "failed 0 of" in said(process), "it is under way", 30)
    (victim,) = find(place, "agent run", "--instance payments-0")
    os.kill(victim, signal.SIGSTOP)  # this one would hold up a polite end for seconds
    process.signal(signal.SIGINT)
    eventually(lambda: not find(place, "agent run", "--instance web-0"), "it is ending")
    process.signal(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    assert_nothing_is_left(place)


def test_even_sigkill_leaves_nothing(demo: Callable[..., Process], place: Path) -> None:
    process = demo("--duration", "60s")
    eventually(lambda: "failed 0 of" in said(process), "it is under way", 30)
    process.kill()
    assert_nothing_is_left(place)


class Terminal:
    """A terminal of 80 columns and 24 lines with a command in it."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            argv, cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def raw(self) -> str:
        return self._shown.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        return ESCAPES.sub("", self.raw)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)
        os.close(self._master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # Linux says EIO when the last process has gone
            while data := os.read(self._master, 65_536):
                self._shown += data


def test_on_a_terminal_it_draws_and_the_commands_that_it_prints_work(place: Path) -> None:
    env = clean_environment({"TMPDIR": str(place), "TERM": "xterm-256color"})
    env.pop("NO_COLOR", None)
    argv = [sys.executable, "-m", "busmesh", "demo", "--duration", "10s", "--keep"]
    terminal = Terminal(argv, env)
    try:
        eventually(lambda: "rollback 1" in terminal.text, "it says what to try", 50)
        text = terminal.text
        for shown in ("√ start the mesh", "√ kill an instance", "█", "√ 80 to 20", "√ no failure"):
            assert shown in text
        assert "×" not in text
        assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l"), "the cursor is back"
        try_next = text[text.index("The mesh goes on until Ctrl-C") :]
        home = re.search(r"export BUSMESH_HOME=(\S+)", try_next)
        assert home is not None
        assert place in Path(home[1]).parents
        commands = [shlex.split(line.strip()) for line in try_next.splitlines() if " -m busmesh " in line]
        assert len(commands) == 5
        for command in commands:
            try_out(command, clean_environment({"BUSMESH_HOME": home[1], "TMPDIR": str(place)}))
        assert terminal.process.poll() is None
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(15) == 0
        assert_nothing_is_left(place)
    finally:
        terminal.close()


def try_out(command: list[str], env: dict[str, str]) -> None:
    """Run what a person is told to type; what goes on for ever gets a Ctrl-C when it has said something."""
    endless = "--watch" in command or "telemetry" in command
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if endless:
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        status = process.wait(20)
    assert first, command
    assert json.loads(first), command
    assert status == (130 if endless else 0), (command, first + rest)


def test_a_demo_that_is_too_short_is_refused(demo: Callable[..., Process], place: Path) -> None:
    process = demo("--duration", "5s")
    assert process.wait() == 2
    assert "at least 10s" in process.stderr
    assert_nothing_is_left(place)
