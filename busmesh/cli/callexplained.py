"""What an agent says of one request, written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from busmesh.cli.explained import tell
from busmesh.cli.output import Column, Output, show
from busmesh.cli.text import printable
from busmesh.relay.application.call import AppFailure, AppResponse

_CANDIDATES = (
    Column("", "mark"),
    Column("INSTANCE", "instance", style=lambda row: "green" if row["mark"] else ""),
    Column("WEIGHT", "weight", right=True),
    Column("LOCALITY", "locality"),
    Column("STATE", "state"),
    Column("HELD", "held"),
    Column("ACTIVE", "active", right=True),
    Column("SHARE", lambda row: f"{row['share']:g}%", right=True),
    Column("WHY", "why", wrap=True),
)


def tell_call(found: Mapping[str, Any], result: AppResponse | AppFailure, output: Output) -> None:
    """Print how a request went.

    Args:
        found: what the agent wrote down.
        result: what came back.
        output: the format.
    """
    status = 0 if isinstance(result, AppFailure) else result.status
    if output in (Output.JSON, Output.YAML):
        show([{**found, "status": status}], (), output)
        return
    explanation = found.get("explanation")
    if explanation is None:
        click.echo(f"answered {status}: the request names no service")
        return
    tell(explanation, instances=False)
    if found["rule"] is not None and found["rule"] != (explanation["taken"] or {}).get("rule"):
        click.echo(f"\nwhen it was sent, by an earlier revision, rule {printable(found['rule'])} was taken")
    for number, one in enumerate(found["tries"], start=1):
        _tell_try(number, one)
    destination = found["destination"]
    if destination is not None:
        click.echo(
            f"\n{destination['destination']} now: {destination['active']} under way,"
            f" {destination['pending']} wait, breaker {destination['breaker'] or 'none'}"
        )
    click.echo(f"\nanswered {status}" + (f", {found['flags']}" if found["flags"] else ""))


def _tell_try(number: int, one: Mapping[str, Any]) -> None:
    how = f"{one['status']} {one['flags']}".strip()
    line = f"try {number}: {one['destination']}, {one['instance']} answered {how} in {one['ms']:g} ms"
    click.echo(f"\n{printable(line)}")
    click.echo(f"chosen: {printable(one['why'])}")
    rows = [
        {**candidate, "mark": "*" if candidate["instance"] == one["instance"] else ""}
        for candidate in one["candidates"]
    ]
    show(rows, _CANDIDATES, Output.TABLE)
