"""The few shapes of a bar chart as SVG text: a panel with rows, each row a bar of one or more parts.

Our own rather than matplotlib: some hundred lines instead of 100 MB, and its colours follow the viewer's
light or dark scheme, which a style sheet inside the picture can do and matplotlib cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

_STYLE = """
svg { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px }
.page { fill: #ffffff } text { fill: #1f2328 } .quiet { fill: #59636e } .axis { stroke: #8c959f }
.dot { fill: #1f2328; stroke: #ffffff } .cut { stroke: #ffffff }
.blue { fill: #2f6fde } .orange { fill: #e8833a } .grey { fill: #a3acb5 }
.green { fill: #2e9e6b } .purple { fill: #8a63d2 } .pink { fill: #cf5b9a } .yellow { fill: #c9a227 }
.title { font-size: 16px; font-weight: 600 } .head { font-weight: 600 } .plain { font-weight: 400 }
.end { text-anchor: end }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9aa5b1 } .axis { stroke: #6e7681 }
  .dot { fill: #e6edf3; stroke: #0d1117 } .cut { stroke: #0d1117 }
  .blue { fill: #5b93f5 } .orange { fill: #f0995a } .grey { fill: #6e7681 }
  .green { fill: #3fb37f } .purple { fill: #a986e8 } .pink { fill: #e07bb4 } .yellow { fill: #d9b84a }
}
"""
WIDTH, PANEL_WIDTH, ROW_HEIGHT = 980, 470, 24
_LABEL_WIDTH, _VALUE_WIDTH, _BAR_HEIGHT = 104, 86, 14


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a bar."""

    value: float
    colour: str


@dataclass(frozen=True, slots=True)
class Row:
    """One bar: what it is called, its parts, what to write at its end, and the single values behind it."""

    label: str
    parts: Sequence[Part]
    text: str
    dots: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """A heading with its unit, which way is better, the rows; bars longer than the scale are shown cut."""

    title: str
    better: str
    rows: Sequence[Row]
    scale: float
    #: What the colours mean, where it is not told by the rows.
    legend: Sequence[tuple[str, str]] = ()

    @property
    def height(self) -> int:
        return 26 + ROW_HEIGHT * len(self.rows) + (20 if self.legend else 0) + 14


def text(x: float, y: float, words: str, style: str = "") -> str:
    kind = f" class={quoteattr(style)}" if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(words)}</text>'


def bar(row: Row, x: float, y: float, per_unit: float, room: float) -> list[str]:
    """Return the shapes of one bar; ``room`` is the width at which it is cut."""
    shapes, at = [], 0.0
    for part in row.parts:
        length = min(part.value * per_unit, room - at)
        if length > 0:
            shapes.append(
                f'<rect x="{x + at:.1f}" y="{y:.1f}" width="{length:.1f}" height="{_BAR_HEIGHT}" '
                f'class="{part.colour}"/>'
            )
            at += length
    if sum(part.value for part in row.parts) * per_unit > room + 0.5:
        for offset in (-14, -8):
            left, top = x + room + offset, y - 2
            shapes.append(
                f'<path d="M{left:.1f} {top + _BAR_HEIGHT + 4:.1f} l5 -{_BAR_HEIGHT + 4}" '
                'class="cut" stroke-width="2.5"/>'
            )
    shapes += [
        f'<circle cx="{x + dot * per_unit:.1f}" cy="{y + _BAR_HEIGHT / 2:.1f}" r="2.2" class="dot"/>'
        for dot in row.dots
        if dot * per_unit <= room
    ]
    return shapes


def panel(shown: Panel, left: float, top: float) -> list[str]:
    """Return the shapes of a panel whose upper left corner is given."""
    room = PANEL_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    per_unit = room / shown.scale if shown.scale > 0 else 0.0
    title = f'{escape(shown.title)} <tspan class="quiet plain">{escape(shown.better)}</tspan>'
    shapes = [f'<text x="{left:.1f}" y="{top + 14:.1f}" class="head">{title}</text>']
    y = top + 26.0
    if shown.legend:
        x = left
        for name, colour in shown.legend:
            shapes.append(f'<rect x="{x:.1f}" y="{y - 1:.1f}" width="10" height="10" class="{colour}"/>')
            shapes.append(text(x + 14, y + 8, name, "quiet"))
            x += 30 + 7 * len(name)
        y += 20
    axis = left + _LABEL_WIDTH
    for row in shown.rows:
        shapes.append(text(axis - 8, y + 12, row.label, "end"))
        shapes += bar(row, axis, y + 1, per_unit, room)
        length = min(sum(part.value for part in row.parts) * per_unit, room)
        # Dots may lie beyond the bar's end; the text keeps clear of them.
        furthest = max([length, *(dot * per_unit for dot in row.dots if dot * per_unit <= room)])
        shapes.append(text(axis + furthest + 7, y + 12, row.text, "" if row.parts else "quiet"))
        y += ROW_HEIGHT
    shapes.append(
        f'<line x1="{axis:.1f}" y1="{y - ROW_HEIGHT * len(shown.rows) - 3:.1f}" x2="{axis:.1f}" '
        f'y2="{y - 5:.1f}" class="axis"/>'
    )
    return shapes


def picture(title: str, note: str, panels: Sequence[Panel]) -> str:
    """Return a whole SVG document: panels in two columns below a title, a note at the end."""
    shapes = [text(20, 30, title, "title")]
    top = 48.0
    for first in range(0, len(panels), 2):
        pair = panels[first : first + 2]
        for column, shown in enumerate(pair):
            shapes += panel(shown, 20 + column * (PANEL_WIDTH + 10), top)
        top += max(shown.height for shown in pair)
    shapes.append(text(20, top + 8, note, "quiet"))
    height = top + 24
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label={quoteattr(title)}>'
    )
    page = f'<rect class="page" width="{WIDTH}" height="{height:.0f}" rx="8"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", page, *shapes, "</svg>", ""])
