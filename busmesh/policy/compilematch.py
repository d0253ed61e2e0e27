"""From the entries of a rule's match to conditions on the head of a request.

What is known of the caller is settled here; what remains is a closure over bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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


def may_apply(entry: RouteMatch, document: Document, caller: Caller) -> bool:
    """Whether the entry can apply to this caller at all; inside the mesh every request is http."""
    return (
        (entry.scheme is None or _needed(entry.scheme)(b"http"))
        and (entry.caller is None or document.service(entry.caller) == caller.service)
        and (entry.source_namespace is None or entry.source_namespace == caller.namespace)
        and all(caller.labels.get(name) == value for name, value in entry.source_labels.items())
    )


def condition_of(entry: RequestMatch) -> Condition | None:
    """Return the entry's conditions on the request itself, the cheap ones first; None for "always"."""
    conditions: list[Condition] = []
    if entry.method is not None:
        conditions.append(match.method_passes(_needed(entry.method)))
    if entry.uri is not None:
        conditions.append(match.path_passes(_path_test(entry.uri, ignore_case=entry.ignore_uri_case)))
    if entry.authority is not None:
        conditions.append(match.header_passes(b"host", _needed(entry.authority)))
    for name, value in entry.headers.items():
        conditions.append(match.header_passes(name.lower().encode(), _test(value)))
    for name, value in entry.without_headers.items():
        conditions.append(match.header_fails(name.lower().encode(), _test(value, too_long=True)))
    for name, value in entry.query_params.items():
        conditions.append(match.query_passes(name.encode(), _test(value)))
    return match.all_of(conditions)


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
