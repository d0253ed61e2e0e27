"""``busmesh authz``: who may do what, and which rule says so."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from busmesh.cli.context import Context, context_options, run
from busmesh.cli.logs import log_option
from busmesh.cli.operator import desk
from busmesh.cli.output import Column, Output, Row, output_option, show
from busmesh.cli.policyfiles import tell_findings
from busmesh.cli.policyviews import tell_passed
from busmesh.decide.request import Headers, RequestHead
from busmesh.errors import RemoteProtocolError, UsageError
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.access import access_rows
from busmesh.operator.publish import look
from busmesh.operator.sources import expand
from busmesh.policy.documents import Document
from busmesh.policy.load import load_documents
from busmesh.policy.revision import PolicySet
from busmesh.policy.validate import validate_bundle
from busmesh.wire.http import decode_request, encode_request
from busmesh.yamlfile import refuse_errors

Labels = Collection[Mapping[str, str]]
NOBODY: Labels = ()


def _dry_run(row: Row) -> str:
    tried = row["dry_run"]
    if tried is None:
        return ""
    return "same" if tried["allowed"] == row["allowed"] else f"{_word(tried)}: {tried['reason']}"


def _word(row: Row) -> str:
    return "yes" if row["allowed"] else "no"


_COLUMNS = (
    Column("ALLOWED", _word, style=lambda row: "green" if row["allowed"] else "red"),
    Column("POLICY", "policy"),
    Column("RULE", "rule", right=True),
    Column("REASON", "reason", wrap=True),
    Column("DRY RUN", _dry_run, wrap=True),
    Column("AUDITS", lambda row: ",".join(row["audits"]), wide=True),
    Column("INSTANCES", "instances", right=True),
    Column("LABELS", lambda row: ",".join(f"{k}={v}" for k, v in row["labels"].items())),
)


@click.group()
def authz() -> None:
    """Look at who may do what."""


@authz.command()
@click.argument("caller")
@click.argument("service")
@click.argument("method", default="GET")
@click.argument("path", default="/")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="May be repeated.")
@click.option(
    "--claim", "single", multiple=True, metavar="NAME=VALUE", help="Of the request's token. May be repeated."
)
@click.option("--claims", metavar="JSON|@FILE", help="All that the token says.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Of the instance that is asked.")
@click.option(
    "-f", "--file", "files", multiple=True, metavar="FILE|-", help="By these documents, not by the published."
)
@output_option
@context_options
@log_option()
def check(
    caller: str,
    service: str,
    method: str,
    path: str,
    headers: tuple[str, ...],
    single: tuple[str, ...],
    claims: str | None,
    labels: tuple[str, ...],
    files: tuple[str, ...],
    output: Output,
    context: Context,
) -> int:
    """Say whether SERVICE serves a request of CALLER, and which rule says so.

    Both are services: web, or web.shop for one in another namespace. Where instances differ in labels there
    is an answer for each set of labels. Ends with 0 if all say yes, else with 1.

    \b
    Examples:
      busmesh authz check web orders
      busmesh authz check web orders POST /orders -H "x-team: red"
      busmesh authz check web orders GET /me --claim sub=ann --claim groups=staff --claim groups=admins
      busmesh authz check web orders DELETE /orders/7 -f new.yaml -o json
    """
    name = ServiceName.parse(service)
    who = SpiffeId.workload(context.mesh, ServiceName.parse(caller), "check")
    head = _head(method, path, headers, name)
    said = None if claims is None and not single else {**_claims(claims or "{}"), **_single(single)}
    documents, instances = (_documents_of(files), NOBODY) if files else run(_published(context, name))
    if labels:
        instances = [_labels(labels)]
    elif not files and not instances:
        click.echo(f"warning: nobody serves {name} now; asked as if one without labels did", err=True)
    rows = access_rows(documents, who, name, instances, head, said)
    show(rows, _COLUMNS, output)
    return 0 if all(row["allowed"] for row in rows) else 1


def _head(method: str, path: str, headers: Sequence[str], service: ServiceName) -> RequestHead:
    pairs: Headers = []
    for text in headers:
        name, colon, value = text.partition(":")
        if not colon:
            raise UsageError(f"header {text!r} is not NAME:VALUE", code="BM1209")
        pairs.append((name.strip().encode(), value.strip().encode()))
    if not any(name.lower() == b"host" for name, _ in pairs):
        pairs.append((b"Host", str(service).encode()))
    head = RequestHead(method.encode(), path.encode(), pairs)
    try:
        decode_request(encode_request(0, 1, head.method, head.target, head.block, b""))
    except RemoteProtocolError as error:
        raise UsageError(f"no agent sends such a request: {error.message}", code="BM2319") from None
    return head


def _claims(text: str) -> Mapping[str, Any]:
    try:
        read = json.loads(Path(text[1:]).read_bytes() if text.startswith("@") else text)
    except OSError as error:
        raise UsageError(f"{text[1:]} cannot be read: {error.strerror}", code="BM1100") from None
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise UsageError(
            "claims are a JSON object", code="BM2317", hint='write \'{"iss": "...", "sub": "..."}\''
        )
    return read


def _single(texts: Sequence[str]) -> dict[str, str | list[str]]:
    """Return claims given one by one; one that is given twice is a list."""
    said: dict[str, list[str]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"claim {text!r} is not NAME=VALUE", code="BM2317")
        said.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in said.items()}


def _labels(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, sign, _ in pairs:
        if not sign or not name:
            raise UsageError(f"label {name!r} is not NAME=VALUE", code="BM2318")
    return {name: value for name, _, value in pairs}


def _documents_of(files: Sequence[str]) -> Sequence[Document]:
    documents = load_documents(expand(files))
    findings = validate_bundle(documents)
    refuse_errors(findings)
    tell_findings(findings)
    return [*PolicySet(1, {document.key: document for document in documents}).documents.values()]


async def _published(context: Context, service: ServiceName) -> tuple[Sequence[Document], Labels]:
    async with desk(context) as place:
        view = await look(place.bus, place.subjects, place.verifier)
    tell_passed(view.history)
    return [*view.history.current.documents.values()], view.roll.live().get(service, ())
