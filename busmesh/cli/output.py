"""What commands print: tables for people, JSON lines for programs, and the line that says ready.

A table on a terminal, JSON lines when piped, ``-o`` to say otherwise. Rows are plain data, so every format
shows the same.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from busmesh.cli.text import printable, redact

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])
Row = Mapping[str, Any]
WATCH_INTERVAL_S = 1.0
_UNLIMITED = 100_000
_GAP = 2


class Output(StrEnum):
    """A format."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        title: its heading, in capitals.
        value: the key of a row's field, or what makes the text of a row.
        wide: shown by ``-o wide`` only.
        right: aligned to the right, for numbers.
        wrap: broken over lines on a narrow terminal, so that the others need not be cut.
        style: names a style of rich ("red", "dim") for the cell of a row.
    """

    title: str
    value: str | Callable[[Row], object]
    wide: bool = False
    right: bool = False
    wrap: bool = False
    style: Callable[[Row], str] | None = None

    def text(self, row: Row) -> str:
        """Return the cell of ``row`` on one harmless line; what is missing is "-"."""
        found = row.get(self.value) if isinstance(self.value, str) else self.value(row)
        return "-" if found is None or found == "" else printable(str(found))


def output_option(command: F) -> F:
    """Give a command ``-o table|wide|json|yaml``, passed as ``output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice([known.value for known in Output]),
        callback=lambda ctx, param, value: Output(value) if value else _default(),
        help="Format.  [default: table on a terminal, JSON lines when piped]",
    )(command)


def watch_option(command: F) -> F:
    """Give a command ``-w/--watch``, passed as ``watch``."""
    return click.option("-w", "--watch", is_flag=True, help="Look again every second, until Ctrl-C.")(command)


def show(rows: Sequence[Row], columns: Sequence[Column], output: Output, *, empty: str = "") -> None:
    """Print ``rows``.

    Args:
        rows: plain data (what JSON knows).
        columns: of the table.
        output: the format.
        empty: said on stderr in place of a table without rows.
    """
    if output is Output.JSON:
        for row in rows:
            click.echo(json.dumps(row))
    elif output is Output.YAML:
        from busmesh.yamlfile import write_yaml

        click.echo(write_yaml([dict(row) for row in rows]), nl=False)
    elif not rows and empty:
        click.echo(empty, err=True)
    else:
        _print_table(rows, columns, output)
    sys.stdout.flush()


async def show_again(
    read: Callable[[], Awaitable[Sequence[Row]]],
    columns: Sequence[Column],
    output: Output,
    *,
    interval: float = WATCH_INTERVAL_S,
) -> None:
    """Show what ``read`` returns again and again until cancelled: redrawn on a terminal, else appended."""
    if output not in (Output.TABLE, Output.WIDE) or not sys.stdout.isatty():
        while True:
            show(await read(), columns, output)
            await asyncio.sleep(interval)
    from rich.live import Live

    with Live(console=_console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(_table(await read(), columns, output), refresh=True)
            await asyncio.sleep(interval)


def ready(**fields: Any) -> None:
    """Print the one line on stdout that says this process is ready, with what a script needs to know."""
    line = {"event": "ready"} | {
        name: redact(value) if isinstance(value, str) else value for name, value in fields.items()
    }
    click.echo(json.dumps(line))
    sys.stdout.flush()


def tell_person(*lines: str) -> None:
    """Say something to whoever sits at the terminal; where nobody does, say nothing."""
    if sys.stderr.isatty():
        for line in lines:
            click.echo(redact(line), err=True)


def _default() -> Output:
    return Output.TABLE if sys.stdout.isatty() else Output.JSON


def _console() -> Console:
    from rich.console import Console

    return Console()  # honours NO_COLOR by itself


def _shown(columns: Sequence[Column], output: Output) -> list[Column]:
    return [column for column in columns if output is Output.WIDE or not column.wide]


def _least(column: Column, rows: Sequence[Row]) -> int:
    """Return the characters that a column needs: all of its text, but for one that is broken over lines."""
    texts = () if column.wrap else map(column.text, rows)
    return max(len(text) for text in (column.title, *texts))


def _table(rows: Sequence[Row], columns: Sequence[Column], output: Output) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = _shown(columns, output)
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column in shown:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.wrap,
            overflow="fold",
            min_width=_least(column, rows),
        )
    for row in rows:
        table.add_row(*(Text(c.text(row), style=c.style(row) if c.style else "") for c in shown))
    return table


def _print_table(rows: Sequence[Row], columns: Sequence[Column], output: Output) -> None:
    console, table = _console(), _table(rows, columns, output)
    if console.is_terminal:
        # What is cut cannot be copied into the next command: the terminal breaks the line instead.
        least = sum(_least(column, rows) + _GAP for column in _shown(columns, output))
        console.width = max(console.width, least)
        console.print(table)
        return
    # Nothing is cut where nobody looks; measuring stops at the width that the console seems to have.
    console.width = _UNLIMITED
    console.width = max(80, console.measure(table).maximum)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
