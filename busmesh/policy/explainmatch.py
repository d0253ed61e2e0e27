"""Why a rule matches a request or does not, in words.

The conditions are the very ones that rules are compiled of, asked one by one, so an explanation cannot say
anything else than what happens.
"""

from __future__ import annotations

from collections.abc import Iterator

from busmesh.decide.match import header_value, query_value
from busmesh.decide.request import RequestHead
from busmesh.policy.compilematch import Caller, held_against, parts_of
from busmesh.policy.documents import Document
from busmesh.policy.route import HttpRoute, RequestMatch, RouteMatch


def failures(entry: RequestMatch, head: RequestHead) -> Iterator[str]:
    """Yield each condition of an entry that a request does not meet, and what it has instead."""
    for part in parts_of(entry):
        if not part.holds(head):
            found = _found(part.what, head)
            has = "absent" if found is None else repr(found.decode("latin-1"))
            yield f"{part.what} is {has}, wanted: {part.wanted}"


def against_entry(entry: RouteMatch, document: Document, caller: Caller, head: RequestHead) -> list[str]:
    """Return all that speaks against an entry of a rule; empty if it matches."""
    return [*held_against(entry, document, caller), *failures(entry, head)]


def against_rule(rule: HttpRoute, document: Document, caller: Caller, head: RequestHead) -> list[str]:
    """Return what speaks against a rule, one line for each entry of its match; empty if it matches."""
    if matched_by(rule, document, caller, head):
        return []
    single = len(rule.match) == 1
    return [
        ("" if single else f"{_name(entry, index)}: ")
        + "; ".join(against_entry(entry, document, caller, head))
        for index, entry in enumerate(rule.match)
    ]


def matched_by(rule: HttpRoute, document: Document, caller: Caller, head: RequestHead) -> str:
    """Return in words by what a rule matches, by the first entry of several; empty if it does not match."""
    if not rule.match:
        return "it matches every request"
    for index, entry in enumerate(rule.match):
        if not against_entry(entry, document, caller, head):
            wishes = [f"{part.what}: {part.wanted}" for part in parts_of(entry)]
            return f"{_name(entry, index)} holds" + (f" ({'; '.join(wishes)})" if wishes else "")
    return ""


def _name(entry: RouteMatch, index: int) -> str:
    return entry.name or f"match[{index}]"


def _found(what: str, head: RequestHead) -> bytes | None:
    kind, _, name = what.partition(" ")
    match kind:
        case "method":
            return head.method
        case "path":
            return head.path
        case "query":
            return query_value(head.query, name.encode())
        case _:
            return header_value(head.block, name.encode())
