"""From a policy set to a snapshot: everything that can be known before a request is worked out here.

Who calls is known, so conditions on the caller are settled and rules that can never apply to it are left
out; what remains of a rule is a closure over bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from busmesh.decide import match
from busmesh.decide.headers import HeaderOps
from busmesh.decide.match import Condition, Test
from busmesh.decide.route import Balancer, Rule, ServicePolicy, Target
from busmesh.decide.split import Split
from busmesh.names import DEFAULT_NAMESPACE, ServiceName
from busmesh.policy.check import check_document, relative_weights
from busmesh.policy.destination import DestinationSpec
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.fields import StringMatch, seconds
from busmesh.policy.regex import full_match
from busmesh.policy.revision import PolicySet
from busmesh.policy.route import HeaderOperations, Headers, HttpRoute, RouteDestination, RouteMatch, RouteSpec
from busmesh.policy.snapshot import Snapshot
from busmesh.policy.validate import claims
from busmesh.yamlfile import InvalidDocuments, refuse_errors


@dataclass(frozen=True, slots=True)
class Caller:
    """The instance whose requests the snapshot is for."""

    service: ServiceName
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = DEFAULT_NAMESPACE


def compile_set(policy_set: PolicySet, caller: Caller, *, rng: Random) -> Snapshot:
    """Compile ``policy_set`` for ``caller``.

    Args:
        policy_set: whole; what it says of services that the caller never calls costs only this once.
        caller: the instance beside this agent.
        rng: where each split begins.

    Raises:
        InvalidDocument: a document contradicts itself or another one. The operator's check would have
            refused it; an agent does not take its word for that.
    """
    documents = list(policy_set.documents.values())
    refuse_errors([finding for document in documents for finding in check_document(document)])
    _refuse_rivals(documents)
    subsets: dict[tuple[ServiceName, str], Mapping[str, str]] = {}
    balancers: dict[tuple[ServiceName, str | None], Balancer] = {}
    policies: dict[ServiceName, ServicePolicy] = {}
    snapshot = Snapshot(policy_set.number, policy_set.digest, policies, subsets, balancers)
    for document in documents:
        if isinstance(document.spec, DestinationSpec):
            service = document.service(document.spec.host)
            balancers[service, None] = document.spec.balancer(None)
            for subset in document.spec.subsets:
                subsets[service, subset.name] = subset.labels
                balancers[service, subset.name] = document.spec.balancer(subset.name)
    for document in documents:
        if isinstance(document.spec, RouteSpec):
            rules = tuple(_rules(document, document.spec, snapshot, caller, rng))
            for host in document.spec.hosts:
                name = document.service(host)
                policies[name] = ServicePolicy(name, rules)
    return snapshot


def _refuse_rivals(documents: list[Document]) -> None:
    claimed: dict[tuple[str, ServiceName], DocumentKey] = {}
    for document in documents:
        for service, path in claims(document):
            other = claimed.setdefault((document.key.kind, service), document.key)
            if other != document.key:
                message = f"{other} already speaks for {service}"
                raise InvalidDocuments([document.finding("BM2102", message, path)])


def _rules(
    document: Document, spec: RouteSpec, snapshot: Snapshot, caller: Caller, rng: Random
) -> Iterator[Rule]:
    for index, rule in enumerate(spec.http):
        entries = [entry for entry in rule.match if _calls(entry, document, caller)]
        if rule.match and not entries:
            continue
        matches = match.any_of([_condition(entry) for entry in entries]) if entries else None
        yield _rule(rule, f"{document.key.name}[{index}]", document, snapshot, matches, rng)
        if matches is None:  # nothing after it is ever reached
            return


def _calls(entry: RouteMatch, document: Document, caller: Caller) -> bool:
    """Whether the entry can apply to this caller at all."""
    return (
        (entry.caller is None or document.service(entry.caller) == caller.service)
        and (entry.source_namespace is None or entry.source_namespace == caller.namespace)
        and all(caller.labels.get(name) == value for name, value in entry.source_labels.items())
    )


def _condition(entry: RouteMatch) -> Condition | None:
    """Return the entry's conditions on the request itself, the cheap ones first; None for "always"."""
    conditions: list[Condition] = []
    if entry.method is not None:
        conditions.append(match.method_passes(_needed(entry.method)))
    if entry.uri is not None:
        conditions.append(match.path_passes(_path_test(entry.uri, ignore_case=entry.ignore_uri_case)))
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


def _rule(
    rule: HttpRoute,
    name: str,
    document: Document,
    snapshot: Snapshot,
    matches: Condition | None,
    rng: Random,
) -> Rule:
    targets = [_target(route, document, snapshot) for route in rule.route]
    request, response = _operations(rule.headers)
    return Rule(
        name=rule.name or name,
        split=Split(list(zip(targets, relative_weights(rule.route), strict=True)), rng.random()),
        matches=matches,
        timeout=(seconds(rule.timeout) or None) if rule.timeout else None,
        request_headers=request,
        response_headers=response,
    )


def _target(route: RouteDestination, document: Document, snapshot: Snapshot) -> Target:
    service, subset = document.service(route.destination.host), route.destination.subset
    request, response = _operations(route.headers)
    return Target(
        service=service,
        subset=subset,
        labels=snapshot.subset_labels(service, subset),
        balancer=snapshot.balancer(service, subset),
        request_headers=request,
        response_headers=response,
    )


def _operations(headers: Headers | None) -> tuple[HeaderOps | None, HeaderOps | None]:
    if headers is None:
        return None, None
    return _header_ops(headers.request), _header_ops(headers.response)


def _header_ops(operations: HeaderOperations | None) -> HeaderOps | None:
    if operations is None or not (operations.set or operations.add or operations.remove):
        return None
    return HeaderOps(put=operations.set, add=operations.add, remove=operations.remove)
