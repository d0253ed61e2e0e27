"""``busmesh check``: what is wrong with the mesh, and what to do about it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence

import click

from busmesh.bus.bus import Bus
from busmesh.cli.context import Context, context_options, run
from busmesh.cli.duration import Duration
from busmesh.cli.logs import log_option
from busmesh.cli.operator import home_verifier
from busmesh.cli.output import Output, output_option, show
from busmesh.cli.text import printable, redact
from busmesh.errors import BusmeshError
from busmesh.identity.verify import Verifier
from busmesh.operator.checkup import Checkup
from busmesh.operator.diagnosis.verdict import Check, Verdict, broken
from busmesh.operator.wording import counted

_AGAIN_S = 1.0
_COLOURS: Mapping[Verdict, str] = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "red"}
#: As ``linkerd check`` has them; the second ones for a terminal that knows no others.
_SIGNS: Mapping[Verdict, tuple[str, str]] = {
    Verdict.OK: ("√", "ok  "),
    Verdict.WARNING: ("‼", "warn"),
    Verdict.FAILED: ("×", "FAIL"),
}


@click.command()
@click.option(
    "--wait",
    type=Duration(),
    default="0s",
    metavar="DURATION",
    help="Look again until nothing has failed, for so long.  [default: look once]",
)
@output_option
@context_options
@log_option()
def check(context: Context, wait: float, output: Output) -> int:
    """Say what is wrong with the mesh, and what to do about it.

    It looks at the home's own identity and login, the bus and its logs, the authority, clocks, agents, and
    whether the policies are in force everywhere; within seconds, whatever is down. Ends with 1 if anything
    has failed; a warning is for somebody to look at. An operator's login does, and an observer's.

    \b
    Examples:
      busmesh check
      busmesh check --wait 30s
      busmesh check -o json
    """
    return run(_check(context, wait, output))


async def _check(context: Context, wait: float, output: Output) -> int:
    until = time.monotonic() + wait
    while True:
        checks = await _look(context)
        bad = any(each.verdict is Verdict.FAILED for each in checks)
        if not bad or time.monotonic() + _AGAIN_S >= until:
            break
        await asyncio.sleep(_AGAIN_S)
    if output in (Output.TABLE, Output.WIDE):
        _tell(checks)
    else:
        show([_row(each) for each in checks], (), output)
    return int(bad)


async def _look(context: Context) -> list[Check]:
    verifier: Verifier | BusmeshError
    try:
        verifier = home_verifier(context)
    except BusmeshError as error:
        verifier = error
    try:
        bus = Bus(context.desk_options("busmesh-check"))
    except BusmeshError as error:  # the login in the home is of no use
        return [broken("home", error)]
    return await Checkup(context.home, context.subjects, verifier, bus).run()


def _row(check: Check) -> dict[str, str]:
    return {
        "group": check.group,
        "state": str(check.verdict),
        "text": check.text,
        "hint": check.hint,
        "code": check.code,
    }


def _tell(checks: Sequence[Check]) -> None:
    """Print what was found as people read it: by groups, what is wrong with what mends it."""
    plain = not _encodes("".join(sign for sign, _ in _SIGNS.values()))
    group = ""
    for each in checks:
        if each.group != group:
            click.echo(("\n" if group else "") + click.style(each.group, bold=True))
            group = each.group
        sign = click.style(_SIGNS[each.verdict][plain], fg=_COLOURS[each.verdict])
        click.echo(f"  {sign} {_line(f'{each.code} {each.text}' if each.code else each.text)}")
        for line in each.hint.splitlines():
            click.echo(f"      -> {_line(line)}")
    numbers = {verdict: sum(each.verdict is verdict for each in checks) for verdict in Verdict}
    if numbers[Verdict.FAILED]:
        said = f"{numbers[Verdict.FAILED]} failed, {counted(numbers[Verdict.WARNING], 'warning', 'warnings')}"
    elif numbers[Verdict.WARNING]:
        said = f"nothing failed, {counted(numbers[Verdict.WARNING], 'warning', 'warnings')}"
    else:
        said = "all is well"
    click.echo(f"\n{said}")


def _encodes(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _line(text: str) -> str:
    return printable(redact(text))
