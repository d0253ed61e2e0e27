"""``busmesh policy explain``: which rule a request falls under, and where it would go."""

from __future__ import annotations

import re

import click

from busmesh.cli.context import Context, context_options, run
from busmesh.cli.explained import tell
from busmesh.cli.logs import log_option
from busmesh.cli.operator import desk
from busmesh.cli.output import Output, output_option, show
from busmesh.cli.policyviews import tell_passed
from busmesh.decide.request import Headers, RequestHead
from busmesh.errors import NotFound, UsageError
from busmesh.members.announcement import Announcement
from busmesh.names import ServiceName, token
from busmesh.operator.publish import View, look
from busmesh.operator.sources import expand
from busmesh.policy.compile import Caller
from busmesh.policy.explain import Question, explain
from busmesh.policy.explaininstances import Instance
from busmesh.policy.load import load_documents
from busmesh.policy.revision import PolicySet
from busmesh.policy.validate import validate_bundle
from busmesh.yamlfile import refuse_errors

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*[=:]\s*([^\r\n\0]*)")


@click.command("explain")
@click.argument("service")
@click.argument("method")
@click.argument("path")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.option(
    "--from",
    "caller",
    default="cli",
    show_default=True,
    metavar="SERVICE[/INSTANCE]",
    help="Who calls. Labels and locality are those of this instance, or of the first one that answers.",
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE|-",
    help="By these documents alone, without a bus.  May be repeated.",
)
@output_option
@context_options
@log_option()
def explain_command(
    service: str,
    method: str,
    path: str,
    headers: tuple[str, ...],
    caller: str,
    files: tuple[str, ...],
    output: Output,
    context: Context,
) -> int:
    """Say which rule a request falls under and why not an earlier one, and where it would go.

    Nothing is sent. Ends with 1 if no rule matches.

    \b
    Examples:
      busmesh policy explain orders GET /orders/7
      busmesh policy explain orders GET / --header x-canary=always --from web
      busmesh policy explain orders POST /orders -f canary.yaml
    """
    name = ServiceName.parse(service)
    if not path.startswith("/"):
        raise UsageError(f"path {path!r} does not begin with '/'", code="BM1212", hint=f"write /{path}")
    head = _head(name, method, path, headers)
    who, _, instance = caller.partition("/")
    calling = ServiceName.parse(who)
    if files:
        documents = load_documents(expand(files))
        refuse_errors(validate_bundle(documents))
        policy_set = PolicySet(0, {document.key: document for document in documents})
        found = explain(policy_set, Question(Caller(calling, {}, calling.namespace), name, head))
    else:
        view = run(_look(context))
        question = _question(view, calling, instance and token(instance, "instance"), name, head)
        found = explain(view.history.current, question)
    if output in (Output.TABLE, Output.WIDE):
        tell(found)
    else:
        show([found], (), output)
    return 1 if found["taken"] is None else 0


def _head(service: ServiceName, method: str, path: str, headers: tuple[str, ...]) -> RequestHead:
    pairs: Headers = []
    for text in headers:
        found = _HEADER.fullmatch(text)
        if found is None:
            raise UsageError(f"header {text!r} is not NAME=VALUE", code="BM1209")
        pairs.append((found[1].encode(), found[2].strip().encode()))
    if not any(name.lower() == b"host" for name, _ in pairs):
        pairs.insert(0, (b"Host", str(service).encode()))
    return RequestHead(method.upper().encode(), path.encode(), pairs)


async def _look(context: Context) -> View:
    async with desk(context) as place:
        view = await look(place.bus, place.subjects, place.verifier)
    tell_passed(view.history)
    return view


def _question(
    view: View, calling: ServiceName, instance: str, service: ServiceName, head: RequestHead
) -> Question:
    """Ask as ``calling`` would, with what it and the others announce."""
    members = view.roll.services()
    beside = [one for one in members.get(calling, ()) if not instance or one.instance == instance]
    if instance and not beside:
        raise NotFound(
            f"no instance {instance} of {calling} answers", code="BM2313", hint="busmesh instances"
        )
    me = beside[0] if beside else None
    caller = Caller(calling, me.labels if me is not None else {}, calling.namespace)
    return Question(
        caller,
        service,
        head,
        locality=me.locality if me is not None else "",
        instance=me.instance if me is not None else "",
        members={name: [_instance(one) for one in found if one.serves] for name, found in members.items()},
    )


def _instance(one: Announcement) -> Instance:
    return Instance(one.instance, str(one.state), one.labels, one.weight, one.locality)
