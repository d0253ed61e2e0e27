"""From a policy set to a snapshot: everything that can be known before a request is worked out here.

Who calls is known, so conditions on the caller are settled and rules that can never apply to it are left
out; what remains of a rule is a closure over bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random

from busmesh.decide.balance import BalancerSpec
from busmesh.decide.match import any_of
from busmesh.decide.route import Rule, ServicePolicy
from busmesh.decide.traffic import Traffic
from busmesh.names import ServiceName
from busmesh.policy.check import check_document
from busmesh.policy.compileauthz import compile_authorizer
from busmesh.policy.compilelimit import limits_of
from busmesh.policy.compilematch import Caller, condition_of, may_apply
from busmesh.policy.compilerule import RuleCompiler, ways_to_match
from busmesh.policy.destination import DestinationSpec
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.revision import PolicySet
from busmesh.policy.route import RouteSpec
from busmesh.policy.snapshot import Snapshot
from busmesh.policy.validate import claims
from busmesh.yamlfile import InvalidDocuments, refuse_errors

__all__ = ["Caller", "compile_set"]


def compile_set(policy_set: PolicySet, caller: Caller, *, rng: Random) -> Snapshot:
    """Compile ``policy_set`` for ``caller``.

    Args:
        policy_set: whole; what it says of services that the caller never calls costs only this once.
        caller: the instance beside this agent, which is called as well: the authorizer protects it.
        rng: where each split begins.

    Raises:
        InvalidDocument: a document contradicts itself or another one. The operator's check would have
            refused it; an agent does not take its word for that.
    """
    documents = list(policy_set.documents.values())
    refuse_errors([finding for document in documents for finding in check_document(document)])
    _refuse_rivals(documents)
    subsets: dict[tuple[ServiceName, str], Mapping[str, str]] = {}
    balancers: dict[tuple[ServiceName, str | None], BalancerSpec] = {}
    traffic: dict[tuple[ServiceName, str | None], Traffic] = {}
    policies: dict[ServiceName, ServicePolicy] = {}
    limits = tuple(entry for document in documents for entry in limits_of(document, caller))
    authorizer = compile_authorizer(documents, caller.service, caller.labels)
    snapshot = Snapshot(
        policy_set.number, policy_set.digest, policies, subsets, balancers, traffic, limits, authorizer
    )
    for document in documents:
        if isinstance(document.spec, DestinationSpec):
            service = document.service(document.spec.host)
            balancers[service, None] = document.spec.balancer(None)
            traffic[service, None] = document.spec.traffic(None)
            for subset in document.spec.subsets:
                subsets[service, subset.name] = subset.labels
                balancers[service, subset.name] = document.spec.balancer(subset.name)
                traffic[service, subset.name] = document.spec.traffic(subset.name)
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
    """Yield what is left of a document's rules for this caller.

    A rule that rewrites by prefix becomes one for each prefix that it matches, so that a request need not
    remember which entry it was; they share the split and all else.
    """
    compiler = RuleCompiler(document, snapshot, caller, rng)
    for index, rule in enumerate(spec.http):
        entries = [entry for entry in rule.match if may_apply(entry, document, caller)]
        if rule.match and not entries:
            continue
        compiled = compiler.rule(rule, index)
        for rewrite, alternatives in ways_to_match(rule, entries):
            matches = any_of([condition_of(entry) for entry in alternatives]) if alternatives else None
            yield replace(compiled, matches=matches, rewrite=rewrite)
            if matches is None:  # nothing after it is ever reached
                return
