"""What the policies make of one request: which rule, which destinations and instances, and why.

Plain data from plain data: nothing is sent, and nobody is asked. The rule is the one that the compiled
snapshot takes, so the explanation and the request path cannot differ. What only a running agent knows
(sessions, ejections, open breakers, what is under way) is not in here, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from busmesh.decide.origin import Origin
from busmesh.decide.request import RequestHead
from busmesh.decide.route import Rule, Target, choose_rule
from busmesh.names import ServiceName
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.compilelimit import limits_of
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.explaininstances import Known, instances_of, kept_together
from busmesh.policy.explainmatch import against_rule, matched_by
from busmesh.policy.explainsettings import balancer_name, plainly, set_limits
from busmesh.policy.revision import PolicySet
from busmesh.policy.route import RouteSpec
from busmesh.policy.snapshot import DEFAULT_RULE
from busmesh.policy.validate import claims

#: What policies and announcements do not tell.
NOT_KNOWN = (
    "sessions, ejections, open breakers and requests under way: only the caller's agent knows them"
    " (busmesh call --explain tells them of a real request)"
)


@dataclass(frozen=True, slots=True)
class Question:
    """A request as a caller would make it.

    Attributes:
        caller: who calls.
        service: whom it names.
        head: with its ``Host``.
        locality: of the caller.
        instance: of the caller, for hashing by it; may be empty.
        members: who serves what, as announced.
    """

    caller: Caller
    service: ServiceName
    head: RequestHead
    locality: str = ""
    instance: str = ""
    members: Mapping[ServiceName, Sequence[Known]] = field(default_factory=dict)

    @property
    def origin(self) -> Origin:
        name = self.caller.service
        return Origin(f"{name.name}.{name.namespace}", self.instance, self.locality, self.caller.labels)


def explain(policy_set: PolicySet, question: Question) -> dict[str, object]:
    """Return as plain data what ``policy_set`` makes of a request.

    Args:
        policy_set: the documents.
        question: the request, and who makes it.

    Raises:
        InvalidDocument: the set contradicts itself.
    """
    head, service = question.head, question.service
    snapshot = compile_set(policy_set, question.caller, rng=Random(0))
    rule = choose_rule(snapshot.service(service), head)
    document = speaks_for(policy_set, "Route", service)
    names = _Names(policy_set.put_in)
    return {
        "revision": policy_set.number,
        "caller": {
            "service": str(question.caller.service),
            "labels": dict(question.caller.labels),
            "locality": question.locality,
        },
        "request": {
            "service": str(service),
            "method": head.method.decode("latin-1"),
            "target": head.target.decode("latin-1"),
        },
        "document": names.of(document),
        "rules": list(rules_of(document, question.caller, head)),
        "taken": None if rule is None else _taken(rule, head),
        "destinations": [] if rule is None else list(_destinations(rule, question, policy_set, names)),
        "not_known": NOT_KNOWN,
    }


class _Names:
    """How documents are called: kind, namespace and name, and the revision that put them if it is known."""

    def __init__(self, put_in: Mapping[DocumentKey, int]) -> None:
        self._put_in = put_in

    def of(self, document: Document | None) -> dict[str, object] | None:
        if document is None:
            return None
        return {"name": str(document.key), "revision": self._put_in.get(document.key)}


def speaks_for(policy_set: PolicySet, kind: str, service: ServiceName) -> Document | None:
    """Return the document of a kind that is for ``service``; there is one at most."""
    for document in policy_set.documents.values():
        if document.key.kind == kind and service in (claimed for claimed, _ in claims(document)):
            return document
    return None


def rules_of(document: Document | None, caller: Caller, head: RequestHead) -> Iterator[dict[str, object]]:
    """Yield every rule in order, and whether it matches; the first that does is taken."""
    if document is None or not isinstance(document.spec, RouteSpec):
        why = ["no Route speaks for this service"]
        yield {"index": 0, "rule": DEFAULT_RULE, "verdict": "taken", "why": why}
        return
    taken = False
    for index, rule in enumerate(document.spec.http):
        why = against_rule(rule, document, caller, head)
        verdict = "does not match" if why else "matches" if taken else "taken"
        if not why:
            by = "an earlier rule is taken" if taken else matched_by(rule, document, caller, head)
            why = [by]
        taken = taken or verdict == "taken"
        name = rule.name or f"{document.key.name}[{index}]"
        yield {"index": index, "rule": name, "verdict": verdict, "why": why}


def _taken(rule: Rule, head: RequestHead) -> dict[str, object]:
    owner = rule.owner(head) if rule.owner is not None else None
    split = rule.split
    total = sum(weight for _, weight in split.choices) if split is not None else 0
    return {
        "rule": rule.name,
        "answer": plainly(rule.answer),
        "fault": plainly(rule.fault),
        "rewritten_to": None if rule.rewrite is None else plainly(rule.rewrite.target(head.target)),
        "timeout_s": rule.timeout,
        "retries": plainly(rule.retries),
        "split": [
            {"destination": target.key, "weight": weight, "percent": round(100 * weight / total, 2)}
            for target, weight in (split.choices if split is not None else ())
        ],
        "split_by_owner": rule.owner is not None,
        "goes_to": split.pick_for(owner).key if split is not None and owner is not None else None,
        "mirrors": [
            {"destination": mirror.target.key, "percent": round(100 * mirror.fraction, 4)}
            for mirror in rule.mirrors
        ],
    }


def _destinations(
    rule: Rule, question: Question, policy_set: PolicySet, names: _Names
) -> Iterator[dict[str, object]]:
    seen: set[str] = set()
    for target in rule.targets():
        if target.key in seen:
            continue
        seen.add(target.key)
        head = as_sent(rule, target, question.head)
        known = question.members.get(target.service, ())
        traffic = target.traffic
        yield {
            "destination": target.key,
            "document": names.of(speaks_for(policy_set, "Destination", target.service)),
            "subset_labels": dict(target.labels),
            "balancer": balancer_name(target.balancer),
            "balancer_settings": plainly(target.balancer),
            "instances": list(instances_of(target, known, question.origin)),
            "hashed_to": kept_together(target, known, question.head, question.origin) or None,
            "limits": set_limits(traffic.limits),
            "retry_budget": plainly(traffic.retry_budget),
            "breaker": plainly(traffic.breaker),
            "instance_breaker": plainly(traffic.instance_breaker),
            "outlier_detection": plainly(traffic.outlier_detection),
            "adaptive_concurrency": plainly(traffic.adaptive_concurrency),
            "rate_limits": list(rate_limits(policy_set, target.service, question.caller.service, head)),
        }


def as_sent(rule: Rule, target: Target, head: RequestHead) -> RequestHead:
    """Return the head that the instance sees, after what destination and rule do to it."""
    line, block = head.target, head.block
    if rule.rewrite is not None:
        line, block = rule.rewrite.target(line) or line, rule.rewrite.headers(block)
    for operations in (target.request_headers, rule.request_headers):
        if operations is not None:
            block = operations.apply_block(block)
    return RequestHead.from_block(head.method, line, block)


def rate_limits(
    policy_set: PolicySet, service: ServiceName, caller: ServiceName, head: RequestHead
) -> Iterator[dict[str, object]]:
    """Yield each limit that the instances of ``service`` hold against ``caller``."""
    for document in policy_set.documents.values():
        for limit in limits_of(document, Caller(service)):
            entries = [entry for entry in limit.match if entry.concerns(caller)]
            if limit.match and not entries:
                continue
            conditions = [entry.condition for entry in entries]
            quota = limit.quotas.get(caller, limit.quota)
            yield {
                "limit": limit.name,
                "applies": not entries or any(one is None or one(head) for one in conditions),
                "per_second": round(quota.rate, 4),
                "burst": quota.burst,
                "per": list(limit.per),
                "scope": limit.scope,
                "enforcing": limit.enforcing,
            }
