"""The demo on a screen: drawn again and again on a terminal, else written line by line.

Shares are what the caller has counted in the present step; the rest of the table is what the agents tell on
the telemetry subjects. Both are said below it, because figures without a source are decoration.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import click

from busmesh.cli.figures import milliseconds, percent
from busmesh.cli.text import printable
from busmesh.demo.board import Board, State, Step
from busmesh.demo.cast import SHOP
from busmesh.demo.heard import Entry
from busmesh.demo.ledger import Part, share
from busmesh.demo.traffic import RATE

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

DRAW_S = 0.2
#: Between two lines of figures where nothing is drawn.
LINE_S = 1.0
#: Columns that the table takes without bars; bars get what is left, within these bounds.
BARE = 72
SHORTEST_BAR, LONGEST_BAR = 6, 20
_BLOCKS = " ▏▎▍▌▋▊▉█"
CANARY_ROUTE = "canary"
_TURNING = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
#: The rows of the table: service, version, and whether they are those who ask for the canary.
_ROWS = (
    ("web", "v1", False),
    ("orders", "v1", False),
    ("orders", "v2", False),
    ("orders", "v1", True),
    ("orders", "v2", True),
    ("payments", "v1", False),
)
_SOURCES = (
    "REQUESTS and SHARE are counted by the caller, in this step;",
    "READY to P99 is what the agents tell on telemetry.metrics, of the last 3 s.",
)
_INSTANCES = Counter((role.service, role.version) for role in SHOP)


class Screen(Protocol):
    """Shows a board while it is entered."""

    async def __aenter__(self) -> Screen: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def restore(self) -> None:
        """Leave the terminal as it was; for an end without goodbye."""


class _Repeating:
    """Calls :meth:`show` every so often, and once more at the end."""

    interval = DRAW_S

    def __init__(self, board: Board) -> None:
        self.board = board
        self._task: asyncio.Task[None] | None = None

    def show(self) -> None:
        """Show the board as it is."""

    async def __aenter__(self) -> _Repeating:
        self._task = asyncio.create_task(self._repeat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task  # raises what ended it, if anything did
        self.show()

    async def _repeat(self) -> None:
        while True:
            self.show()
            await asyncio.sleep(self.interval)

    def restore(self) -> None:
        """Nothing was changed."""


class Silent(_Repeating):
    """Shows nothing."""

    interval = 3600.0


class Lines(_Repeating):
    """Writes a line when a step begins, when there is news of it, and each second the figures."""

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._said: dict[Part, tuple[State, str]] = {}
        self._next_figures = 0.0

    def show(self) -> None:
        for part, step in self.board.steps.items():
            if step.state is State.WAITING or self._said.get(part) == (step.state, step.said):
                continue
            began = part in self._said
            self._said[part] = (step.state, step.said)
            if not began:
                self._write(f"{part}. {step.title}")
            if step.said and (step.state is State.NOW or not began):
                self._write(f"   {step.said}")
        if self.board.ledger.total and time.monotonic() >= self._next_figures:
            self._next_figures = time.monotonic() + LINE_S
            self._write(f"   {figures_line(self.board)}")

    def _write(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self.board.began:5.1f}s {printable(text)}")


class Drawing(_Repeating):
    """Draws the board in place."""

    def __init__(self, board: Board, console: Console) -> None:
        from rich.live import Live

        super().__init__(board)
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    async def __aenter__(self) -> Drawing:
        self._live.start()
        await super().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._live.stop()

    def show(self) -> None:
        self._live.update(picture(self.board, self._console.width), refresh=True)

    def restore(self) -> None:
        self._console.show_cursor(True)


def figures_line(board: Board) -> str:
    """Return the shares and what failed, on one line."""
    counts = board.ledger.versions("orders", (board.part,), canary=False)
    asked = board.ledger.versions("orders", (board.part,), canary=True)
    words = [f"orders {_shares(counts)} of {counts.total()}"]
    if asked:
        words.append(f"x-canary {_shares(asked)} of {asked.total()}")
    words.append(f"failed {board.ledger.failed} of {board.ledger.total}")
    return "; ".join(words)


def picture(board: Board, width: int) -> Group:
    """Return the whole board, for a terminal of ``width`` columns."""
    from rich.console import Group
    from rich.text import Text

    lines: list[Text | Table] = [_head(board, width), _subtitle(), Text()]
    lines += [_step(step) for step in board.steps.values()]
    lines += [Text(), _table(board, width), Text()]
    lines.append(_failures(board))
    lines += [Text(line, style="dim") for line in _SOURCES]
    if board.doing:
        lines.append(Text.assemble((" now ", "reverse"), " ", printable(board.doing)))
    for line in lines:
        if isinstance(line, Text):
            line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _head(board: Board, width: int) -> Text:
    from rich.text import Text

    elapsed = time.monotonic() - board.began
    clock = f"{elapsed:.0f} s" if board.over else f"{elapsed:.0f} of {board.duration:.0f} s"
    title = "busmesh demo: a shop in a service mesh, on this machine"
    return Text.assemble((title, "bold cyan"), " " * max(1, width - len(title) - len(clock)), (clock, "dim"))


def _subtitle() -> Text:
    from rich.text import Text

    return Text(
        f"shopper → web → orders → payments; {RATE:.0f} requests a second, each hop sealed", style="dim"
    )


def _step(step: Step) -> Text:
    from rich.text import Text

    if step.state is State.DONE:
        mark, style = "√", "green"
    elif step.state is State.NOW:
        mark, style = _TURNING[int(time.monotonic() / DRAW_S) % len(_TURNING)], "yellow"
    else:
        mark, style = " ", "dim"
    title = Text(f"{step.title:<23}", style="dim" if step.state is State.WAITING else "bold")
    return Text.assemble(" ", (mark, style), " ", title, printable(step.said))


def _failures(board: Board) -> Text:
    from rich.text import Text

    ledger = board.ledger
    style = "bold red" if ledger.failed else "bold green" if ledger.total else "dim"
    text = Text.assemble("failed requests: ", (f"{ledger.failed:,} of {ledger.total:,}", style))
    if ledger.failures:
        text.append(f"  {printable(ledger.failures[-1])}", style="red")
    elif board.lost_tries:
        tries = "1 try" if board.lost_tries == 1 else f"{board.lost_tries} tries"
        text.append(f"  ({tries} lost with {board.victim}, made again elsewhere)", style="dim")
    return text


def _table(board: Board, width: int) -> Table:
    from rich.table import Table

    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("SERVICE", no_wrap=True, min_width=9)
    table.add_column("VERSION", no_wrap=True)
    table.add_column("REQUESTS", no_wrap=True, justify="right")
    bar = min(LONGEST_BAR, width - BARE)
    if bar >= SHORTEST_BAR:
        table.add_column("", no_wrap=True, width=bar)
    for title in ("SHARE", "READY", "SUCCESS", "P50", "P99"):
        table.add_column(title, no_wrap=True, justify="right", min_width=7 if title == "SHARE" else 5)
    above = ""
    for service, version, canary in _ROWS:
        counts = board.ledger.versions(service, (board.part,), canary=canary)
        if canary and not counts[version] and (version == "v1" or board.part < Part.CANARY):
            continue
        label = " x-canary" if canary else service
        table.add_row("" if label == above else label, *_cells(board, service, version, canary, bar))
        above = label
    return table


def _cells(board: Board, service: str, version: str, canary: bool, bar: int) -> list[str | Text]:
    from rich.text import Text

    counts = board.ledger.versions(service, (board.part,), canary=canary)
    part = share(counts, version)
    cells: list[str | Text] = [version, f"{counts[version]:,}" if board.ledger.total else ""]
    if bar >= SHORTEST_BAR:
        cells.append(Text(blocks(part or 0, bar), style="magenta" if canary else "cyan"))
    cells.append("" if part is None else f"{part * 100:.1f}%")
    cells.append("" if canary else _ready(board, service, version))

    def wanted(entry: Entry) -> bool:
        return (
            entry.destination_service == service
            and entry.destination_version == version
            and (entry.route == CANARY_ROUTE) == canary
        )

    told = board.heard.figures(wanted)
    p50, p99 = told.percentiles_ms()
    cells.append(_success(told.success))
    return [*cells, milliseconds(p50), milliseconds(p99)]


def blocks(part: float, width: int) -> str:
    """Return a bar for a share of 1, exact to an eighth of a column."""
    full, eighths = divmod(round(part * width * 8), 8)
    return "█" * full + _BLOCKS[eighths].strip()


def _ready(board: Board, service: str, version: str) -> Text:
    """How many instances were heard lately, of how many there are."""
    from rich.text import Text

    lately = board.heard.lately()
    there = sum((r.service, r.version) == (service, version) and r.instance in lately for r in SHOP)
    if not board.ledger.total:
        return Text()
    all_of_them = _INSTANCES[service, version]
    return Text(f"{there}/{all_of_them}", style="" if there == all_of_them else "yellow")


def _success(success: float | None) -> Text:
    from rich.text import Text

    return Text(percent(success), style="" if success is None or success == 1 else "yellow")


def _shares(counts: Counter[str]) -> str:
    return (
        " ".join(f"{version} {(share(counts, version) or 0) * 100:.1f}%" for version in sorted(counts)) or "-"
    )
