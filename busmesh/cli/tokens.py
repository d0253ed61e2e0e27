"""``busmesh identity token``: whom a join token lets in, for how long, and that it does so no more."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from busmesh.authority.joining import (
    Scope,
    check_home,
    draft_token,
    find,
    narrowed,
    own_token,
    remember_login,
    withdraw,
)
from busmesh.cli.context import home_option, mesh_option, resolve, servers_of
from busmesh.cli.duration import DurationOrNever
from busmesh.cli.figures import age, rfc3339
from busmesh.cli.logs import log_option
from busmesh.cli.output import Column, Output, output_option, show, tell_person
from busmesh.errors import InvalidName, UsageError
from busmesh.identity.jointoken import Grant, pattern
from busmesh.identity.store import Home, save_join_token
from busmesh.identity.ticket import JoinTicket
from busmesh.names import DEFAULT_NAMESPACE

#: As kubeadm's: long enough to start what is being set up, short enough to be forgotten in a chat.
DEFAULT_EXPIRES = "24h"
_STDOUT = Path("-")
_MAX_DESCRIPTION = 128

_COLUMNS = (
    Column("TOKEN", "token"),
    Column("SERVICE", "service"),
    Column("NAMESPACE", "namespace"),
    Column("AGE", lambda row: age(row["age_s"]), right=True),
    Column("EXPIRES", lambda row: "never" if row["expires"] is None else age(row["left_s"]), right=True),
    Column("AT", lambda row: row["expires"] or "", wide=True),
    Column("STATE", "state", style=lambda row: "" if row["state"] == "valid" else "yellow"),
    Column(
        "DESCRIPTION", lambda row: row["description"] + (" (this home's)" if row["own"] else ""), wrap=True
    ),
)

_namespace_option = click.option("--namespace", metavar="PATTERN", help="Any service of these namespaces.")


@click.group("token")
def token() -> None:
    """Join tokens: who may become a member."""


@token.command("create")
@click.argument("service", required=False)
@_namespace_option
@click.option(
    "--expires",
    type=DurationOrNever(1.0, "nobody could use it"),
    default=DEFAULT_EXPIRES,
    show_default=True,
    metavar="DURATION|never",
    help="How long it lets newcomers in.",
)
@click.option("--description", default="", metavar="TEXT", help="For whom it is; shown by `list`.")
@click.option(
    "--bus", metavar="URL[,URL]", help="How the newcomer reaches the bus.  [default: as the home knows it]"
)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Write it there; - for stdout.  [default: tokens/TOKEN in the home]",
)
@mesh_option
@home_option
@log_option()
def create(
    service: str | None,
    namespace: str | None,
    expires: float,
    description: str,
    bus: str | None,
    file: Path | None,
    mesh: str | None,
    home: Path | None,
) -> None:
    """Make a join token for SERVICE, NAME or NAME.NAMESPACE, in which * stands for anything.

    Its file holds all that another machine needs: the token, where the bus is, what vouches for it and, on a
    locked bus, the login of a newcomer. Who has it may become an instance of SERVICE and nothing else, until
    it expires or is deleted; who has joined renews by itself and needs it no more.

    Run it in the home of the authority; one that runs heeds it within a second.

    \b
    Examples:
      busmesh identity token create orders
      busmesh identity token create orders.shop --expires 1h --file orders.token
      busmesh identity token create --namespace shop --expires never --description "the shop's machines"
      busmesh identity token create orders --file - | ssh HOST 'umask 077; cat > join-token'
    """
    context = resolve(home, mesh=mesh)
    now = time.time()
    scope = Scope(*_scope(service, namespace), None if expires == math.inf else now + expires)
    where = ",".join(servers_of(bus)) if bus else ""
    grant, ticket = draft_token(
        context.home, context.mesh, scope, now, description=_described(description), bus=where
    )
    if file == _STDOUT:
        context.home.save_grant(grant)
        click.echo(ticket.reveal())
        return
    if file is None:
        file = context.home.save_ticket(ticket)
    else:
        _save(file, ticket)
    context.home.save_grant(grant)  # last: who has a file may use it
    made = {"token": grant.token.id, "file": str(file.absolute()), "bus": ticket.bus or None}
    click.echo(json.dumps(made | _allows(grant)))
    tell_person(
        "",
        f"Copy it to the other machine (`scp -p` keeps its mode), and start the agent there:  {file}",
        "",
        f"  busmesh agent run FILE --join {file.name}",
        "",
    )


@token.command("list")
@output_option
@mesh_option
@home_option
@log_option()
def list_command(output: Output, mesh: str | None, home: Path | None) -> None:
    """List the join tokens: whom each lets in, its age and its end; never what is secret in it.

    \b
    Examples:
      busmesh identity token list
      busmesh identity token list -o json
    """
    context = resolve(home, mesh=mesh)
    check_home(context.home, context.mesh)
    show(_rows(context.home, time.time()), _COLUMNS, output, empty="there is no join token")


@token.command("narrow")
@click.argument("token_id", metavar="TOKEN")
@click.argument("service", required=False)
@_namespace_option
@click.option(
    "--expires", type=DurationOrNever(0.0), metavar="DURATION", help="From now on.  [default: as it is]"
)
@mesh_option
@home_option
@log_option()
def narrow(
    token_id: str,
    service: str | None,
    namespace: str | None,
    expires: float | None,
    mesh: str | None,
    home: Path | None,
) -> None:
    """Let TOKEN allow less than it does, wherever its file is by now.

    The token that a home begins with lets in any service, for ever: narrow it once the mesh is set up.

    \b
    Examples:
      busmesh identity token narrow 5f0c21aa orders
      busmesh identity token narrow 5f0c21aa --namespace shop --expires 1h
    """
    context = resolve(home, mesh=mesh)
    check_home(context.home, context.mesh)
    grant = find(context.home, token_id)
    asked: tuple[str | None, str | None] = (None, None)
    if service is not None or namespace is not None:
        asked = _scope(service, namespace)
    elif expires is None:
        raise UsageError("narrower in what?", code="BM4214", hint="name SERVICE, --namespace or --expires")
    now = time.time()
    until = None if expires is None or expires == math.inf else now + expires
    made = narrowed(grant, *asked, until)
    remember_login(context.home, grant, now)
    context.home.save_grant(made)
    click.echo(json.dumps({"token": made.token.id} | _allows(made)))


@token.command("delete")
@click.argument("token_ids", metavar="TOKEN...", nargs=-1)
@click.option("--expired", is_flag=True, help="Also those that let nobody in any more.")
@mesh_option
@home_option
@log_option()
def delete(token_ids: Sequence[str], expired: bool, mesh: str | None, home: Path | None) -> None:
    """Withdraw TOKEN: nobody joins with it any more, wherever its file is.

    An authority that runs refuses it within a second; of several, each by its own home. Who has joined stays:
    `busmesh identity revoke` shuts out. The home's own token is replaced by another one.

    \b
    Examples:
      busmesh identity token delete 5f0c21aa
      busmesh identity token delete --expired
    """
    context = resolve(home, mesh=mesh)
    check_home(context.home, context.mesh)
    now = time.time()
    chosen = {token_id: find(context.home, token_id) for token_id in token_ids}
    if expired:
        chosen |= {name: grant for name, grant in context.home.grants().items() if grant.over(now)}
    elif not chosen:
        raise UsageError("which one?", code="BM4214", hint="busmesh identity token list; or --expired")
    for name, grant in chosen.items():
        replacement = withdraw(context.home, grant, now)
        click.echo(f"{name} is withdrawn: nobody joins with it any more")
        if replacement is not None:
            path = context.home.path / "join-token"
            click.echo(f"it was this home's own: {path} holds {replacement.token.id} now", err=True)


def _scope(service: str | None, namespace: str | None) -> tuple[str, str]:
    """Return the patterns of service and namespace that are asked for.

    Raises:
        UsageError: none is, or the namespace twice (code BM4214).
        InvalidName: what is no pattern (code BM4211).
    """
    if service is None:
        if namespace is None:
            raise UsageError(
                "a join token is for somebody",
                code="BM4214",
                hint="name SERVICE, or --namespace NAME for all of it, or --namespace '*' for any service",
            )
        return "*", pattern(namespace, "namespace")
    name, dot, within = service.partition(".")
    if dot and namespace is not None:
        raise UsageError(f"{service[:80]} names a namespace, and so does --namespace", code="BM4214")
    return pattern(name, "service"), pattern(within if dot else namespace or DEFAULT_NAMESPACE, "namespace")


def _save(file: Path, ticket: JoinTicket) -> None:
    try:
        save_join_token(file, ticket)
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}",
            code="BM4215",
            hint="name a file in a folder that exists: --file",
        ) from None


def _described(text: str) -> str:
    if len(text) > _MAX_DESCRIPTION or not text.isprintable():
        raise InvalidName(
            f"a description has at most {_MAX_DESCRIPTION} characters on one line", code="BM4211"
        )
    return text


def _allows(grant: Grant) -> dict[str, Any]:
    return {
        "service": grant.service,
        "namespace": grant.namespace,
        "expires": None if grant.expires is None else rfc3339(grant.expires),
    }


def _rows(home: Home, now: float) -> list[dict[str, Any]]:
    own = own_token(home)
    return [
        {
            "token": name,
            **_allows(grant),
            "age_s": None if grant.created is None else round(max(0.0, now - grant.created)),
            "left_s": None if grant.expires is None else round(max(0.0, grant.expires - now)),
            "state": "expired" if grant.over(now) else "valid",
            "own": name == own,
            "description": grant.description,
        }
        for name, grant in sorted(home.grants().items(), key=lambda item: item[1].created or 0.0)
    ]
