"""``busmesh identity``: who is believed, for how long, and how that is changed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from busmesh.authority.locking import hand_out, operator_credentials
from busmesh.authority.logins import Logins
from busmesh.cli.context import Context, context_options, run
from busmesh.cli.duration import Duration
from busmesh.cli.figures import age, rfc3339
from busmesh.cli.logs import log_option
from busmesh.cli.operator import Desk, desk
from busmesh.cli.output import Column, Output, output_option, show
from busmesh.cli.revoking import revoke
from busmesh.cli.rotating import drill, rotate
from busmesh.cli.tokens import token as token_group
from busmesh.errors import IdentityError, NotFound, UsageError
from busmesh.identity.alarms import THRESHOLDS, late, threshold
from busmesh.identity.profile import BACKDATE_S
from busmesh.identity.scope import Scope
from busmesh.identity.store import Home
from busmesh.identity.trust import TrustBundle, key_identifier
from busmesh.identity.verify import Verified
from busmesh.members.announcement import Announcement
from busmesh.names import SpiffeId, token
from busmesh.operator.rollcall import call_roll
from busmesh.operator.wording import counted
from busmesh.policy.documents import KINDS

_COLUMNS = (
    Column("WHAT", "what"),
    Column("ID", "id"),
    Column("SERIAL", "serial", wide=True),
    Column("ENDS", lambda row: rfc3339(row["not_after"]) if row["not_after"] else "", wide=True),
    Column("LEFT", lambda row: age(row["left_s"]), right=True),
    Column("TRUST", lambda row: row["trust"] or "", right=True),
    Column("ISSUER", lambda row: row["issuer"][:12]),
    Column("STATE", "state", style=lambda row: "" if row["state"] in ("ok", "issues") else "yellow"),
    Column("REASON", "reason", wrap=True),
)


@click.group()
def identity() -> None:
    """Roots, SVIDs, join tokens and revocations."""


# -- looking ------------------------------------------------------------------------------------------


@identity.command("show")
@output_option
@context_options
@log_option()
def show_command(context: Context, output: Output) -> int:
    """List roots, SVIDs and revocations, and how long each lasts.

    Ends with 1 if something ends soon: a root or operator within 30 days, an agent's SVID past three
    quarters of its life.

    \b
    Examples:
      busmesh identity show
      busmesh identity show -o wide
    """
    return run(_show(context, output))


async def _show(context: Context, output: Output) -> int:
    now = time.time()
    async with desk(context) as place:
        roll = await call_roll(place.bus, place.subjects, place.verifier)
        verifier = place.verifier
    rows = _roots(verifier.bundle, now)
    rows += [_operator(context, name, place, now) for name in context.home.operators()]
    rows += [
        _svid(member, roll.certificates[member.name, member.instance], verifier.bundle, now)
        for member in roll.members
    ]
    rows += [
        _row("revocation", each.target or "any", now, each.until_ms / 1000, state="revoked")
        | {"serial": f"{each.serial:x}" if each.serial else "", "reason": each.reason}
        for each in verifier.revocations
    ]
    show(rows, _COLUMNS, output)
    if roll.dropped:
        what = counted(roll.dropped, "answer", "answers")
        click.echo(f"warning: left out {what} by nobody who is believed", err=True)
    return int(any(row["state"] in ("ends soon", "expired", "not renewed") for row in rows))


def _row(what: str, name: str, now: float, not_after: float | None, *, state: str) -> dict[str, Any]:
    return {
        "what": what,
        "id": name,
        "serial": "",
        "not_after": not_after,
        "left_s": None if not_after is None else round(max(0.0, not_after - now)),
        "trust": None,
        "issuer": "",
        "state": state,
        "reason": "",
    }


def _ends(not_after: float, now: float) -> str:
    if now >= not_after:
        return "expired"
    days = threshold(not_after - now, THRESHOLDS)
    return "ok" if days is None else "ends soon"


def _roots(bundle: TrustBundle, now: float) -> list[dict[str, Any]]:
    rows = []
    for root in bundle.roots:
        name, end = key_identifier(root).hex(), root.not_valid_after_utc.timestamp()
        state = _ends(end, now)
        if state == "ok" and name == bundle.issuer:
            state = "issues"
        rows.append(_row("root", name, now, end, state=state) | {"trust": bundle.version})
    for retired in bundle.retired:
        row = _row("root", key_identifier(retired.certificate).hex(), now, None, state="retired")
        rows.append(row | {"reason": f"vouches for policies up to revision {retired.through}"})
    return rows


def _operator(context: Context, name: str, place: Desk, now: float) -> dict[str, Any]:
    try:
        svid = context.home.operator(name)
    except IdentityError as error:
        return _row("operator", name, now, None, state="unusable") | {"reason": error.message}
    row = _row("operator", str(svid.id), now, svid.not_after, state=_ends(svid.not_after, now))
    row |= {"serial": f"{svid.certificate.serial_number:x}", "issuer": svid.issuer}
    try:
        place.verifier.certificate(svid.der, now)
    except IdentityError as error:
        row |= {"state": "refused", "reason": error.message}
    return row


def _svid(member: Announcement, shown: Verified, bundle: TrustBundle, now: float) -> dict[str, Any]:
    behind = member.trust < bundle.version
    overdue = late(shown.not_before + BACKDATE_S, shown.not_after, now)
    state = "not renewed" if overdue else "old trust" if behind else "ok"
    row = _row("svid", str(shown.id), now, shown.not_after, state=state)
    return row | {"serial": f"{shown.serial:x}", "issuer": shown.issuer, "trust": member.trust}


# -- trust and issuing --------------------------------------------------------------------------------


@identity.command()
@context_options
@log_option()
def trust(context: Context) -> int:
    """Bring this home's trust bundle up to date from the trust log, and print it as PEM.

    An operator's home elsewhere needs that after the root was rotated. What is taken is signed by a root that
    the home believes already.

    \b
    Examples:
      busmesh identity trust > trust.crt
    """
    return run(_trust(context))


async def _trust(context: Context) -> int:
    before = context.home.trust(context.mesh)
    async with desk(context) as place:
        bundle = place.verifier.bundle
    if bundle.version > before.version:
        context.home.save_trust(bundle)
        click.echo(f"trust bundle {bundle.version} replaces {before.version}", err=True)
    click.echo(bundle.to_pem().decode(), nl=False)
    return 0


@identity.command()
@click.argument("operator")
@click.option(
    "--lifetime",
    type=Duration(60.0, "it would end before it is of use"),
    help="How long it is valid.  [default: 90d]",
)
@click.option(
    "--namespace", "namespaces", multiple=True, metavar="NAME", help="Of documents; may be repeated."
)
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Of documents; may be repeated.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Home to write it to, for another machine.  [default: this home]",
)
@context_options
@log_option()
def issue(
    context: Context,
    operator: str,
    lifetime: float | None,
    namespaces: tuple[str, ...],
    kinds: tuple[str, ...],
    out: Path | None,
) -> None:
    """Issue an SVID to OPERATOR, who may then publish policies and revoke workloads.

    With --namespace or --kind only those; agents refuse what is out of this scope, whoever is asked for it.
    It needs the root, so it runs in the home of the authority. Workloads join by themselves, by join token.
    With --out the folder is all that another machine needs: copy it there, and name it by --home.

    \b
    Examples:
      busmesh identity issue ann
      busmesh identity issue ann --out ./for-ann
      busmesh identity issue bea --namespace shop --kind Route --kind Destination
    """
    scope = _scope(namespaces, kinds)
    ca = context.home.authority(context.mesh)
    svid = ca.issue_svid(
        SpiffeId(context.mesh, operator=token(operator, "operator")),
        time.time(),
        lifetime_s=lifetime,
        scope=scope,
    )
    place = context.home if out is None else Home(out)
    place.save_operator(svid)
    with contextlib.suppress(NotFound):  # the bus asks nobody for a login
        made = operator_credentials(context.home.bus_accounts(), svid, Logins(context.home.bus_logins))
        place.save_login("operator", operator, made)
    if out is not None:
        hand_out(context.home, context.mesh, place)
    limits = "" if scope.everything else f", {scope}"
    click.echo(f"{svid.id}{limits}, until {rfc3339(svid.not_after)}: {place.path / 'operator'}")


def _scope(namespaces: Collection[str], kinds: Collection[str]) -> Scope:
    """Read what an operator is to be limited to.

    Raises:
        UsageError: a kind that there is not.
    """
    known = {name.lower(): identity for name, (_, _, identity) in KINDS.items()}
    strange = [kind for kind in kinds if kind.lower() not in known]
    if strange:
        raise UsageError(
            f"{strange[0]} is no kind of document", code="BM6010", hint=f"there are {', '.join(KINDS)}"
        )
    return Scope(
        frozenset(token(name, "namespace") for name in namespaces) or None,
        frozenset(known[kind.lower()] for kind in kinds) or None,
    )


identity.add_command(token_group)
identity.add_command(revoke)
identity.add_command(rotate)
identity.add_command(drill)
