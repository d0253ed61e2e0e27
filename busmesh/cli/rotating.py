"""``busmesh identity rotate`` and ``drill``: keys are replaced while requests go on."""

from __future__ import annotations

import time

import click

from busmesh.bus.policylog import PolicyLog
from busmesh.cli.context import Context, context_options, run
from busmesh.cli.duration import Duration
from busmesh.cli.heard import tell, tell_waiting
from busmesh.cli.logs import log_option
from busmesh.cli.operator import Desk, desk, operator_option, operator_svid
from busmesh.cli.output import Column, Output, output_option, show
from busmesh.errors import BusmeshError
from busmesh.identity.drill import seal_drill
from busmesh.identity.trustlog import seal_bundle, seal_revocation
from busmesh.operator.drilling import DrillProgress
from busmesh.operator.history import read_history
from busmesh.operator.rollcall import call_roll
from busmesh.operator.rotation import Position, Rotation, Step
from busmesh.operator.trusting import Heard, confirmed, publish_entry, read_trust
from busmesh.operator.wording import counted

_WAIT = click.option(
    "--wait",
    type=Duration(),
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="For the agents, before each step at most.",
)


@click.command()
@click.option("--drill", is_flag=True, help="Say what would be done, and whether the agents are ready.")
@click.option("--step", "single", is_flag=True, help="Do one step only.")
@click.option(
    "--agents",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="So many agents must answer before each step.",
)
@_WAIT
@context_options
@log_option()
def rotate(context: Context, drill: bool, single: bool, agents: int, wait: float) -> int:
    """Replace the root of the mesh: add the next one, switch to it, remove the old one. No request notices.

    It runs in the home of the authority. Before each step every agent that answers must have done the one
    before; if one has not in time, it ends with 1, and the same command goes on from there. Agents that are
    away meanwhile join anew with their join tokens.

    \b
    Examples:
      busmesh identity rotate --drill
      busmesh identity rotate
      busmesh identity rotate --step --wait 5m
    """
    return run(_rotate(context, drill=drill, single=single, agents=agents, wait=wait))


async def _rotate(context: Context, *, drill: bool, single: bool, agents: int, wait: float) -> int:
    rotation = Rotation(context.home, context.mesh)
    async with desk(context) as place:
        view = await read_trust(place.bus, place.subjects, place.verifier)
        newer = place.verifier.bundle.version - rotation.bundle.version
        if newer > 0:
            raise BusmeshError(
                f"the mesh is {counted(newer, 'bundle', 'bundles')} ahead of this home",
                code="BM4131",
                hint="the root was rotated in another home: rotate there, or copy its ca/ and trust.crt here",
            )
        if drill:
            return await _drill(place, rotation, agents)
        if rotation.bundle.version > 1 and rotation.bundle.version not in view.versions:
            await _publish(place, rotation)  # it was interrupted in between
        return await _steps(place, rotation, single=single, agents=agents, wait=wait)


async def _drill(place: Desk, rotation: Rotation, agents: int) -> int:
    where = rotation.home_position()
    steps = list(Step)[list(Step).index(where.step) :] if where.step is not None else []
    click.echo("a rotation is under way; next:" if where.under_way else "no rotation is under way; it would:")
    for step in steps:
        click.echo(f"  {step.value}")
    if where.step is None:
        click.echo("  destroy the key of the root that was removed")
    heard = await _ready(place, rotation, where, agents, wait=0.0)
    return tell(heard, "stand ready for the next step" if steps else "hold the bundle", 0.0)


async def _steps(place: Desk, rotation: Rotation, *, single: bool, agents: int, wait: float) -> int:
    while True:
        where = rotation.home_position()
        heard = await _ready(place, rotation, where, agents, wait=wait)
        what = f"hold trust bundle {rotation.bundle.version}"
        if where.step is Step.REMOVE:
            what += " and an SVID of the root that issues"
        if tell(heard, what, wait):
            return 1
        if heard.agents < agents:
            click.echo(f"only {heard.agents} agents answer, not {agents}", err=True)
            return 1
        if where.step is None:
            rotation.tidy()
            click.echo("done: the key of the old root is destroyed")
            return 0
        click.echo(f"step {list(Step).index(where.step) + 1} of 3: {where.step.value}")
        await _do(place, rotation, where.step)
        if single:
            click.echo("go on with: busmesh identity rotate")
            return 0


async def _ready(place: Desk, rotation: Rotation, where: Position, agents: int, *, wait: float) -> Heard:
    return await confirmed(
        place.bus,
        place.subjects,
        place.verifier,
        lambda member, shown: rotation.done_before(where.step, member, shown),
        wait=wait,
        agents=agents,
        waiting=tell_waiting,
    )


async def _do(place: Desk, rotation: Rotation, step: Step) -> None:
    through, digest = 0, ""
    if step is Step.REMOVE:
        for each in place.verifier.revocations:  # their signers' root is about to go
            await _append(place, seal_revocation(rotation.root, each, time.time()))
        current = (await read_history(PolicyLog(place.bus, place.subjects), place.verifier)).current
        through, digest = current.number, current.digest
    rotation.take(step, through=through, digest=digest)
    await _publish(place, rotation)


async def _publish(place: Desk, rotation: Rotation) -> None:
    entry = seal_bundle(rotation.root, rotation.bundle, time.time())
    await _append(place, entry)
    place.verifier.trust(rotation.bundle)


async def _append(place: Desk, entry: bytes) -> None:
    async with place.writer() as logs:
        await publish_entry(logs, place.subjects, entry)


# -- the drill ----------------------------------------------------------------------------------------

_DRILLED = (
    Column("INSTANCE", "instance"),
    Column("SERVICE", "service"),
    Column("SERIAL", lambda row: row["serial"][:12]),
    Column("AFTER", lambda row: "" if row["after_s"] is None else f"{row['after_s']:.1f}s", right=True),
    Column("STATE", "state", style=lambda row: "" if row["state"] == "renewed" else "yellow"),
)


@click.command()
@click.option(
    "--spread",
    type=Duration(),
    default="2s",
    show_default=True,
    metavar="DURATION",
    help="Over which the agents spread their renewals: an authority does 500 a second.",
)
@_WAIT
@operator_option
@output_option
@context_options
@log_option()
def drill(context: Context, output: Output, operator: str | None, wait: float, spread: float) -> int:
    """Have every agent fetch a new SVID now, and say who has one.

    On a quiet day it shows whether renewal works: authority, clocks, bus, keys on disk. No request notices.
    Ends with 1 if an agent that answered before still shows its old SVID, or does not answer any more.

    \b
    Examples:
      busmesh identity drill
      busmesh identity drill --spread 5m --wait 6m
    """
    return run(_run_drill(context, output, operator, spread=spread, wait=wait))


async def _run_drill(
    context: Context, output: Output, operator: str | None, *, spread: float, wait: float
) -> int:
    signer = operator_svid(context, operator)
    async with desk(context) as place:
        before = await call_roll(place.bus, place.subjects, place.verifier)
        progress = DrillProgress(before.certificates, time.monotonic())
        place.bus.publish(place.subjects.drill, seal_drill(signer, spread, time.time()))
        heard = await confirmed(
            place.bus,
            place.subjects,
            place.verifier,
            lambda member, shown: progress.note(member, shown, time.monotonic()),
            wait=wait,
            agents=len(before.members),
            waiting=tell_waiting,
        )
    show(progress.rows(), _DRILLED, output, empty="no agent answers")
    left = len(progress.lacking)
    said = (
        f"{counted(len(progress.renewed), 'agent', 'agents')} fetched a new SVID, after {heard.waited:.1f} s"
    )
    click.echo(said if not left else f"{said}; {left} did not", err=True)
    return int(left > 0)
