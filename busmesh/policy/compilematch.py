"""From the entries of a rule's match to conditions on the head of a request.

What is known of the caller is settled here; what remains is a closure over bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from busmesh.decide import match
from busmesh.decide.match import Condition, Test
from busmesh.names import DEFAULT_NAMESPACE, ServiceName
from busmesh.policy.documents import Document
from busmesh.policy.fields import StringMatch
from busmesh.policy.regex import full_match
from busmesh.policy.route import RequestMatch, RouteMatch


@dataclass(frozen=True, slots=True)
class Caller:
    """The instance whose requests the snapshot is for."""

    service: ServiceName
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = DEFAULT_NAMESPACE


class Part(NamedTuple):
    """One condition of an entry: what it looks at, what it wants there, and whether a request has it."""

    what: str
    wanted: str
    holds: Condition


def may_apply(entry: RouteMatch, document: Document, caller: Caller) -> bool:
    """Whether the entry can apply to this caller at all; inside the mesh every request is http."""
    return next(held_against(entry, document, caller), None) is None


def held_against(entry: RouteMatch, document: Document, caller: Caller) -> Iterator[str]:
    """Yield why the entry can never apply to this caller."""
    if entry.scheme is not None and not _needed(entry.scheme)(b"http"):
        yield f"scheme is 'http', wanted: {wish(entry.scheme)}"
    if entry.caller is not None and document.service(entry.caller) != caller.service:
        yield f"caller is '{caller.service}', wanted: '{document.service(entry.caller)}'"
    if entry.source_namespace is not None and entry.source_namespace != caller.namespace:
        yield f"source namespace is '{caller.namespace}', wanted: '{entry.source_namespace}'"
    for name, value in entry.source_labels.items():
        found = caller.labels.get(name)
        if found != value:
            yield f"source label {name} is {'absent' if found is None else repr(found)}, wanted: {value!r}"


def condition_of(entry: RequestMatch) -> Condition | None:
    """Return the entry's conditions on the request itself, the cheap ones first; None for "always"."""
    return match.all_of([part.holds for part in parts_of(entry)])


def parts_of(entry: RequestMatch) -> Iterator[Part]:
    """Yield the entry's conditions one by one, in the order in which they are looked at."""
    if entry.method is not None:
        yield Part("method", wish(entry.method), match.method_passes(_needed(entry.method)))
    if entry.uri is not None:
        test = _path_test(entry.uri, ignore_case=entry.ignore_uri_case)
        yield Part("path", wish(entry.uri), match.path_passes(test))
    if entry.authority is not None:
        yield Part(
            "header host", wish(entry.authority), match.header_passes(b"host", _needed(entry.authority))
        )
    for name, value in entry.headers.items():
        lower = name.lower()
        yield Part(f"header {lower}", wish(value), match.header_passes(lower.encode(), _test(value)))
    for name, value in entry.without_headers.items():
        lower, test_or_none = name.lower(), _test(value, too_long=True)
        yield Part(f"header {lower}", f"not {wish(value)}", match.header_fails(lower.encode(), test_or_none))
    for name, value in entry.query_params.items():
        yield Part(f"query {name}", wish(value), match.query_passes(name.encode(), _test(value)))


def wish(value: StringMatch) -> str:
    """Write a comparison for people: ``'always'``, ``prefix '/api'``, ``present``."""
    if value.exact is not None:
        return repr(value.exact)
    if value.prefix is not None:
        return f"prefix {value.prefix!r}"
    return "present" if value.regex is None else f"regex {value.regex!r}"


def _test(value: StringMatch, *, too_long: bool = False) -> Test | None:
    """Return the comparison that a document asks for; None if presence is all it asks for."""
    if value.exact is not None:
        return match.exact(value.exact.encode())
    if value.prefix is not None:
        return match.prefix(value.prefix.encode())
    return None if value.regex is None else full_match(value.regex, too_long=too_long)


def _needed(value: StringMatch) -> Test:
    test = _test(value)
    return match.prefix(b"") if test is None else test


def _path_test(value: StringMatch, *, ignore_case: bool) -> Test:
    if ignore_case and value.exact is not None:
        return match.in_lower_case(match.exact(value.exact.encode().lower()))
    if ignore_case and value.prefix is not None:
        return match.in_lower_case(match.prefix(value.prefix.encode().lower()))
    return _needed(value)  # a regex minds the case even so, as in Istio
