"""``busmesh telemetry``: subscribe and print."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

import click

from busmesh.cli.context import Context, connected, context_options, run
from busmesh.cli.duration import Duration
from busmesh.cli.logs import log_option
from busmesh.cli.oneline import lines_of
from busmesh.cli.output import Output, output_option
from busmesh.errors import BusmeshError
from busmesh.operator.listen import listener, subject_of
from busmesh.yamlfile import write_yaml


@click.command()
@click.argument("pattern", required=False)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option("--timeout", type=Duration(), metavar="DURATION", help="End after this time.")
@output_option
@context_options
@log_option()
def telemetry(
    pattern: str | None, count: int | None, timeout: float | None, output: Output, context: Context
) -> None:
    """Subscribe to telemetry and print it, until Ctrl-C.

    PATTERN is a signal (metrics, traces, access, events), or a subject with wildcards below
    `busmesh.<mesh>.telemetry`: SIGNAL.NAMESPACE.SERVICE.INSTANCE. On a terminal each message becomes lines
    for people, and none for an agent without requests (-o wide: also of these); piped, one line of JSON. Ends
    with 1 if --timeout comes before --count is reached.

    \b
    Examples:
      busmesh telemetry access
      busmesh telemetry 'metrics.default.orders.*'
      busmesh telemetry events --count 1 --timeout 10s
    """
    subject = subject_of(context.subjects, pattern)
    run(_print(context, subject, count, timeout, output))


async def _print(
    context: Context, subject: str, count: int | None, timeout: float | None, output: Output
) -> None:
    printed = unreadable = 0
    async with connected(context) as bus, listener(bus, subject) as heard:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while count is None or printed < count:
                    where, payload = await heard.next()
                    text = shown(where, payload, output)
                    if text is None:
                        unreadable += 1
                        continue
                    if text:
                        click.echo(text)
                        sys.stdout.flush()
                        printed += 1
        dropped = heard.dropped
    for number, what in (
        (unreadable, "were no JSON objects"),
        (dropped, "came faster than they were printed"),
    ):
        if number:
            click.echo(f"warning: {number} messages {what} and were left out", err=True)
    if count is not None and printed < count:
        raise BusmeshError(
            f"{printed} of {count} messages came in time", code="BM2308", hint="busmesh instances"
        )


def shown(subject: str, payload: bytes, output: Output) -> str | None:
    """Return what is printed of a message; None if it is no JSON object, or deeper than can be written."""
    try:
        message = json.loads(payload)
        return _text(subject, message, output) if isinstance(message, dict) else None
    except (ValueError, RecursionError):
        return None


def _text(subject: str, message: dict[str, Any], output: Output) -> str:
    if output is Output.JSON:
        # Written anew: whatever came is one line, without a character that a terminal would obey.
        return json.dumps(message, separators=(",", ":"))
    if output is Output.YAML:
        return f"---\n{write_yaml(message)}".removesuffix("\n")
    return "\n".join(lines_of(subject, message, wide=output is Output.WIDE))
