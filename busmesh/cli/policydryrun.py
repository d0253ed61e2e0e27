"""``busmesh policy publish --dry-run``: what documents would change for the requests of right now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from busmesh.cli.context import Context
from busmesh.cli.operator import desk
from busmesh.cli.output import Column, Output, Row, show, tell_person
from busmesh.cli.policyfiles import tell_findings
from busmesh.cli.policyviews import tell_passed
from busmesh.cli.signals import stop_signals
from busmesh.cli.text import printable
from busmesh.errors import BusmeshError
from busmesh.identity.svid import Svid
from busmesh.operator.dryrun import Found, dry_run
from busmesh.operator.publish import draft_revision, look
from busmesh.operator.wording import counted
from busmesh.policy.documents import Document


def _request_text(row: Row) -> str:
    return f"{row['method'] or '*'} {row['service']}{row['path'] or '/*'}"


_COLUMNS = (
    Column("REQUESTS", "count", right=True),
    Column("CALLER", "caller"),
    Column("REQUEST", _request_text, wrap=True),
    Column("RULE", lambda row: _change(row["rule_before"] or "none", row["rule_after"] or "none")),
    Column("DESTINATION", lambda row: _change(row["goes_before"], row["goes_after"])),
    Column("ALSO", lambda row: ", ".join(row["settings"])),
    Column("REFUSED", "refused", style=lambda row: "red"),
)


async def try_out(
    documents: Sequence[Document],
    context: Context,
    svid: Svid,
    seconds: float,
    output: Output,
    *,
    allow_dangling: bool,
) -> int:
    """Have the agents hold ``documents`` against what is in force for a while, and say what would change.

    Raises:
        BusmeshError: an agent could not (code BM2316).
    """
    async with desk(context) as place:
        view = await look(place.bus, place.subjects, place.verifier)
        tell_passed(view.history)
        author = svid.id.operator
        draft = draft_revision(
            view, documents, author=author, reason="dry run", now=time.time(), allow_dangling=allow_dangling
        )
        tell_findings(draft.findings)
        if draft.revision is None:
            if output in (Output.JSON, Output.YAML):
                show([_summary(Found({})) | {"differences": []}], (), output)
            click.echo("nothing would change: it is published just so", err=True)
            return 0
        for document in draft.revision.put:
            if document.key.kind == "RateLimit":
                click.echo(f"warning: {document.key} is left out: a dry run compares routes", err=True)
        tell_person(f"comparing for {seconds:g} s, or until Ctrl-C; nothing comes into force")
        members = view.roll.members
        with stop_signals() as stop:
            found = await dry_run(
                place.bus, place.subjects, place.verifier, svid, draft.revision, members, seconds, stop
            )
    rows = [_row(*one) for one in found.differences()]
    if output in (Output.JSON, Output.YAML):
        show([_summary(found) | {"differences": rows}], (), output)
    else:
        click.echo(_sentence(found))
        if rows:
            show(rows, _COLUMNS, output)
    _refuse_trouble(found)
    return 0


def _row(caller: object, difference: Any, count: int) -> dict[str, Any]:
    return {"count": count, "caller": str(caller), **difference._asdict()}


def _summary(found: Found) -> dict[str, Any]:
    return {
        "agents": len(found.reports),
        "seen": found.seen,
        "compared": found.compared,
        "others": found.others,
        "trouble": [
            {"service": str(service), "instance": instance, "code": report.code, "reason": report.reason}
            for (service, instance), report in found.trouble.items()
        ],
        "silent": [f"{service}/{instance}" for service, instance in found.silent],
        "dropped": found.dropped,
    }


def _sentence(found: Found) -> str:
    differ = sum(count for _, _, count in found.differences()) + found.others
    heard = (
        f"{counted(found.seen, 'request', 'requests')} at {counted(len(found.reports), 'agent', 'agents')}"
    )
    if not found.compared:
        return f"{heard}: nothing was compared"
    part = "" if found.compared == found.seen else f", {found.compared} of them compared"
    others = f", {found.others} of them in too many ways to list" if found.others else ""
    return f"{heard}{part}: {differ} would fare otherwise{others}"


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _refuse_trouble(found: Found) -> None:
    names = [
        f"{service}/{instance}: {report.code} {printable(report.reason)}"
        for (service, instance), report in found.trouble.items()
    ]
    names += [f"{service}/{instance}: said nothing" for service, instance in found.silent]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise BusmeshError(
            f"not every agent compared to the end: {'; '.join(names[:3])}{more}",
            code="BM2316",
            hint="busmesh policy status",
        )
