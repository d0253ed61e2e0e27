"""The commands of ``busmesh policy`` that look at files: are they right, and what would they change?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from busmesh.cli.context import Context, context_options, run
from busmesh.cli.logs import log_option
from busmesh.cli.operator import desk
from busmesh.cli.output import Output, output_option, show
from busmesh.cli.policyviews import history_of
from busmesh.cli.text import printable
from busmesh.errors import NotFound
from busmesh.operator.publish import look
from busmesh.operator.sources import expand
from busmesh.operator.wording import counted
from busmesh.policy.documents import KINDS, Document
from busmesh.policy.history import diff as diff_lines
from busmesh.policy.load import load_documents
from busmesh.policy.revision import PolicySet
from busmesh.policy.schema import schema as schema_of
from busmesh.policy.validate import validate_bundle
from busmesh.yamlfile import Finding, InvalidDocuments, dotted, refuse_errors, write_yaml


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...|-")
@click.option("--live", is_flag=True, help="Check also against what is published and who is there.")
@output_option
@context_options
@log_option()
def validate(files: tuple[str, ...], live: bool, output: Output, context: Context) -> int:
    """Check documents without publishing them.

    Ends with 5 if one would be refused.

    \b
    Examples:
      busmesh policy validate policies/product-split.yaml
      busmesh policy validate canary.yaml --live
    """
    count, findings = _checked(files, context if live else None)
    if output in (Output.JSON, Output.YAML):
        show([_finding_row(finding) for finding in findings], (), output)
        return InvalidDocuments.exit_status if any(f.level == "error" for f in findings) else 0
    refuse_errors(findings)
    tell_findings(findings)
    click.echo(f"{counted(count, 'document is', 'documents are')} valid")
    return 0


def _checked(files: Sequence[str], context: Context | None) -> tuple[int, list[Finding]]:
    try:
        documents = load_documents(expand(files))
    except InvalidDocuments as error:
        return 0, list(error.findings)
    findings = run(_against_mesh(context, documents)) if context else validate_bundle(documents)
    return len(documents), findings


async def _against_mesh(context: Context, documents: Sequence[Document]) -> list[Finding]:
    async with desk(context) as place:
        view = await look(place.bus, place.subjects, place.verifier)
    return validate_bundle(documents, view.history.current, view.roll.live())


def _finding_row(finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level,
        "code": finding.code,
        "message": finding.message,
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "path": dotted(finding.path),
        "hint": finding.hint,
    }


def tell_findings(findings: Sequence[Finding]) -> None:
    """Say on stderr what is doubtful about documents that are not refused."""
    for finding in findings:
        click.echo(printable(str(finding)), err=True)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...|-")
@click.option("--exit-code", is_flag=True, help="End with 1 if there is a difference.")
@output_option
@context_options
@log_option()
def diff(files: tuple[str, ...], exit_code: bool, output: Output, context: Context) -> int:
    """Show what publishing FILE... would change.

    \b
    Examples:
      busmesh policy diff policies/orders-split.yaml
      busmesh policy diff canary/ --exit-code
    """
    documents = load_documents(expand(files))
    refuse_errors(validate_bundle(documents))
    current = history_of(context).current
    put = {document.key: document for document in documents}
    after = PolicySet(current.number + 1, {**current.documents, **put})
    changed = [key for key, document in put.items() if current.documents.get(key) != document]
    if output in (Output.TABLE, Output.WIDE):
        for line in diff_lines(current, after):
            click.secho(printable(line), fg=_colour(line))
    else:
        rows = [
            {
                "document": str(key),
                "change": "changed" if key in current.documents else "added",
                "published": current.documents[key].plain if key in current.documents else None,
                "proposed": put[key].plain,
            }
            for key in changed
        ]
        show(rows, (), output)
    return 1 if exit_code and changed else 0


def _colour(line: str) -> str | None:
    if line.startswith(("---", "+++", "@@")):
        return "cyan"
    return {"+": "green", "-": "red"}.get(line[:1])


@click.command()
@click.argument("kind", required=False)
@click.option(
    "-o", "--output", type=click.Choice(["json", "yaml"]), default="json", show_default=True, help="Format."
)
def schema(kind: str | None, output: str) -> None:
    """Print the JSON Schema of KIND, for editors.

    Without KIND, print the kinds that there are.
    """
    if kind is None:
        click.echo("\n".join(KINDS))
        return
    known = {name.lower(): name for name in KINDS}
    if kind.lower() not in known:
        raise NotFound(f"there is no kind {kind[:60]!r}", code="BM1205", hint=f"one of {', '.join(KINDS)}")
    found = schema_of(known[kind.lower()])
    click.echo(write_yaml(found) if output == "yaml" else json.dumps(found, indent=2) + "\n", nl=False)


COMMANDS: tuple[click.Command, ...] = (validate, diff, schema)
