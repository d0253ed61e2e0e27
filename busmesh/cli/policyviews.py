"""The commands of ``busmesh policy`` that look at the log, and at what the agents have."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import click

from busmesh.bus.policylog import LogUnavailable, PolicyLog
from busmesh.cli.context import Context, context_options, run
from busmesh.cli.figures import age, rfc3339
from busmesh.cli.logs import log_option
from busmesh.cli.operator import Desk, desk
from busmesh.cli.output import Column, Output, Row, output_option, show, show_again, watch_option
from busmesh.cli.revisionnumber import RevisionNumber
from busmesh.cli.text import printable
from busmesh.errors import NotFound
from busmesh.members.announcement import Announcement
from busmesh.operator.diagnosis.verdict import OTHER_HOME
from busmesh.operator.history import History, read_history
from busmesh.operator.rollcall import call_roll
from busmesh.operator.status import AgentStatus, statuses
from busmesh.operator.wording import counted
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.validate import addressed
from busmesh.yamlfile import write_yaml

_STYLES = {"SYNCED": "green", "STALE": "yellow", "REJECTED": "red", "MISSING": "red"}
_DIGEST = 12

STATUS_COLUMNS = (
    Column("AGENT", "agent"),
    Column("SERVICE", "service"),
    Column("REVISION", "revision", right=True),
    Column("STATE", "state", style=lambda row: _STYLES[row["state"]]),
    Column("AGE", lambda row: age(row["age_s"]), right=True),
    Column("REASON", "reason", wrap=True),
)
_LIST_COLUMNS = (
    Column("KIND", "kind"),
    Column("NAMESPACE", "namespace"),
    Column("NAME", "name"),
    Column("SERVICES", lambda row: ",".join(row["services"])),
    Column("REVISION", "revision", right=True),
    Column("AGE", lambda row: age(row["age_s"]), right=True),
    Column("WRITTEN AS", "written_as", wide=True),
)
_HISTORY_COLUMNS = (
    Column("REVISION", "revision", right=True),
    Column("TIME", "time"),
    Column("AUTHOR", "author"),
    Column("DIGEST", lambda row: row["digest"][:_DIGEST]),
    Column("PUT", lambda row: ", ".join(row["put"]), wrap=True),
    Column("REMOVED", lambda row: ", ".join(row["removed"]), wrap=True),
    Column("REASON", "reason", wrap=True),
)


@click.command("list")
@output_option
@context_options
@log_option()
def list_command(output: Output, context: Context) -> None:
    """List the documents that are published."""
    history = history_of(context)
    now, put = time.time(), history.current.put_in
    rows = []
    for key, document in history.current.documents.items():
        made = history.time_of(put[key])
        rows.append(
            {
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "services": [str(service) for service, _ in addressed(document)],
                "revision": put[key],
                "age_s": None if made is None else round(now - made, 3),
                "written_as": _written_as(document),
            }
        )
    show(rows, _LIST_COLUMNS, output, empty="no policy is published; busmesh policy publish FILE...")


def _written_as(document: Document) -> str:
    plain = document.plain
    return f"{plain['apiVersion']} {plain['kind']}" if isinstance(plain, dict) else ""


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="KIND NAME | KIND/NAME")
@click.option("-n", "--namespace", metavar="NAME", help="Default: default.")
@click.option("--revision", type=RevisionNumber(), help="As it was after this revision.")
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="Format."
)
@context_options
@log_option()
def get(
    words: tuple[str, ...], namespace: str | None, revision: int | None, output: str, context: Context
) -> None:
    """Print a document as it was published.

    \b
    Examples:
      busmesh policy get route orders
      busmesh policy get route/orders -n shop
      busmesh policy get virtualservice/product-service --revision 41 -o json
    """
    key = _key(words, namespace)
    history = history_of(context)
    documents = history.at(revision).documents if revision is not None else history.current.documents
    if key not in documents:
        when = "" if revision is None else f" at revision {revision}"
        raise NotFound(f"{key} is not published{when}", code="BM2304", hint="busmesh policy list")
    plain = documents[key].plain
    click.echo(write_yaml(plain) if output == "yaml" else json.dumps(plain, indent=2) + "\n", nl=False)


def _key(words: Sequence[str], namespace: str | None) -> DocumentKey:
    if len(words) > 2:
        raise click.UsageError("write KIND NAME or KIND/NAME")
    kind, *rest = "/".join(words).split("/")
    if namespace is not None:
        rest = [namespace, rest[-1]] if rest else []
    return DocumentKey.parse("/".join([kind, *rest]))


@click.command()
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N revisions.")
@output_option
@context_options
@log_option()
def history(last: int | None, output: Output, context: Context) -> None:
    """List the revisions, the newest last."""
    log = history_of(context)
    rows = [
        {
            "revision": revision.number,
            "time": rfc3339(revision.time_ms / 1000),
            "author": revision.author,
            "reason": revision.reason,
            "put": [str(document.key) for document in revision.put],
            "removed": [str(key) for key in revision.remove],
            "digest": revision.digest,
        }
        for revision in log.revisions[-last if last else None :]
    ]
    show(rows, _HISTORY_COLUMNS, output, empty="no revision was published yet")


@click.command()
@watch_option
@output_option
@context_options
@log_option()
def status(watch: bool, output: Output, context: Context) -> None:
    """Say for each agent whether the policies arrived.

    \b
    SYNCED    the newest revision is in force there
    STALE     another one is
    REJECTED  it refused a newer one, and keeps the last good set
    MISSING   it was there and does not answer (with --watch)
    """
    run(_status(context, output, watch=watch))


async def _status(context: Context, output: Output, *, watch: bool) -> None:
    async with desk(context) as place:
        known: dict[tuple[str, str], Announcement] = {}

        async def read() -> list[Row]:
            roll = await call_roll(place.bus, place.subjects, place.verifier)
            log = await _log_or_none(place)
            rows = statuses(roll.members, log, time.time(), expected=known.values())
            known.update({(str(member.name), member.instance): member for member in roll.members})
            return [status_row(found) for found in rows]

        if watch:
            await show_again(read, STATUS_COLUMNS, output)
        show(await read(), STATUS_COLUMNS, output, empty="no agent answers")


async def _log_or_none(place: Desk) -> History | None:
    try:
        return await read_history(PolicyLog(place.bus, place.subjects), place.verifier)
    except LogUnavailable as error:
        click.echo(f"warning: {error}; compared with the furthest agent", err=True)
        return None


def status_row(found: AgentStatus) -> dict[str, Any]:
    """Return one agent's state as plain data."""
    return {
        "agent": found.agent,
        "service": str(found.service),
        "revision": found.revision,
        "state": str(found.state),
        "age_s": None if found.age is None else round(found.age, 3),
        "reason": found.reason,
    }


def history_of(context: Context) -> History:
    """Read the policy log of ``context``, and warn of what counts for nothing in it."""

    async def read() -> History:
        async with desk(context) as place:
            return await read_history(PolicyLog(place.bus, place.subjects), place.verifier)

    log = run(read())
    tell_passed(log)
    return log


def tell_passed(log: History) -> None:
    """Warn of entries in the log that count for nothing."""
    if log.passed:
        first = log.passed[0]
        what = counted(len(log.passed), "entry counts", "entries count")
        reason = f"the first is number {first.sequence}: {printable(first.reason)}"
        click.echo(f"warning: {what} for nothing in the policy log; {reason}", err=True)
        if not log.revisions:  # a stray entry is junk; when nothing counts, the home is the wrong one
            click.echo(f"  -> {OTHER_HOME}", err=True)


COMMANDS: tuple[click.Command, ...] = (list_command, get, history, status)
