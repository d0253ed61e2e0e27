"""``busmesh services`` and ``busmesh instances``: who is there, and how they are doing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from busmesh.cli.context import Context, context_options, run
from busmesh.cli.figures import age, milliseconds, percent, rate
from busmesh.cli.logs import log_option
from busmesh.cli.operator import Desk, desk
from busmesh.cli.output import Column, Output, Row, output_option, show, show_again, watch_option
from busmesh.errors import NotFound
from busmesh.names import ServiceName
from busmesh.operator.diagnosis.verdict import OTHER_HOME
from busmesh.operator.inventory import instance_rows, service_rows, survey
from busmesh.operator.numbers import Numbers
from busmesh.operator.rollcall import RollCall
from busmesh.operator.wording import counted

F = TypeVar("F", bound=Callable[..., Any])
Make = Callable[[RollCall, Numbers], Sequence[Row]]
_NOBODY = "no agent answers; start one: busmesh agent run FILE"
_STYLES = {"healthy": "green", "starting": "yellow", "draining": "yellow", "unhealthy": "red"}


def _success_style(row: Row) -> str:
    share = row["success"]
    return "" if share is None else "red" if share < 0.95 else "yellow" if share < 0.999 else "green"


def _ready(row: Row) -> str:
    return f"{row['ready']}/{row['instances']}" if row["instances"] else ""


def _ready_style(row: Row) -> str:
    if row["ready"] == row["instances"]:
        return ""
    return "yellow" if row["ready"] else "red"


def _state(row: Row) -> str:
    return str(row["state"]) if row["serves"] else f"{row['state']} (client)"


def _processes(row: Row) -> str:
    return f"{row['processes_ready']}/{row['processes']}" if row["processes"] > 1 else ""


_SIGNALS = (
    Column("SUCCESS", lambda row: percent(row["success"]), right=True, style=_success_style),
    Column("RPS", lambda row: "" if row["success"] is None else rate(row["rps"]), right=True),
    Column("P50", lambda row: milliseconds(row["p50_ms"]), right=True),
    Column("P95", lambda row: milliseconds(row["p95_ms"]), right=True),
    Column("P99", lambda row: milliseconds(row["p99_ms"]), right=True),
)
_SERVICES = (
    Column("NAME", "name"),
    Column("VERSIONS", lambda row: ",".join(row["versions"])),
    Column("READY", _ready, right=True, style=_ready_style),
    *_SIGNALS,
    Column("CLIENTS", lambda row: row["clients"] or "", wide=True, right=True),
)
_INSTANCES = (
    Column("INSTANCE", "instance"),
    Column("SERVICE", "service"),
    Column("VERSION", "version"),
    Column("STATE", _state, style=lambda row: _STYLES.get(row["state"], "")),
    Column("WEIGHT", "weight", right=True),
    Column("REVISION", "revision", right=True),
    *_SIGNALS,
    Column("ACTIVE", "active", wide=True, right=True),
    Column("WORKERS", _processes, wide=True, right=True),
    Column("LABELS", lambda row: ",".join(f"{k}={v}" for k, v in row["labels"].items()), wide=True),
    Column("LOCALITY", "locality", wide=True),
    Column("AGE", lambda row: age(row["age_s"]), wide=True, right=True),
    Column("SOFTWARE", "software", wide=True),
)


def _looking_options(command: F) -> F:
    options = (
        click.option(
            "--metrics/--no-metrics", default=True, help="Listen to a second of metrics.  [default: yes]"
        ),
        watch_option,
        output_option,
        context_options,
        log_option(),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_looking_options
def services(metrics: bool, watch: bool, output: Output, context: Context) -> None:
    """List the services of the mesh, with a second of their traffic.

    READY is how many instances serve. SUCCESS, RPS and the percentiles are what callers saw: tries that ended
    with 500 or more, or without an answer, have failed.

    \b
    Examples:
      busmesh services
      busmesh services --watch
      busmesh services --no-metrics -o json
    """
    run(_look(context, service_rows, _SERVICES, output, metrics=metrics, watch=watch))


@click.command()
@click.argument("service", required=False)
@_looking_options
def instances(service: str | None, metrics: bool, watch: bool, output: Output, context: Context) -> None:
    """List the instances of SERVICE, or all, with a second of what each received.

    \b
    Examples:
      busmesh instances orders
      busmesh instances orders.shop -o wide --watch
    """
    name = None if service is None else ServiceName.parse(service)

    def make(roll: RollCall, numbers: Numbers) -> Sequence[Row]:
        rows = instance_rows(roll.members, numbers, time.time(), service=name)
        if name is not None and not rows and not watch:
            raise NotFound(f"no instance of {name} answers", code="BM2311", hint="busmesh services")
        return rows

    run(_look(context, make, _INSTANCES, output, metrics=metrics, watch=watch))


async def _look(
    context: Context, make: Make, columns: Sequence[Column], output: Output, *, metrics: bool, watch: bool
) -> None:
    async with desk(context) as place:

        async def read() -> Sequence[Row]:
            return make(*await _survey(place, metrics=metrics))

        if watch:
            # With metrics, looking takes a second by itself.
            await show_again(read, columns, output, interval=0.0 if metrics else 1.0)
        show(await read(), columns, output, empty=_NOBODY)


async def _survey(place: Desk, *, metrics: bool) -> tuple[RollCall, Numbers]:
    roll, numbers = await survey(place.bus, place.subjects, place.verifier, metrics=metrics)
    if roll.dropped:
        click.echo(
            f"warning: left out {counted(roll.dropped, 'answer', 'answers')} without proof of who gave it",
            err=True,
        )
        if not roll.members:
            click.echo(f"  -> {OTHER_HOME}", err=True)
    return roll, numbers
