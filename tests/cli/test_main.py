"""The frame of the command line: lazy commands, and the exit status of every way to end one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import click
import pytest

from busmesh import __version__, errors
from busmesh.cli.main import COMMANDS, Entry, cli, main
from busmesh.yamlfile import Finding, InvalidDocuments
from tests.support.processes import clean_environment

Act = Callable[[], Any]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Callable[[Act], int]:
    """Run a command that does what is given, and return the exit status."""

    def run(act: Act) -> int:
        command = click.Command("act", callback=act)
        monkeypatch.setitem(sys.modules, "a_module_for_this_test", types.SimpleNamespace(act=command))
        monkeypatch.setitem(COMMANDS, "act", Entry("a_module_for_this_test:act", "Look", ""))  # type: ignore[arg-type]  # a dict
        return main(["act"])

    return run


def raising(error: BaseException) -> Act:
    def act() -> None:
        raise error

    return act


def python(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there_and_helps(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: busmesh {name}")


def test_the_overview_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from busmesh.cli.main import main; main(['--help']);"
        "print(sorted(m for m in sys.modules if m.startswith('busmesh.')))"
    )
    overview, _, modules = python("-c", code).stdout.strip().rpartition("\n")
    for name, entry in COMMANDS.items():
        assert f"  {name} " in overview
        assert entry.summary in overview
    needed = ["busmesh.cli", "busmesh.cli.main", "busmesh.identity", "busmesh.identity.coredumps"]
    assert modules == str(needed)


def test_version_waits_for_nothing_heavy() -> None:
    heavy = {"asyncio", "nats", "cryptography", "pydantic", "yaml", "rich", "uvloop", "msgpack"}
    code = (
        "import sys; from busmesh.cli.main import main; status = main(['version']);"
        f"print(status, sorted({heavy} & set(sys.modules)))"
    )
    done = python("-c", code)
    assert done.stdout.splitlines()[0].startswith(f"busmesh {__version__} (Python ")
    assert done.stdout.splitlines()[1] == "0 []"


def test_python_m_busmesh_is_the_same() -> None:
    done = python("-m", "busmesh", "--version")
    assert (done.returncode, done.stdout) == (0, f"busmesh {__version__}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["servces"], "Did you mean 'services'?"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["version", "--loud"], "No such option"),
        (["--loud"], "No such option"),
        (["up", "--port", "seventy"], "is not a valid integer"),
        (["up", "--port", "65536"], "is not in the range"),
    ],
)
def test_wrong_usage_is_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.BusmeshError, 1),
        (errors.RemoteProtocolError, 1),
        (errors.UsageError, 2),
        (errors.InvalidName, 2),
        (errors.BusUnavailable, 3),
        (errors.Denied, 4),
        (errors.IdentityError, 4),
        (errors.InvalidDocument, 5),
        (errors.NotFound, 6),
    ],
)
def test_an_error_says_what_and_what_next_and_ends_with_its_status(
    ends: Callable[[Act], int],
    capsys: pytest.CaptureFixture[str],
    kind: type[errors.BusmeshError],
    status: int,
) -> None:
    assert ends(raising(kind("it broke", code="BM0001", hint="mend it\nor leave it"))) == status
    printed = capsys.readouterr()
    assert printed.err == "error: BM0001 it broke\n  -> mend it\n  -> or leave it\n"
    assert printed.out == ""


def test_an_error_out_of_a_task_group_is_the_error(
    ends: Callable[[Act], int], capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        raise errors.NotFound("no such service")

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    assert ends(lambda: asyncio.run(grouped())) == 6
    assert capsys.readouterr().err == "error: no such service\n"


def test_invalid_documents_print_all_their_findings(
    ends: Callable[[Act], int], capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [
        Finding("error", "BM1101", "unknown key", "a.yaml", 3, 5, hint="did you mean weight?"),
        Finding("warning", "BM2101", "nobody serves it", "a.yaml", 7, 1),
    ]
    assert ends(raising(InvalidDocuments(findings))) == 5
    assert capsys.readouterr().err == (
        "error: a.yaml:3:5: BM1101 unknown key\n  -> did you mean weight?\n"
        "warning: a.yaml:7:1: BM2101 nobody serves it\n"
    )


def test_what_others_wrote_cannot_forge_lines_or_repaint_the_terminal(
    ends: Callable[[Act], int], capsys: pytest.CaptureFixture[str]
) -> None:
    ends(raising(errors.NotFound("no service \x1b[2Jx\nerror: all is well")))
    assert capsys.readouterr().err == "error: no service \\x1b[2Jx\\nerror: all is well\n"


def test_a_password_in_an_error_is_not_shown(
    ends: Callable[[Act], int], capsys: pytest.CaptureFixture[str]
) -> None:
    ends(raising(errors.BusUnavailable("no answer from nats://ada:hunter2@bus:4222", hint="nats://:s3@x")))
    assert capsys.readouterr().err == "error: no answer from nats://***@bus:4222\n  -> nats://***@x\n"


def test_the_unexpected_is_one_line_that_asks_for_a_report(
    ends: Callable[[Act], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(raising(ZeroDivisionError("division by\nzero"))) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: this should not have happened: ZeroDivisionError: division by\\nzero"
    assert "BUSMESH_DEBUG=1" in second


def test_with_debug_the_unexpected_has_a_traceback(
    ends: Callable[[Act], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSMESH_DEBUG", "1")
    assert ends(raising(ZeroDivisionError("division by zero"))) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_is_130_without_a_word(
    ends: Callable[[Act], int], capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert ends(raising(error)) == 130
    assert capsys.readouterr() == ("", "")


def test_a_command_may_say_its_status(ends: Callable[[Act], int]) -> None:
    assert ends(lambda: 42) == 42
    assert ends(lambda: click.get_current_context().exit(7)) == 7
    assert ends(lambda: "a text is no status") == 0


@pytest.mark.parametrize("size", [10, 10_000_000])
def test_a_reader_that_goes_away_is_no_error(size: int) -> None:
    """Small output breaks at the flush at the end, large output in the middle."""
    code = (
        "import sys, types, click; from busmesh.cli.main import COMMANDS, Entry, main;"
        f"print_much = click.Command('much', callback=lambda: print('x' * {size}));"
        "sys.modules['m'] = types.SimpleNamespace(c=print_much);"
        "COMMANDS['much'] = Entry('m:c', 'Look', '');"
        "sys.exit(main(['much']))"
    )
    read, write = os.pipe()
    os.close(read)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, env=clean_environment()
        )
    finally:
        os.close(write)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (141, b"")


def test_the_shell_can_complete() -> None:
    asked = {"_BUSMESH_COMPLETE": "bash_complete", "COMP_WORDS": "busmesh serv", "COMP_CWORD": "1"}
    assert python("-m", "busmesh", env=asked).stdout == "plain,services\n"


def test_a_table_entry_that_is_no_command_is_a_bug_that_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "bad", Entry("busmesh.errors:Denied", "Look", ""))  # type: ignore[arg-type]  # a dict
    with pytest.raises(TypeError, match=r"busmesh\.errors:Denied is not a command"):
        cli.get_command(click.Context(cli), "bad")
