"""What one document means, looked at by itself: sums, names given twice, rules that nobody reaches."""

from __future__ import annotations

from collections.abc import Iterator

from busmesh.policy.authentication import RequestAuthenticationSpec
from busmesh.policy.authorization import AuthorizationSpec
from busmesh.policy.checkregex import short_sighted
from busmesh.policy.destination import DestinationSpec
from busmesh.policy.documents import Document
from busmesh.policy.faults import HttpFault
from busmesh.policy.ratelimit import RateLimitSpec
from busmesh.policy.route import HttpMatch, HttpRoute, RouteDestination, RouteSpec
from busmesh.yamlfile import Finding, Path


def check_document(document: Document) -> list[Finding]:
    """Return what is wrong or doubtful in a document whatever else there is."""
    match document.spec:
        case RouteSpec() as spec:
            return [*_hosts(document, spec), *_rules(document, spec), *short_sighted(document, spec)]
        case DestinationSpec() as spec:
            return list(_subsets(document, spec))
        case RateLimitSpec() as spec:
            return [*_limits(document, spec), *short_sighted(document, spec)]
        case AuthorizationSpec() as spec:
            return list(_access(document, spec))
        case RequestAuthenticationSpec() as spec:
            return list(_issuers(document, spec))


def _hosts(document: Document, spec: RouteSpec) -> Iterator[Finding]:
    seen = set()
    for index, host in enumerate(spec.hosts):
        service = document.service(host)
        if service in seen:
            path = ("spec", "hosts", index)
            yield document.finding("BM2102", f"the host {service} stands twice here", path, hint="remove one")
        seen.add(service)


def _rules(document: Document, spec: RouteSpec) -> Iterator[Finding]:
    caught_by: int | None = None
    names: set[str] = set()
    for index, rule in enumerate(spec.http):
        path: Path = ("spec", "http", index)
        if caught_by is not None:
            message = f"this rule is never reached: http[{caught_by}] takes every request"
            yield document.finding("BM2107", message, path, level="warning", hint="put it before that one")
        elif not rule.match or any(is_catch_all(entry) for entry in rule.match):
            caught_by = index
        if rule.name is not None and rule.name in names:
            message = f"two rules are called {rule.name!r}"
            yield document.finding("BM2108", message, (*path, "name"), hint="telemetry needs two names")
        names.add(rule.name or "")
        if rule.route:
            yield from _weights(document, rule, (*path, "route"))
        if rule.fault is not None:
            yield from _faults(document, rule.fault, (*path, "fault"))


def is_catch_all(entry: HttpMatch) -> bool:
    """Whether an entry of a match holds for every request of every caller."""
    conditions = {
        name
        for name in entry.model_fields_set
        if name not in ("name", "gateways", "ignore_uri_case") and getattr(entry, name)
    }
    return not conditions or (conditions == {"uri"} and entry.uri is not None and entry.uri.prefix == "/")


def _faults(document: Document, fault: HttpFault, path: Path) -> Iterator[Finding]:
    """Yield a doubt for a fault that does not say how often: it is taken for never, as in Istio."""
    delay, abort = fault.delay, fault.abort
    if delay is not None and delay.percentage is None and delay.percent is None:
        yield _never(document, (*path, "delay"))
    if abort is not None and abort.percentage is None:
        yield _never(document, (*path, "abort"))


def _never(document: Document, path: Path) -> Finding:
    message = f"without percentage no request gets this {path[-1]}"
    hint = "add percentage: {value: 100} for all"
    return document.finding("BM2121", message, path, level="warning", hint=hint)


def _weights(document: Document, rule: HttpRoute, path: Path) -> Iterator[Finding]:
    weights = relative_weights(rule.route)
    if not any(weights):
        yield document.finding(
            "BM2105", "no destination has a weight above 0", path, hint="give one a weight"
        )
    elif len(weights) > 1 and sum(weights) != 100:
        message = f"the weights add up to {sum(weights)}, not 100"
        absent = any(target.weight is None for target in rule.route)
        hint = "a destination without weight counts as 0" if absent else "make them add up to 100"
        yield document.finding("BM2104", message, path, hint=hint)


def relative_weights(route: tuple[RouteDestination, ...]) -> list[int]:
    """Return the weights of a rule's destinations: a single one without weight gets everything."""
    if len(route) == 1 and route[0].weight is None:
        return [100]
    return [target.weight or 0 for target in route]


def _subsets(document: Document, spec: DestinationSpec) -> Iterator[Finding]:
    seen = set()
    for index, subset in enumerate(spec.subsets):
        if subset.name in seen:
            path = ("spec", "subsets", index, "name")
            yield document.finding(
                "BM2106", f"the subset {subset.name!r} stands twice", path, hint="remove one"
            )
        seen.add(subset.name)


def _limits(document: Document, spec: RateLimitSpec) -> Iterator[Finding]:
    names: set[str] = set()
    for index, limit in enumerate(spec.limits):
        path: Path = ("spec", "limits", index)
        if limit.name is not None and limit.name in names:
            message = f"two limits are called {limit.name!r}"
            yield document.finding("BM2108", message, (*path, "name"), hint="telemetry needs two names")
        names.add(limit.name or "")
        seen = set()
        for number, override in enumerate(limit.overrides):
            for place, host in enumerate(override.callers):
                caller = document.service(host)
                if caller in seen:
                    where = (*path, "overrides", number, "callers", place)
                    message = f"the caller {caller} is overridden twice"
                    yield document.finding("BM2131", message, where, hint="remove one")
                seen.add(caller)


def _access(document: Document, spec: AuthorizationSpec) -> Iterator[Finding]:
    path: Path = ("spec", "action")
    if spec.action != "ALLOW" and not spec.rules:
        message = f"a policy that says {spec.action} without rules does nothing"
        yield document.finding("BM2141", message, path, hint="rules: [{}] is every request")
    if spec.action == "AUDIT" and spec.dry_run:
        message = "AUDIT only counts: a dry run of it counts nothing"
        yield document.finding("BM2142", message, path, level="warning", hint="remove the dry run")


def _issuers(document: Document, spec: RequestAuthenticationSpec) -> Iterator[Finding]:
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for index, rule in enumerate(spec.jwt_rules):
        same = (rule.issuer, tuple(sorted(rule.audiences)))
        if same in seen:
            path = ("spec", "jwtRules", index, "issuer")
            yield document.finding("BM2143", "this issuer stands twice here", path, hint="remove one")
        seen.add(same)
