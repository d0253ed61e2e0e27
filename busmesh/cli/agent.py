"""``busmesh agent run``: an agent next to a service."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from busmesh.agent.agent import Agent
from busmesh.agent.definition import AgentDefinition
from busmesh.agent.run import Runner
from busmesh.agent.settings import SETTINGS, load_definition
from busmesh.agent.worker import serve
from busmesh.bus.bus import Bus
from busmesh.cli.context import Context, context_options, resolve, run, servers_of
from busmesh.cli.logs import log_option
from busmesh.cli.signals import stop_signals
from busmesh.errors import BusmeshError
from busmesh.identity.store import AgentHome, read_join_ticket
from busmesh.identity.ticket import JoinTicket
from busmesh.names import Subjects, generated_instance

F = TypeVar("F", bound=Callable[..., Any])
_APPLICATION = "busmesh.application"


def _setting_options(command: F) -> F:
    """Give a command one flag per setting of an agent definition."""
    for setting in reversed(SETTINGS):
        field: Any = AgentDefinition
        description, default = "", None
        for part in setting.path:
            info = next(i for n, i in field.model_fields.items() if (i.alias or n) == part)
            description, default, field = info.description or "", info.default, info.annotation
        known = f"; default: {default}" if isinstance(default, str | int | float) and default != "" else ""
        option = click.option(
            setting.flag,
            setting.parameter,
            metavar="VALUE",
            help=f"{description}  [env: {setting.variable}{known}]".strip(),
        )
        command = option(command)
    return command


@click.group()
def agent() -> None:
    """An agent next to a service."""


class _WithApplication(click.Command):
    """Takes what follows ``--`` as the application's command line, whether there is a FILE or not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_APPLICATION], args = args[at + 1 :], args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- APP COMMAND...]"]


@agent.command("run", cls=_WithApplication)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--join",
    envvar="BUSMESH_JOIN",
    metavar="TOKEN-FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Join token, where the home has none.  [env: BUSMESH_JOIN]",
)
@_setting_options
@context_options
@log_option("info")
@click.pass_context
def run_command(
    here: click.Context, /, file: Path | None, join: Path | None, context: Context, **flags: str | None
) -> int:
    """Run the agent that FILE defines; flag > environment > file > default.

    With `-- COMMAND` the agent starts the application when it is ready itself, keeps outbound open until
    it has ended, and ends with its status. One JSON line on stdout says when it is ready. SIGTERM drains.

    \b
    Examples:
      busmesh agent run agents/orders-v1.yaml
      busmesh agent run agents/web.yaml -- python -m busmesh.demo.shop web --port 9101
      busmesh agent run --service probe --outbound 127.0.0.1:0
    """
    definition = load_definition(file, os.environ, flags)
    made = build_agent(definition, context, join)
    runner = Runner(made, here.meta.get(_APPLICATION, ()))
    home = context.home.agent(made.instance)

    async def main() -> int:
        with stop_signals(last_words=runner.kill_child) as stop:
            return await runner.run(stop)

    with home.claimed():
        return run(main())


@agent.command("worker", hidden=True)
@click.argument("descriptor", type=int)
@log_option("info")
def worker_command(descriptor: int) -> None:
    """Be one more process of an agent; started by it alone."""
    run(serve(descriptor))


def build_agent(definition: AgentDefinition, context: Context, join: Path | None) -> Agent:
    """Make an agent from its definition and what the command line and the home say about bus and mesh."""
    instance = definition.instance or generated_instance(definition.name.name)
    context = _with_definition(definition, context)
    if join is not None:
        context = with_ticket(context, join, definition, context.home.agent(instance))
    subjects = Subjects(context.mesh)
    bus = Bus(context.bus_options(f"busmesh agent {instance}", subjects.inbox_prefix(instance)))

    def ticket() -> JoinTicket:
        return read_join_ticket(join) if join is not None else context.home.join_ticket()

    return Agent(
        definition,
        mesh=context.mesh,
        bus=bus,
        home=context.home.agent(instance),
        ticket=ticket,
        instance=instance,
    )


def _given() -> set[str]:
    """Return which of the options about bus and mesh a flag or the environment set."""
    here = click.get_current_context(silent=True)
    if here is None:
        return set()
    sources = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)
    names = ("bus", "mesh", "creds", "nkey", "tls_ca")
    return {name for name in names if here.get_parameter_source(name) in sources}


def with_ticket(context: Context, join: Path, definition: AgentDefinition, home: AgentHome) -> Context:
    """Let the file of the join token say bus, mesh and whom to trust, where nothing nearer did.

    A file that cannot be read is no error yet: an agent that is enrolled already does without.
    """
    try:
        ticket = read_join_ticket(join)
    except BusmeshError:
        return context
    given = _given()
    if "mesh" not in given and not definition.mesh:
        context = dataclasses.replace(context, mesh=ticket.token.mesh)
    if ticket.bus and "bus" not in given and not definition.bus.url:
        tls_ca = context.tls_ca if "tls_ca" in given or definition.bus.tls_ca else None
        if ticket.roots and tls_ca is None:
            tls_ca = home.save_bus_roots(ticket.roots)
        context = dataclasses.replace(context, servers=servers_of(ticket.bus), tls_ca=tls_ca)
    return context


def _with_definition(definition: AgentDefinition, context: Context) -> Context:
    """Let the file say bus and mesh, where neither flag nor environment did."""
    given = _given()

    def path(text: str, name: str, other: Path | None) -> Path | None:
        return Path(text).expanduser() if text and name not in given else other

    login = definition.bus
    return resolve(
        context.home.path,
        context.bus_url if "bus" in given or not login.url else login.url,
        context.mesh if "mesh" in given or not definition.mesh else definition.mesh,
        creds=path(login.creds, "creds", context.credentials),
        nkey=path(login.nkey, "nkey", context.nkey),
        tls_ca=path(login.tls_ca, "tls_ca", context.tls_ca),
    )
