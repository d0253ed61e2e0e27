"""``busmesh policy``: publish, check and look through policies.

What changes the mesh is here; what looks at files is in `policyfiles`, at log and agents in `policyviews`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import click

from busmesh.cli import policyexplain, policyfiles, policyviews
from busmesh.cli.context import Context, context_options, run
from busmesh.cli.duration import Duration
from busmesh.cli.logs import log_option
from busmesh.cli.operator import desk, operator_option, operator_svid
from busmesh.cli.output import Output, output_option, show
from busmesh.cli.policydryrun import try_out
from busmesh.cli.policyfiles import tell_findings
from busmesh.cli.policyviews import STATUS_COLUMNS, status_row, tell_passed
from busmesh.cli.revisionnumber import RevisionNumber
from busmesh.errors import BusmeshError
from busmesh.identity.dryruns import MAX_DURATION_S
from busmesh.identity.svid import Svid
from busmesh.operator.publish import Outcome, Publisher, View, draft_revision, look
from busmesh.operator.sources import expand
from busmesh.operator.wording import counted
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.load import load_documents
from busmesh.policy.revision import Revision

F = TypeVar("F", bound=Callable[..., Any])
#: What a command does to the policies: the documents to put and the keys to remove.
Change = Callable[[View], tuple[Sequence[Document], Collection[DocumentKey]]]


@click.group()
def policy() -> None:
    """Publish, check and look through policies."""


def _publishing_options(command: F) -> F:
    """Give a command what every way to make a revision takes."""
    options = (
        click.option("--reason", default="", metavar="TEXT", help="A word for the history."),
        click.option(
            "--wait",
            type=Duration(),
            default="5s",
            show_default=True,
            metavar="DURATION",
            help="For the acknowledgements of all agents at most; 0s does not wait.",
        ),
        click.option(
            "--allow-dangling",
            is_flag=True,
            help="Also routes to subsets that no Destination declares and no instance carries.",
        ),
        click.option(
            "--ignore-newer",
            is_flag=True,
            help="Although agents hold later revisions than the log: they will not follow.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="List the agents also if all is well."),
        operator_option,
        output_option,
        context_options,
        log_option(),
    )
    for option in reversed(options):
        command = option(command)
    return command


@policy.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...|-")
@click.option("--dry-run", "dry", is_flag=True, help="Put nothing in force; say what would change.")
@click.option(
    "--for",
    "seconds",
    type=Duration(),
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long a dry run looks at requests; an hour at most.",
)
@_publishing_options
def publish(files: tuple[str, ...], dry: bool, seconds: float, **options: Any) -> int:
    """Publish documents, all of them as one revision.

    FILE is a file, a folder of YAML files, a pattern, or - for standard input. Documents that are published
    just so already are left out. Ends with 1 if an agent refused the revision or did not confirm it in time.

    With --dry-run nothing comes into force: every agent holds the documents against its requests for a while
    and counts those that would go elsewhere, get other settings or be refused.

    \b
    Examples:
      busmesh policy publish policies/orders-split.yaml --reason "v2 gets 20 %"
      busmesh policy publish canary/ --wait 30s -v
      busmesh policy publish canary/ --dry-run --for 10s
      sed s/80/50/ split.yaml | busmesh policy publish -
    """
    documents = load_documents(expand(files))
    if dry:
        if not 0 < seconds <= MAX_DURATION_S:
            raise click.UsageError("--for is more than nothing and an hour at most")
        return _try_out(documents, seconds, **options)
    return _revise(lambda view: (documents, ()), **options)


def _try_out(
    documents: Sequence[Document],
    seconds: float,
    *,
    context: Context,
    operator: str | None,
    output: Output,
    allow_dangling: bool,
    **others: Any,
) -> int:
    svid = operator_svid(context, operator)
    return run(try_out(documents, context, svid, seconds, output, allow_dangling=allow_dangling))


@policy.command()
@click.argument("keys", nargs=-1, required=True, metavar="KIND/[NAMESPACE/]NAME...")
@_publishing_options
def delete(keys: tuple[str, ...], **options: Any) -> int:
    """Remove published documents, as one revision.

    \b
    Examples:
      busmesh policy delete route/orders
      busmesh policy delete route/shop/orders destination/shop/orders
    """
    remove = tuple(dict.fromkeys(DocumentKey.parse(key) for key in keys))

    def change(view: View) -> tuple[Sequence[Document], Collection[DocumentKey]]:
        for key in remove:
            view.history.document(key)  # NotFound names the one that is not there
        return (), remove

    return _revise(change, **options)


@policy.command()
@click.argument("number", type=RevisionNumber(least=0))
@_publishing_options
def rollback(number: int, **options: Any) -> int:
    """Restore the policies as they were after revision NUMBER, as a new revision.

    \b
    Examples:
      busmesh policy history
      busmesh policy rollback 41
    """
    options["reason"] = options["reason"] or f"back to revision {number}"
    return _revise(lambda view: view.history.way_back(number), **options)


def _revise(change: Change, *, context: Context, operator: str | None, **options: Any) -> int:
    return run(_publish(change, context, operator_svid(context, operator), **options))


async def _publish(
    change: Change,
    context: Context,
    svid: Svid,
    *,
    reason: str,
    wait: float,
    allow_dangling: bool,
    ignore_newer: bool,
    verbose: bool,
    output: Output,
) -> int:
    async with desk(context) as place:
        view = await look(place.bus, place.subjects, place.verifier)
        tell_passed(view.history)
        put, remove = change(view)
        draft = draft_revision(
            view,
            put,
            remove,
            author=svid.id.operator,
            reason=reason,
            now=time.time(),
            allow_dangling=allow_dangling,
            ignore_newer=ignore_newer,
        )
        tell_findings(draft.findings)
        if draft.revision is None:
            _tell_unchanged(view, output)
            return 0
        async with place.writer() as logs:
            publisher = Publisher(place.bus, place.subjects, place.verifier, svid, logs=logs)
            outcome = await publisher.publish(view, draft.revision, wait=wait)
    _tell_outcome(outcome, len(view.roll.members), wait, output, verbose=verbose)
    return 0


def _tell_unchanged(view: View, output: Output) -> None:
    current = view.history.current
    if output is Output.JSON:
        click.echo(json.dumps({"changed": False, "revision": current.number, "digest": current.digest}))
    else:
        click.echo(f"nothing to change: it is published just so, as of revision {current.number}")


def _tell_outcome(outcome: Outcome, agents: int, wait: float, output: Output, *, verbose: bool) -> None:
    """Print what became of a revision.

    Raises:
        BusmeshError: an agent does not have it in force (code BM2307).
    """
    revision, trouble = outcome.revision, outcome.trouble
    rows = [status_row(status) for status in outcome.statuses]
    if output in (Output.JSON, Output.YAML):
        show([_outcome_row(outcome) | {"agents": rows}], (), output)
    else:
        click.echo(_sentence(revision, agents, wait, outcome))
        shown = rows if verbose else [status_row(status) for status in trouble]
        if shown:
            show(shown, STATUS_COLUMNS, output)
    if outcome.dropped:
        what = counted(outcome.dropped, "acknowledgement", "acknowledgements")
        click.echo(f"warning: left out {what} without proof of who gave it", err=True)
    if trouble:
        raise BusmeshError(
            f"revision {revision.number} is published, but {len(trouble)} of {agents} agents do not have it",
            code="BM2307",
            hint="busmesh policy status --watch",
        )


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    revision = outcome.revision
    return {
        "changed": True,
        "revision": revision.number,
        "author": revision.author,
        "reason": revision.reason,
        "put": [str(document.key) for document in revision.put],
        "removed": [str(key) for key in revision.remove],
        "digest": revision.digest,
        "waited_ms": round(outcome.waited * 1000, 1),
    }


def _sentence(revision: Revision, agents: int, wait: float, outcome: Outcome) -> str:
    done = [f"{len(revision.put)} put"] if revision.put else []
    done += [f"{len(revision.remove)} removed"] if revision.remove else []
    head = f"revision {revision.number} published by {revision.author}: {', '.join(done)}"
    if not agents:
        return f"{head}; no agent is there yet"
    if wait <= 0:
        return f"{head}; {counted(agents, 'agent was', 'agents were')} told"
    have = agents - len(outcome.trouble)
    return f"{head}; {have} of {agents} agents have it after {outcome.waited * 1000:.0f} ms"


for looking in (*policyfiles.COMMANDS, *policyviews.COMMANDS, policyexplain.explain_command):
    policy.add_command(looking)
