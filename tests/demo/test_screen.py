"""The demo's screens: the same figures, drawn to fit any terminal or written line by line."""

from __future__ import annotations

import asyncio
import time
from io import StringIO

import pytest
from rich.console import Console

from busmesh.cli.demoscreen import Drawing, Lines, blocks, figures_line, picture
from busmesh.demo.board import Board, State
from busmesh.demo.heard import Heard
from busmesh.demo.ledger import Hop, Part, Result


@pytest.fixture
def board() -> Board:
    board = Board(Heard(time.monotonic), time.monotonic(), 30.0)
    board.part = Part.CANARY
    board.steps[Part.EVEN].state = board.steps[Part.SPLIT].state = State.DONE
    board.steps[Part.CANARY].state = State.NOW
    board.steps[Part.CANARY].said = "revision 2 in force at 7 of 7 agents after 9 ms"
    board.doing = "$ busmesh policy publish policies/orders-canary.yaml"
    for number in range(1000):
        hops = tuple(Hop(name, "v1", "x") for name in ("web", "payments"))
        orders = Hop("orders", "v2" if number % 5 == 0 else "v1", "x")
        board.ledger.add(Result(Part.CANARY, "web", False, 0.004, (*hops, orders)))
    for _ in range(50):
        board.ledger.add(Result(Part.CANARY, "orders", True, 0.002, (Hop("orders", "v2", "x"),)))
    return board


def drawn(board: Board, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, height=50, highlight=False, markup=False, emoji=False)
    console.print(picture(board, width))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().rstrip().splitlines()


@pytest.mark.parametrize("width", [40, 79, 80, 100, 200])
def test_the_picture_fits_the_terminal(board: Board, width: int) -> None:
    board.doing = board.steps[Part.CANARY].said = "a long story " * 30
    board.ledger.add(Result(Part.CANARY, "web", False, 0.004, failure="503 a long story " * 30))
    lines = drawn(board, width)
    assert max(map(len, lines)) <= width
    assert len(lines) <= 22, "a terminal has 24 lines"


def test_the_picture_shows_the_shares(board: Board) -> None:
    rows = [line.split() for line in drawn(board, 80)]
    assert ["web", "v1", "1,000", "████████", "100.0%", "0/1"] in rows
    assert ["orders", "v1", "800", "██████▍", "80.0%", "0/2"] in rows
    assert ["v2", "200", "█▋", "20.0%", "0/1"] in rows
    assert ["x-canary", "v2", "50", "████████", "100.0%"] in rows
    assert ["failed", "requests:", "0", "of", "1,050"] in rows


def test_a_canary_that_went_elsewhere_is_seen(board: Board) -> None:
    board.ledger.add(Result(Part.CANARY, "orders", True, 0.002, (Hop("orders", "v1", "x"),)))
    rows = [line.split()[:4] for line in drawn(board, 79)]
    assert ["x-canary", "v1", "1", "▏"] in rows


def test_what_others_wrote_cannot_repaint_the_terminal(board: Board) -> None:
    board.ledger.add(Result(Part.KILL, "web", False, 0.1, failure="\x1b[2J\nlies"))
    board.doing = "\x1b]0;lies\x07"
    text = "\n".join(drawn(board, 120))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_line_of_figures(board: Board) -> None:
    assert figures_line(board) == (
        "orders v1 80.0% v2 20.0% of 1000; x-canary v2 100.0% of 50; failed 0 of 1050"
    )


@pytest.mark.parametrize(
    ("part", "width", "bar"),
    [(0.0, 8, ""), (1.0, 8, "████████"), (0.5, 8, "████"), (0.2, 8, "█▋"), (0.01, 8, "▏")],
)
def test_a_bar_is_exact_to_an_eighth(part: float, width: int, bar: str) -> None:
    assert blocks(part, width) == bar


def test_lines_tell_each_step_and_each_news_once(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(board)
    lines.show()
    lines.show()
    board.steps[Part.KILL].state = State.NOW
    lines.show()
    board.steps[Part.KILL].said = "SIGKILL for orders-v1-0"
    lines.show()
    board.steps[Part.KILL].state = State.DONE
    lines.show()
    said = [line[7:] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "1. start the mesh",
        "2. split orders 80 to 20",
        "3. canary by header",
        "   revision 2 in force at 7 of 7 agents after 9 ms",
        f"   {figures_line(board)}",
        "4. kill an instance",
        "   SIGKILL for orders-v1-0",
    ]


def test_drawing_ends_with_the_last_state_and_a_visible_cursor(board: Board) -> None:
    console = Console(file=StringIO(), width=80, height=40, force_terminal=True, highlight=False)

    async def main() -> None:
        async with Drawing(board, console):
            board.doing = "the last state"

    asyncio.run(main())
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "the last state" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_screen_that_fails_says_so(board: Board) -> None:
    class Broken(Lines):
        def show(self) -> None:
            raise RuntimeError("no paper")

    async def main() -> None:
        async with Broken(board):
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="no paper"):
        asyncio.run(main())
