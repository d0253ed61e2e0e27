"""The command line's frame: which commands there are, and what becomes of every way to end one.

A command's module is imported when the command is used, so that ``busmesh version`` and the shell's
completion do not wait for cryptography and the bus.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

import click

from busmesh import __version__
from busmesh.identity import coredumps

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class Entry(NamedTuple):
    """Where a command lives, and what the overview says of it."""

    target: str
    section: str
    summary: str


_START, _STEER, _LOOK = "Start", "Steer", "Look"

COMMANDS: Mapping[str, Entry] = {
    "demo": Entry(
        "busmesh.cli.demo:demo", _START, "The whole mesh on this machine, with traffic and faults."
    ),
    "up": Entry("busmesh.cli.up:up", _START, "A local bus and the authority."),
    "authority": Entry("busmesh.cli.authority:authority", _START, "The authority on a bus of yours."),
    "bus": Entry("busmesh.cli.bus:bus", _START, "A NATS server of yours, locked for this mesh."),
    "agent": Entry("busmesh.cli.agent:agent", _START, "An agent next to a service."),
    "policy": Entry("busmesh.cli.policy:policy", _STEER, "Publish, check and look through policies."),
    "identity": Entry("busmesh.cli.identity:identity", _STEER, "Roots, SVIDs, join tokens, revocations."),
    "authz": Entry("busmesh.cli.authz:authz", _LOOK, "Who may do what."),
    "services": Entry("busmesh.cli.show:services", _LOOK, "The services of the mesh."),
    "instances": Entry("busmesh.cli.show:instances", _LOOK, "The instances of a service."),
    "telemetry": Entry("busmesh.cli.telemetry:telemetry", _LOOK, "Subscribe to telemetry and print it."),
    "call": Entry("busmesh.cli.call:call", _LOOK, "Send one request through the mesh."),
    "check": Entry("busmesh.cli.check:check", _LOOK, "What is wrong with the mesh, and what to do about it."),
    "version": Entry("busmesh.cli.version:version", _LOOK, "The version of busmesh."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is used."""

    def __init__(self, *, entries: Mapping[str, Entry], **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # passed on as they are
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        wanted = args[0]
        if wanted not in self._entries and not wanted.startswith("-"):
            import difflib  # for typing errors only

            near = difflib.get_close_matches(wanted, self._entries, n=1)
            ctx.fail(f"No such command {wanted!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section from the table, without importing one."""
        for section in dict.fromkeys(entry.section for entry in self._entries.values()):
            rows = [
                (name, entry.summary) for name, entry in self._entries.items() if entry.section == section
            ]
            with formatter.section(section):
                formatter.write_dl(rows, col_max=14)


cli = LazyGroup(
    name="busmesh",
    entries=COMMANDS,
    help="A service mesh whose control plane and data plane are both messages on NATS.",
    epilog="See it work: `busmesh demo`. Every command says more with --help.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, prog_name="busmesh", message="%(prog)s %(version)s")(cli)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; the console script ends with it.

    Args:
        args: the words after ``busmesh``; default those of this process.
    """
    if "_BUSMESH_COMPLETE" in os.environ:  # asked by the shell's completion: answers and exits
        cli.main(prog_name="busmesh")
    try:
        status = _invoke(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return status


def _invoke(args: list[str]) -> int:
    coredumps.forbid()
    try:
        with cli.make_context("busmesh", args) as context:
            result = cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  # the last seam: whatever it is, it is reported
        from busmesh.cli.errors import report

        return report(error)
    return result if isinstance(result, int) else 0
