"""``busmesh authority run``: the authority on a bus of yours."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

import click

from busmesh.agent.logkeeper import LogKeeper
from busmesh.authority.authority import Authority
from busmesh.authority.founding import check, found, operator_name
from busmesh.authority.locking import accounts_login, authority_login
from busmesh.bus.bus import Bus
from busmesh.bus.login import Login
from busmesh.cli.context import Context, context_options, run
from busmesh.cli.duration import Duration
from busmesh.cli.logs import log_option
from busmesh.cli.output import ready
from busmesh.cli.signals import stop_signals, unless_stopped
from busmesh.cli.text import redact
from busmesh.errors import NotFound
from busmesh.identity import store
from busmesh.identity.store import AgentHome

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])

#: A bus that is not there yet is worth a line in the log after this long.
SAY_WAITING_S = 3.0
_MIN_LIFETIME_S = 5.0


def authority_options(command: F) -> F:
    """Give a command what every authority can be told: ``operator`` and ``svid_lifetime`` (seconds)."""
    for option in (
        click.option(
            "--svid-lifetime",
            envvar="BUSMESH_SVID_LIFETIME",
            type=Duration(_MIN_LIFETIME_S, "nobody would renew in time"),
            help="How long an SVID of a workload is valid.  [env: BUSMESH_SVID_LIFETIME; default: 1h]",
        ),
        click.option(
            "--operator",
            envvar="BUSMESH_OPERATOR",
            metavar="NAME",
            help="Who signs policies, if nobody does yet.  [env: BUSMESH_OPERATOR; default: your user name]",
        ),
    ):
        command = option(command)
    return command


@click.group()
def authority() -> None:
    """The authority of the mesh: it says who is a member."""


@authority.command("run")
@click.option("--name", metavar="NAME", help="The authority's own name.  [default: this machine's name]")
@click.option("--no-create", is_flag=True, help="Fail if the home has no root, instead of making one.")
@authority_options
@context_options
@log_option("info")
def run_command(
    context: Context, name: str | None, no_create: bool, operator: str | None, svid_lifetime: float | None
) -> None:
    """Run the authority in the foreground, on the bus that --bus names.

    At its first start it founds the mesh in --home: root, trust bundle, an operator's identity, a join token.
    One JSON line on stdout says when it is ready. SIGTERM ends it, SIGHUP reads roots and grants again.

    \b
    Examples:
      busmesh authority run --bus nats://127.0.0.1:4222
      busmesh authority run --bus tls://nats.example.org --creds authority.creds --home /var/lib/busmesh
    """
    if no_create:
        check(context.home, context.mesh)
    else:
        found(context.home, context.mesh, operator or operator_name(), time.time())
        keep_context(context, replace=False)
    run(_serve(context, name, svid_lifetime))


async def _serve(context: Context, name: str | None, lifetime_s: float | None) -> None:
    buses, made = build_authority(context, name, lifetime_s)
    with stop_signals(on_reload=made.reload) as stop:
        try:
            if await unless_stopped(stop, connect(buses)):
                await made.start()
                ready(mesh=context.mesh, bus=context.bus_url, **places(context))
                await stop.wait()
        finally:
            await made.stop()
            await close(buses)


def build_authority(
    context: Context, name: str | None = None, lifetime_s: float | None = None
) -> tuple[list[Bus], Authority]:
    """Make the authority of the mesh that ``context`` names, with its connections, none of them started.

    It has one, and on a locked bus a second one, to the account of the logs.
    """
    name = name or machine_name()
    options = context.bus_options(f"busmesh authority {name}", context.subjects.role_inbox("authority", name))
    login = partial(authority_login, context.home, context.mesh, name)
    bus = logs = Bus(dataclasses.replace(options, login=Login(read=login)))
    locked = login() is not None
    if locked and context.credentials is None and context.nkey is None:
        writing = Login(read=lambda: None if (held := login()) is None else held.writing)
        logs = Bus(dataclasses.replace(options, name=f"{options.name} (logs)", login=writing))
    made = Authority(bus, context.home, context.mesh, name=name, logs=logs, lifetime_s=lifetime_s)
    if locked:
        system = Login(read=partial(accounts_login, context.home, context.mesh, name))
        made.shut_outs.system = Bus(
            dataclasses.replace(
                options, name=f"{options.name} (accounts)", login=system, credentials=None, nkey=None
            )
        )
        copy = AgentHome(context.home.path / "ca")
        made.accompany(LogKeeper(logs, context.subjects, copy, made.verifier, Random()))
    return [bus] if logs is bus else [bus, logs], made


async def connect(buses: Sequence[Bus]) -> None:
    """Connect, however long it takes, and say so if it takes long.

    Raises:
        Denied: the bus refused a login.
    """
    where = redact(", ".join(buses[0].options.servers))
    waiting = asyncio.get_running_loop().call_later(
        SAY_WAITING_S, log.warning, "no answer from the bus at %s yet; trying on", where
    )
    try:
        for bus in buses:
            await bus.connect()
    finally:
        waiting.cancel()


async def close(buses: Sequence[Bus]) -> None:
    """End the connections."""
    for bus in buses:
        await bus.close()


def keep_context(context: Context, *, replace: bool) -> None:
    """Let other commands of this home find the bus and the mesh without flags."""
    if not replace:
        try:
            context.home.context()
        except NotFound:
            pass
        else:
            return
    tls_ca = context.tls_ca.name if context.tls_ca == context.home.path / store.TRUST else ""
    context.home.save_context(store.Context(context.bus_url, context.mesh, tls_ca))


def places(context: Context) -> dict[str, str]:
    """Return where a script finds what it needs to join the mesh."""
    home = context.home.path.absolute()
    return {"home": str(home), "join_token_file": str(home / "join-token")}


def machine_name() -> str:
    """Return this machine's name as part of a SPIFFE ID."""
    label = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().partition(".")[0].lower())[:63].strip("-")
    return label or "authority"
