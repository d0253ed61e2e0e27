"""From a RateLimit to the limits that an instance of its service keeps."""

from __future__ import annotations

from collections.abc import Iterator

from busmesh.decide import limit
from busmesh.policy.compilematch import Caller, condition_of
from busmesh.policy.documents import Document
from busmesh.policy.plain import canonical, digest
from busmesh.policy.ratelimit import LimitMatch, QuotaSpec, RateLimitSpec
from busmesh.yamlfile import Plain


def limits_of(document: Document, me: Caller) -> Iterator[limit.Limit]:
    """Yield the limits of a RateLimit, if it is about the service of this instance."""
    spec = document.spec
    if not isinstance(spec, RateLimitSpec) or document.service(spec.host) != me.service:
        return
    for index, declared in enumerate(spec.limits):
        said = declared.model_dump(mode="json", exclude={"enforcing"})
        same: Plain = [str(document.key), declared.name or index, said]
        yield limit.Limit(
            name=declared.name or f"{document.key.name}[{index}]",
            identity=digest(canonical(same)),
            quota=_quota(declared),
            match=tuple(_limited(entry, document) for entry in declared.match),
            per=tuple(part.lower() for part in declared.per),
            scope=declared.scope,
            enforcing=declared.enforcing,
            quotas={
                document.service(host): _quota(override)
                for override in declared.overrides
                for host in override.callers
            },
        )


def _quota(spec: QuotaSpec) -> limit.Quota:
    return limit.Quota(spec.rate, float(spec.burst or spec.requests))


def _limited(entry: LimitMatch, document: Document) -> limit.Entry:
    caller = None if entry.caller is None else document.service(entry.caller)
    return limit.Entry(caller, entry.source_namespace, condition_of(entry))
