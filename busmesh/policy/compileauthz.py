"""From authorization documents to what protects one instance.

Which documents are about it is settled here: by namespace, services and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from busmesh.decide.authz import authenticate, facts, policy
from busmesh.decide.authz.authenticate import Authenticator, Place
from busmesh.decide.authz.authorizer import Authorizer
from busmesh.decide.authz.facts import Condition
from busmesh.decide.authz.paths import compatible
from busmesh.decide.authz.pathsets import PathSets
from busmesh.decide.authz.patterns import Patterns
from busmesh.decide.authz.policy import AccessPolicy, CallerTest, Terms, spellings
from busmesh.decide.match import Test
from busmesh.names import ServiceName
from busmesh.policy.authentication import JwtRule, RequestAuthenticationSpec
from busmesh.policy.authfields import condition_key
from busmesh.policy.authorization import AccessRule, AuthorizationSpec, Operation, Source, When
from busmesh.policy.documents import Document
from busmesh.policy.fields import seconds

#: Documents in these namespaces are about the whole mesh. Istio's root namespace is `istio-system`, and its
#: documents are to work as they are.
ROOT_NAMESPACES = frozenset(("mesh", "istio-system"))
#: Istio's label for the service of a workload.
APP = "app"


def compile_authorizer(
    documents: Iterable[Document], service: ServiceName, labels: Mapping[str, str]
) -> Authorizer | None:
    """Return what protects an instance; None if no document is about it.

    Args:
        documents: all that are published, in the order of their keys.
        service: of the instance.
        labels: of the instance.
    """
    policies: list[AccessPolicy] = []
    sets = _Sets()
    rules: list[tuple[str, JwtRule]] = []
    for document in documents:
        if not is_about(document, service, labels):
            continue
        if isinstance(document.spec, AuthorizationSpec):
            policies.append(_policy(document, document.spec, sets))
        elif isinstance(document.spec, RequestAuthenticationSpec):
            rules += [(str(document.key), rule) for rule in document.spec.jwt_rules]
    if not policies and not rules:
        return None
    authenticator = Authenticator(_places(rules)) if rules else None
    return Authorizer(policies, authenticator, PathSets(sets.in_order()))


class _Sets:
    """The sets of paths of all documents: each has a number, and the same one everywhere."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: dict[Patterns, int] = {}

    def number(self, patterns: Patterns) -> int:
        return self._numbers.setdefault(patterns, len(self._numbers))

    def in_order(self) -> list[Patterns]:
        return list(self._numbers)


def is_about(document: Document, service: ServiceName, labels: Mapping[str, str]) -> bool:
    """Whether an authorization or authentication applies to an instance of ``service`` with ``labels``."""
    spec = document.spec
    if not isinstance(spec, AuthorizationSpec | RequestAuthenticationSpec):
        return False
    if document.key.namespace not in ROOT_NAMESPACES and document.key.namespace != service.namespace:
        return False
    hosts = spec.hosts if isinstance(spec, AuthorizationSpec) else ()
    if hosts and service not in {document.service(host) for host in hosts}:
        return False
    wanted = spec.selector.match_labels if spec.selector is not None else {}
    carried = {APP: service.name, **labels}
    return all(carried.get(name) == value for name, value in wanted.items())


def _policy(document: Document, spec: AuthorizationSpec, sets: _Sets) -> AccessPolicy:
    strict = spec.action == "ALLOW"
    return AccessPolicy(
        name=str(document.key),
        action=spec.action,
        rules=tuple(_rule(rule, document.key.namespace, sets, strict=strict) for rule in spec.rules),
        dry_run=spec.dry_run,
    )


def _rule(rule: AccessRule, namespace: str, sets: _Sets, *, strict: bool) -> policy.AccessRule:
    return policy.AccessRule(
        sources=tuple(_source(entry.source, namespace) for entry in rule.sources),
        operations=tuple(_operation(entry.operation, sets, strict=strict) for entry in rule.operations),
        when=_when(rule.when, namespace, strict=strict),
    )


def _source(source: Source, namespace: str) -> Terms:
    caller: list[CallerTest] = []
    if source.principals:
        caller.append(_principal_in(source.principals))
    if source.not_principals:
        caller.append(_not(_principal_in(source.not_principals)))
    if source.namespaces:
        caller.append(_namespace_in(source.namespaces))
    if source.not_namespaces:
        caller.append(_not(_namespace_in(source.not_namespaces)))
    if source.service_accounts:
        caller.append(_account_in(source.service_accounts, namespace))
    if source.not_service_accounts:
        caller.append(_not(_account_in(source.not_service_accounts, namespace)))
    request: list[Condition] = []
    if source.request_principals:
        request.append(facts.principal_in(_test(source.request_principals)))
    if source.not_request_principals:
        request.append(facts.outside(facts.principal_in(_test(source.not_request_principals))))
    return Terms(tuple(caller), tuple(request), tokens=bool(request))


def _operation(operation: Operation, sets: _Sets, *, strict: bool) -> Terms:
    request: list[Condition] = []  # the cheap ones first
    if operation.methods:
        request.append(facts.method_in(_test(operation.methods)))
    if operation.not_methods:
        request.append(facts.outside(facts.method_in(_test(operation.not_methods))))
    within: int | None = None
    if operation.paths:
        within = sets.number(_paths(operation.paths, either_end=not strict))
        request.append(facts.path_in(within))
    if operation.not_paths:
        number = sets.number(_paths(operation.not_paths, either_end=strict))
        request.append(facts.outside(facts.path_in(number)))
    request += [_hosts(operation.hosts, strict=strict)] if operation.hosts else []
    request += [facts.outside(_hosts(operation.not_hosts, strict=not strict))] if operation.not_hosts else []
    paths = bool(operation.paths or operation.not_paths)
    methods = bool(operation.methods or operation.not_methods)
    return Terms((), tuple(request), paths=paths, methods=methods, within=within)


def _when(entries: Sequence[When], namespace: str, *, strict: bool) -> Terms:
    caller: list[CallerTest] = []
    request: list[Condition] = []
    tokens = False
    for entry in entries:
        key, path = condition_key(entry.key)
        for values, wanted in ((entry.values, True), (entry.not_values, False)):
            if not values:
                continue
            if key in _CALLER_KEYS:
                test = _CALLER_KEYS[key](values, namespace)
                caller.append(test if wanted else _not(test))
            elif key == "request.headers":
                make = facts.header_in if wanted else facts.header_not_in
                request.append(make(path[0], _test(values), strict=strict))
            else:
                tokens = True
                inside = _token_says(key, path, _test(values))
                request.append(inside if wanted else facts.outside(inside))
    return Terms(tuple(caller), tuple(request), tokens=tokens)


def _token_says(key: str, path: tuple[str, ...], test: Test) -> Condition:
    match key:
        case "request.auth.principal":
            return facts.principal_in(test)
        case "request.auth.audiences":
            return facts.claim_in(("aud",), test)
        case "request.auth.presenter":
            return facts.claim_in(("azp",), test)
        case _:
            return facts.claim_in(path, test)


def _test(texts: Iterable[str]) -> Test:
    return Patterns.parse(texts).test()


def _principal_in(texts: Sequence[str]) -> CallerTest:
    test = _test(texts)
    return lambda caller: any(map(test, spellings(caller)))


def _namespace_in(texts: Sequence[str]) -> CallerTest:
    test = _test(texts)
    return lambda caller: caller.service is not None and test(caller.service.namespace.encode())


def _account_in(texts: Sequence[str], namespace: str) -> CallerTest:
    accounts = {
        ServiceName(text.rpartition("/")[2], text.partition("/")[0] if "/" in text else namespace)
        for text in texts
    }
    return lambda caller: caller.service in accounts


def _not(test: CallerTest) -> CallerTest:
    return lambda caller: not test(caller)


_CALLER_KEYS: Mapping[str, Callable[[Sequence[str], str], CallerTest]] = {
    "source.principal": lambda texts, _: _principal_in([text.removeprefix("spiffe://") for text in texts]),
    "source.namespace": lambda texts, _: _namespace_in(texts),
    "source.serviceAccount": _account_in,
}


def _paths(texts: Sequence[str], *, either_end: bool) -> Patterns:
    """Return the readings of paths that are among patterns.

    Args:
        texts: as documents write them.
        either_end: with or without a slash at the end is the same, as it is to many applications.
    """
    written = Patterns.parse(texts)

    def spelt(literals: Iterable[bytes]) -> set[bytes]:
        plain = {unquote_to_bytes(literal) for literal in literals}
        return plain | {compatible(literal) for literal in plain}

    exact, suffixes = spelt(written.exact), spelt(written.suffixes)
    if either_end:
        exact |= {path + b"/" for path in exact}
        suffixes |= {path + b"/" for path in suffixes}
    prefixes = spelt(written.prefixes)
    return Patterns(frozenset(exact), tuple(sorted(prefixes)), tuple(sorted(suffixes)), written.present)


def _hosts(texts: Sequence[str], *, strict: bool) -> Condition:
    """Return the condition that the Host is among patterns; those with a port are compared with it."""
    lower = [text.lower() for text in texts]
    whole, names = [text for text in lower if ":" in text], [text for text in lower if ":" not in text]
    conditions = [
        facts.host_in(_test(some), port=port, strict=strict)
        for some, port in ((names, False), (whole, True))
        if some
    ]
    if len(conditions) == 1:
        return conditions[0]
    return lambda request: any(condition(request) for condition in conditions)


def _places(rules: Sequence[tuple[str, JwtRule]]) -> list[Place]:
    """Return the places where tokens may be, each with the rules of all documents about it."""
    found: dict[tuple[authenticate.Kind, str, bytes, bool], list[authenticate.JwtRule]] = {}
    for name, rule in rules:
        compiled = authenticate.JwtRule(
            policy=name,
            issuer=rule.issuer,
            audiences=frozenset(rule.audiences),
            jwks=rule.jwks or "",
            jwks_uri=rule.jwks_uri or "",
            timeout=seconds(rule.timeout),
            forward=rule.forward_original_token,
            payload_header=rule.output_payload_to_header or "",
            claim_headers=tuple(
                (entry.header, tuple(entry.claim.split("."))) for entry in rule.output_claim_to_headers
            ),
        )
        for place in _places_of(rule):
            found.setdefault(place, []).append(compiled)
    return [Place(*place, rules=tuple(those)) for place, those in found.items()]


def _places_of(rule: JwtRule) -> list[tuple[authenticate.Kind, str, bytes, bool]]:
    if not (rule.from_headers or rule.from_params or rule.from_cookies):
        return [("header", "authorization", b"Bearer ", True), ("param", "access_token", b"", False)]
    return [
        *(("header", header.name.lower(), header.prefix.encode(), False) for header in rule.from_headers),
        *(("param", name, b"", False) for name in rule.from_params),
        *(("cookie", name, b"", False) for name in rule.from_cookies),
    ]
