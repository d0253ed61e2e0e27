"""``busmesh demo``: the whole mesh on this machine, with traffic and faults."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import click

from busmesh.cli.context import run
from busmesh.cli.demoscreen import Drawing, Lines, Screen, Silent
from busmesh.cli.duration import Duration
from busmesh.cli.logs import log_option
from busmesh.cli.output import tell_person
from busmesh.cli.signals import stop_signals, unless_stopped
from busmesh.cli.text import printable
from busmesh.demo.board import Board
from busmesh.demo.mesh import DemoMesh
from busmesh.demo.scenario import Scenario
from busmesh.demo.verdict import Promise, promises, summary

SHORTEST_S = 10.0
EXIT_INTERRUPTED = 130
#: Failures that are shown word by word.
SHOWN_FAILURES = 5


@click.command()
@click.option(
    "--duration",
    type=Duration(SHORTEST_S, "the mesh needs time to start, and a share requests"),
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long all of it takes; at least 10s.",
)
@click.option("--keep", is_flag=True, help="Afterwards leave mesh and traffic running, until Ctrl-C.")
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Decides which requests are sent and who is killed.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: nothing but one line with the summary.",
)
@log_option("error")
def demo(duration: float, keep: bool, seed: int, output: str) -> int:
    """Run a whole mesh on this machine, and see what it does.

    A real NATS server, an authority, and a shop of three services, each instance with its agent, all as
    processes of their own, under steady traffic: a split of 80 to 20, a canary by header, and an instance
    killed by SIGKILL. Ends with 0 if the shares were right and no request failed. Nothing is left behind, and
    ~/.busmesh is not touched.

    \b
    Examples:
      busmesh demo
      busmesh demo --duration 60s --keep
      busmesh demo --duration 12s -o json
    """
    return run(_demo(duration, keep, seed, output))


async def _demo(duration: float, keep: bool, seed: int, output: str) -> int:
    mesh = DemoMesh()
    scenario = Scenario(mesh, duration=duration, rng=Random(seed))
    screen = _screen(scenario.board, output)

    def last_words() -> None:
        screen.restore()
        mesh.abandon()

    with stop_signals(last_words=last_words) as stop:
        async with mesh, scenario:
            async with screen:
                played = await unless_stopped(stop, scenario.play(go_on=keep))
            if played:
                kept = promises(scenario.board)
                _tell(scenario.board, kept, output, seed, mesh if keep else None)
                if keep:
                    await stop.wait()
    if not played:
        tell_person("", "stopped before the end; everything is cleaned up")
        return EXIT_INTERRUPTED
    return 0 if all(promise.held for promise in kept) else 1


def _screen(board: Board, output: str) -> Screen:
    from rich.console import Console

    # JSON is for a program; whoever started it may sit at a terminal and watch all the same.
    console = Console(stderr=output == "json", highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return Drawing(board, console)
    return Silent(board) if output == "json" else Lines(board)


def _tell(board: Board, kept: Sequence[Promise], output: str, seed: int, running: DemoMesh | None) -> None:
    """Print how it went; ``running`` is the mesh if it goes on."""
    if output == "json":
        where = {"home": str(running.home), "bus": running.bus_url} if running is not None else {}
        click.echo(json.dumps({**summary(board, kept), "seed": seed, **where}))
    else:
        click.echo("\n".join([*_verdict(board, kept), "", *next_steps(running.home if running else None)]))
    sys.stdout.flush()


def _verdict(board: Board, kept: Sequence[Promise]) -> list[str]:
    lines = [""]
    for promise in kept:
        mark = click.style("√", fg="green") if promise.held else click.style("×", fg="red", bold=True)
        lines.append(f" {mark} {promise.name:<11} {printable(promise.said)}")
    return lines + [f"     {printable(failure)}" for failure in board.ledger.failures[:SHOWN_FAILURES]]


def next_steps(home: Path | None) -> list[str]:
    """Return what to try next; ``home`` is that of a mesh that goes on running."""
    busmesh, exports = program()
    rows = [
        ("services --watch", "who is there, and how they do"),
        ("telemetry access", "what the agents tell"),
        ("call orders /orders -H x-canary:always", "one request, by hand"),
        ("policy status", "which agent has which revision"),
        ("policy rollback 1", "the split without the canary"),
    ]
    if home is None:
        rows = [("demo --keep", "this mesh, until Ctrl-C"), rows[0], *rows[2:]]
        head = "Try next (the first leaves a mesh running, and says where the others find it):"
    else:
        head = "The mesh goes on until Ctrl-C. In another terminal:"
        exports = [*exports, f"export BUSMESH_HOME={shlex.quote(str(home))}"]
    commands = [(f"{busmesh} {words}", said) for words, said in rows]
    widest = max(len(command) for command, _ in commands)
    lines = [head, *(f"  {line}" for line in exports)]
    if widest + max(len(said) for _, said in commands) + 4 > shutil.get_terminal_size().columns:
        return [*lines, *(f"  {command}" for command, _ in commands)]
    return [*lines, *(f"  {command:<{widest}}  {click.style(said, dim=True)}" for command, said in commands)]


def program() -> tuple[str, list[str]]:
    """Return how a person here calls busmesh, and what has to be typed before that this works."""
    script = Path(sys.argv[0])
    if script.stem != "busmesh":  # python -m busmesh
        return f"{shlex.quote(sys.executable)} -m busmesh", []
    found = shutil.which("busmesh")
    if found is not None and Path(found).resolve() == script.resolve():
        return "busmesh", []
    return "busmesh", [f'export PATH="{script.parent.absolute()}:$PATH"']
