"""``busmesh identity revoke``: who counts no more, from this second on."""

from __future__ import annotations

import asyncio
import time

import click

from busmesh.bus.policylog import LogUnavailable, PolicyLog
from busmesh.cli.context import Context, context_options, run
from busmesh.cli.duration import Duration
from busmesh.cli.figures import rfc3339
from busmesh.cli.heard import tell
from busmesh.cli.logs import log_option
from busmesh.cli.operator import desk, operator_option, operator_svid
from busmesh.errors import BusUnavailable
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.profile import Kind
from busmesh.identity.shutout import Outcome, ShutOut
from busmesh.identity.svid import Svid
from busmesh.identity.trustlog import open_entry, seal_revocation
from busmesh.operator.history import read_history
from busmesh.operator.revoke import Target, make_revocation, read_target
from busmesh.operator.rollcall import call_roll
from busmesh.operator.shuttingout import ask_shut_out
from busmesh.operator.trusting import confirmed, publish_entry
from busmesh.operator.wording import counted


@click.command()
@click.argument("target", metavar="SPIFFE-ID|SERIAL")
@click.option("--reason", default="", metavar="TEXT", help="A word for whoever looks later.")
@click.option(
    "--wait",
    type=Duration(),
    default="5s",
    show_default=True,
    metavar="DURATION",
    help="For all agents to say that they heed it.",
)
@operator_option
@context_options
@log_option()
def revoke(context: Context, target: str, reason: str, wait: float, operator: str | None) -> int:
    """Revoke what was issued to an instance, a service or an operator, or one certificate by its number.

    Agents refuse it at once and end the sessions that rest on it; the authority has a locked bus cut it off
    and refuse its login. What is issued later counts, so the true instance is back when its agent is started
    again, from 20 s later on. To keep it out, take its join token away first.

    An operator may revoke workloads. Operators are revoked in the home of the authority, by the root; what
    they published before stays in force.

    \b
    Examples:
      busmesh identity revoke spiffe://local/ns/default/svc/orders/i/orders-0 --reason "key leaked"
      busmesh identity revoke spiffe://local/ns/default/svc/orders
      busmesh identity revoke spiffe://local/operator/ann
      busmesh identity revoke 4f2a91...
    """
    return run(_revoke(context, target, reason, wait, operator))


async def _revoke(context: Context, text: str, reason: str, wait: float, operator: str | None) -> int:
    async with desk(context) as place:
        bus, subjects, verifier = place.bus, place.subjects, place.verifier
        roll = await call_roll(bus, subjects, verifier)
        target = read_target(text, context.mesh, roll.certificates.values())
        signer = _signer(context, target, operator)
        through = 0
        if target.needs_root:
            through = (await read_history(PolicyLog(bus, subjects), verifier)).current.number
        now = time.time()
        revocation = make_revocation(target, now, through=through, reason=reason)
        entry = seal_revocation(signer, revocation, (revocation.at_ms + 0.5) / 1000)
        open_entry(entry, verifier, now)  # as every agent will
        try:
            async with place.writer() as logs:
                await publish_entry(logs, subjects, entry)
        except LogUnavailable as error:
            click.echo(f"warning: {error.message}; agents that hear it give it to the log later", err=True)
        verifier.revocations.add(revocation, now)
        digest = verifier.revocations.digest
        asking = asyncio.create_task(ask_shut_out(bus, subjects, verifier, revocation, wait=wait))
        try:
            heard = await confirmed(bus, subjects, verifier, lambda m, _: m.revocations == digest, wait=wait)
            answers = await asking
        except BusUnavailable:
            if target.kind is not Kind.OPERATOR:
                raise
            click.echo(f"revoked {revocation.name}; the bus has cut off this command, too", err=True)
            click.echo("  -> was it by the login of whom it revoked? busmesh identity show", err=True)
            return 1
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    click.echo(f"revoked {revocation.name}, until {rfc3339(revocation.until_ms / 1000)}")
    return max(tell(heard, "heed it", wait), _tell_shut_out(answers, wait))


def _tell_shut_out(answers: list[ShutOut], wait: float) -> int:
    """Say whether the bus refuses its logins; 1 if it should and does not."""
    if not answers:
        click.echo(
            "warning: no authority answered: on a locked bus its login lasts until one is back, or until the "
            "login ends\n  -> busmesh authority run",
            err=True,
        )
        return 1
    by = {answer.outcome: answer for answer in answers}
    if (failed := by.get(Outcome.FAILED)) is not None:
        click.echo(f"warning: it is not cut off from the bus: {failed.why}", err=True)
    elif Outcome.UNDER_WAY in by:
        click.echo(f"warning: an authority does not say within {wait:g} s that it is cut off", err=True)
    elif Outcome.SHUT_OUT in by:
        logins = sum(answer.logins for answer in answers)
        what = f"refuses {counted(logins, 'login', 'logins')}" if logins else "knows no login of it"
        click.echo(f"cut off from the bus, which {what}")
        return 0
    else:
        click.echo("the bus asks nobody for a login, so it may still connect")
        return 0
    return 1


def _signer(context: Context, target: Target, operator: str | None) -> Svid | CertificateAuthority:
    return context.home.authority(context.mesh) if target.needs_root else operator_svid(context, operator)
