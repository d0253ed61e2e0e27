"""One table, shown twice: with rich on a terminal, as Markdown in the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Table:
    """A title, column heads and rows of text; the first column is left-aligned, the others right."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [_row(self.heads), "|" + "|".join([":---", *["---:"] * (len(self.heads) - 1)]) + "|"]
        lines += [_row(row) for row in self.rows]
        return "\n".join([f"### {self.title}", "", *lines, ""])

    def show(self, console: Console) -> None:
        rich = RichTable(title=self.title, title_justify="left", title_style="bold")
        for number, head in enumerate(self.heads):
            rich.add_column(head, justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            rich.add_row(*row)
        console.print(rich)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def number(value: float | None) -> str:
    """Return a figure with three significant digits or more, thousands set apart; a dash for none."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
