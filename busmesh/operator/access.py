"""May A call B? The answer that B's instances would give, worked out where the operator sits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from busmesh.decide.authz.authorizer import Authorizer
from busmesh.decide.authz.engine import OPEN, Decision
from busmesh.decide.authz.facts import Claims
from busmesh.decide.request import RequestHead
from busmesh.names import ServiceName, SpiffeId
from busmesh.policy.compileauthz import compile_authorizer
from busmesh.policy.documents import Document

_UNKNOWN = Decision(False, 401, "token", reason="no RequestAuthentication knows the issuer of these claims")


def access_rows(
    documents: Sequence[Document],
    caller: SpiffeId,
    service: ServiceName,
    instances: Iterable[Mapping[str, str]],
    head: RequestHead,
    claims: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Return one answer for each set of labels that instances of ``service`` carry.

    Args:
        documents: that are published, in the order of their keys.
        caller: who asks.
        service: who is asked.
        instances: the labels of each of its instances; none stands for one without labels.
        head: of the request.
        claims: of a token that is taken for verified; None for a request without token.
    """
    numbers: dict[tuple[tuple[str, str], ...], int] = {}
    for labels in instances:
        carried = tuple(sorted(labels.items()))
        numbers[carried] = numbers.get(carried, 0) + 1
    rows = []
    for carried, number in (numbers or {(): 0}).items():
        authorizer = compile_authorizer(documents, service, dict(carried))
        decision = OPEN if authorizer is None else _decision(authorizer, caller, head, claims)
        rows.append(
            {
                "caller": str(caller.service),
                "service": str(service),
                "method": head.method.decode(),
                "path": head.target.decode("utf-8", "replace"),
                **_plain(decision),
                "dry_run": None if decision.shadow is None else _plain(decision.shadow),
                "audits": list(decision.audits),
                "labels": dict(carried),
                "instances": number,
            }
        )
    return rows


def _decision(
    authorizer: Authorizer, caller: SpiffeId, head: RequestHead, claims: Mapping[str, Any] | None
) -> Decision:
    known: Collection[str] = authorizer.authenticator.issuers if authorizer.authenticator else ()
    if claims is None or not known:  # without a RequestAuthentication nobody looks at tokens
        return authorizer.decide(caller, head, None)
    stated = {"iss": next(iter(known)), **claims} if len(known) == 1 else claims
    if stated.get("iss") not in known:
        return _UNKNOWN
    return authorizer.decide(caller, head, Claims(stated))


def _plain(decision: Decision) -> dict[str, Any]:
    return {
        "allowed": decision.allowed,
        "status": decision.status or None,
        "code": decision.code,
        "policy": decision.policy or None,
        "rule": None if decision.rule < 0 else decision.rule,
        "reason": decision.reason,
    }
