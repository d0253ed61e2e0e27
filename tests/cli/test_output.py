"""What commands print: the same rows in every format, one line per row, nothing that repaints a terminal."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from busmesh.cli.logs import HumanFormatter, JsonFormatter, log_option, set_up
from busmesh.cli.output import (
    Column,
    Output,
    output_option,
    ready,
    show,
    show_again,
    tell_person,
    watch_option,
)
from busmesh.cli.text import printable, redact
from busmesh.identity.jointoken import JoinToken
from busmesh.yamlfile import read_yaml

ROWS: list[dict[str, Any]] = [
    {"service": "orders", "ready": 2, "p50": 0.0031, "versions": ["v1", "v2"]},
    {"service": "payments-and-refunds", "ready": 0, "p50": None, "versions": []},
]
COLUMNS = [
    Column("SERVICE", "service"),
    Column("READY", "ready", right=True),
    Column("P50", lambda row: None if row["p50"] is None else f"{row['p50'] * 1000:.0f}ms", right=True),
    Column("VERSIONS", lambda row: ",".join(row["versions"]), wide=True),
]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, nats = logging.getLogger(), logging.getLogger("nats")
    before = root.handlers[:], root.level, nats.level
    yield
    root.handlers[:], level, nats_level = before
    root.setLevel(level)
    nats.setLevel(nats_level)


# -- rows ------------------------------------------------------------------------------------------


def test_a_table_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS, Output.TABLE)
    assert capsys.readouterr().out == (
        "SERVICE               READY  P50\n"
        "orders                    2  3ms\n"
        "payments-and-refunds      0    -\n"
    )  # fmt: skip


def test_wide_has_more_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS, Output.WIDE)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "SERVICE               READY  P50  VERSIONS",
        "orders                    2  3ms  v1,v2",
    ]


def test_nothing_is_cut_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"service": "x" * 500}], COLUMNS[:1], Output.TABLE)
    assert capsys.readouterr().out.splitlines()[1] == "x" * 500


def test_a_narrow_terminal_cuts_no_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "busmesh.cli.output._console", lambda: Console(force_terminal=True, width=20, color_system=None)
    )
    show([*ROWS, {"service": "a" * 30, "ready": 1, "p50": None, "versions": []}], COLUMNS, Output.TABLE)
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["SERVICE", "READY", "P50"]
    assert [row.split()[0] for row in rows] == ["orders", "payments-and-refunds", "a" * 30]


def test_json_is_one_object_a_line_with_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS, Output.JSON)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_yaml_reads_back_as_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS, Output.YAML)
    assert [document.data for document in read_yaml(capsys.readouterr().out.encode(), "out")] == [ROWS]


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    show([], COLUMNS, Output.TABLE, empty="no services yet")
    assert capsys.readouterr() == ("", "no services yet\n")
    show([], COLUMNS, Output.TABLE)
    assert capsys.readouterr().out == "SERVICE  READY  P50\n"
    show([], COLUMNS, Output.JSON, empty="no services yet")
    assert capsys.readouterr() == ("", "")


@given(st.text())
def test_a_cell_is_one_harmless_line(text: str) -> None:
    cell = Column("X", "x").text({"x": text})
    assert cell.isprintable()
    assert len(cell.splitlines()) == 1


def test_markup_of_rich_in_a_name_stays_text(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"service": "[bold red]x[/] :smile:"}], COLUMNS[:1], Output.TABLE)
    assert capsys.readouterr().out.splitlines()[1] == "[bold red]x[/] :smile:"


# -- formats and watching --------------------------------------------------------------------------


@click.command()
@output_option
@watch_option
def command(output: Output, watch: bool) -> None:
    click.echo(f"{output!r} {watch}")


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], Output.JSON),  # piped: CliRunner's stdout is no terminal
        (["-o", "table"], Output.TABLE),
        (["-o", "wide"], Output.WIDE),
        (["--output", "yaml"], Output.YAML),
    ],
)
def test_the_format_is_the_flag_or_fits_the_reader(words: list[str], chosen: Output) -> None:
    assert CliRunner().invoke(command, words).output == f"{chosen!r} False\n"
    assert CliRunner().invoke(command, [*words, "--watch"]).output == f"{chosen!r} True\n"


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busmesh.cli.output._default", lambda: Output.TABLE)
    assert CliRunner().invoke(command, []).output == f"{Output.TABLE!r} False\n"


def test_another_format_is_wrong_usage() -> None:
    assert CliRunner().invoke(command, ["-o", "xml"]).exit_code == 2


def test_watching_into_a_pipe_appends_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    class Enough(Exception):
        pass

    looks = 0

    async def read() -> list[dict[str, Any]]:
        nonlocal looks
        looks += 1
        if looks > 3:
            raise Enough
        return [{"look": looks}]

    with pytest.raises(Enough):
        asyncio.run(show_again(read, [Column("LOOK", "look")], Output.JSON, interval=0))
    assert capsys.readouterr().out == '{"look": 1}\n{"look": 2}\n{"look": 3}\n'


# -- ready -----------------------------------------------------------------------------------------


def test_ready_is_exactly_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    ready(bus="nats://ada:hunter2@127.0.0.1:4222", mesh="local", port=7)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "event": "ready",
        "bus": "nats://***@127.0.0.1:4222",
        "mesh": "local",
        "port": 7,
    }


def test_nobody_at_a_terminal_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tell_person("hello")
    assert capsys.readouterr() == ("", "")


# -- logs ------------------------------------------------------------------------------------------


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_programs_get_json_lines() -> None:
    stream = StringIO()
    set_up("info", stream)
    logging.getLogger("busmesh.x").debug("unheard")
    logging.getLogger("busmesh.x").warning(
        "a\nb %s", "\x1b[2J", extra={"trace_id": "4bf9", "level": "forged"}
    )
    line = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert (line["level"], line["logger"], line["message"]) == ("warning", "busmesh.x", "a\nb \x1b[2J")
    assert line["trace_id"] == "4bf9"
    assert line["time"].endswith("+00:00")


def test_people_get_a_line() -> None:
    stream = Terminal()
    set_up("info", stream)
    logging.getLogger("busmesh.authority").info(
        "enrolled %s", "x\r\nERROR forged", extra={"trace_id": "4bf9"}
    )
    time, rest = stream.getvalue().split(" ", 1)
    assert len(time) == len("12:01:07.123")
    assert rest == "INFO    authority: enrolled x\\r\\nERROR forged trace_id=4bf9\n"


@pytest.mark.parametrize("formatter", [HumanFormatter(), JsonFormatter()])
def test_an_exception_comes_along(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord(
        {"name": "busmesh.x", "msg": "failed", "exc_info": (KeyError, KeyError("k"), None)}
    )
    assert "KeyError: 'k'" in formatter.format(record)


@pytest.mark.parametrize("formatter", [HumanFormatter(), JsonFormatter()])
def test_no_secret_gets_into_a_log(formatter: logging.Formatter) -> None:
    secrets = (
        JoinToken.generate("local").reveal(),
        "nats://ada:hunter2@bus:4222",
        "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
    )
    record = logging.makeLogRecord(
        {"name": "busmesh.x", "msg": "%s %s %s", "args": secrets, "extra_field": secrets[0]}
    )
    line = formatter.format(record)
    for secret in (secrets[0].rpartition(".")[2], "hunter2", secrets[2]):
        assert secret not in line
    assert "@bus:4222" in line


def test_nats_py_is_silent_unless_debugging() -> None:
    set_up("info", StringIO())
    assert not logging.getLogger("nats.aio.client").isEnabledFor(logging.ERROR)
    set_up("debug", StringIO())
    assert logging.getLogger("nats.aio.client").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    ("words", "env", "level"),
    [
        ([], {}, "INFO"),
        ([], {"BUSMESH_LOG": "error"}, "ERROR"),
        (["--log-level", "DEBUG"], {"BUSMESH_LOG": "error"}, "DEBUG"),
    ],
)
def test_the_level_is_flag_then_environment(words: list[str], env: dict[str, str], level: str) -> None:
    @click.command()
    @log_option("info")
    def act() -> None:
        click.echo(logging.getLevelName(logging.getLogger().level))

    assert CliRunner().invoke(act, words, env=env).output == f"{level}\n"


# -- text ------------------------------------------------------------------------------------------


@given(st.text())
def test_printable_is_printable_and_keeps_what_was(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(st.text(alphabet="abc .-\n"), st.text(alphabet="abc .-\n"))
def test_a_join_token_is_never_left_in_a_text(before: str, after: str) -> None:
    token = JoinToken.generate("local").reveal()
    shown = redact(f"{before}{token} {after}")
    assert token.rpartition(".")[2] not in shown
    assert token.rpartition(".")[0] in shown
