"""Whether documents fit together, with each other and with what is published already.

This is asked before publishing, so that a mesh never has to run a set that contradicts itself; what a
reference dangles on is known best while the operator still looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from busmesh.names import ServiceName
from busmesh.policy.authentication import RequestAuthenticationSpec
from busmesh.policy.authorization import AuthorizationSpec
from busmesh.policy.check import check_document
from busmesh.policy.compileauthz import is_about
from busmesh.policy.destination import DestinationSpec
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.ratelimit import RateLimitSpec
from busmesh.policy.revision import PolicySet
from busmesh.policy.route import RouteSpec
from busmesh.yamlfile import Finding, Path, nearest

#: The labels of every live instance of a service.
Live = Mapping[ServiceName, Collection[Mapping[str, str]]]


def validate_bundle(
    documents: Sequence[Document],
    current: PolicySet | None = None,
    live: Live | None = None,
    *,
    remove: Collection[DocumentKey] = (),
) -> list[Finding]:
    """Return everything that is wrong or doubtful about publishing ``documents``.

    Args:
        documents: what is to be put, as one revision.
        current: the set that it is to be put on; None for an empty one.
        live: the instances that are there now; None if nobody can be asked, which makes a subset that is
            declared nowhere a doubt instead of an error.
        remove: what the same revision removes.
    """
    before = dict(current.documents) if current else {}
    after = {key: document for key, document in before.items() if key not in remove}
    after |= {document.key: document for document in documents}
    findings = [finding for document in documents for finding in check_document(document)]
    findings += _same_keys(documents)
    findings += _hosts_claimed_twice(documents, after)
    declared = declared_subsets(after.values())
    for document in documents:
        findings += _dangling(document, declared, live)
        findings += _unserved(document, live or {})
        findings += _protects_nobody(document, live or {})
    put = {document.key for document in documents}
    untouched = [document for key, document in after.items() if key not in put]
    findings += _left_dangling(untouched, declared_subsets(before.values()), declared, live)
    return findings


def declared_subsets(documents: Collection[Document]) -> set[tuple[ServiceName, str]]:
    """Return (service, subset) for every subset that some Destination declares."""
    return {
        (document.service(document.spec.host), subset.name)
        for document in documents
        if isinstance(document.spec, DestinationSpec)
        for subset in document.spec.subsets
    }


def claims(document: Document) -> Iterator[tuple[ServiceName, Path]]:
    """Yield each service that a document speaks for, and where it says so."""
    match document.spec:
        case RouteSpec(hosts=hosts):
            for index, host in enumerate(hosts):
                yield document.service(host), ("spec", "hosts", index)
        case DestinationSpec(host=host) | RateLimitSpec(host=host):
            yield document.service(host), ("spec", "host")


def used_subsets(document: Document) -> Iterator[tuple[ServiceName, str, Path]]:
    """Yield each subset that a Route sends to, and where it says so."""
    if isinstance(document.spec, RouteSpec):
        for number, rule in enumerate(document.spec.http):
            for path, destination in rule.destinations():
                if destination.subset is not None:
                    whole = ("spec", "http", number, *path, "subset")
                    yield document.service(destination.host), destination.subset, whole


def _same_keys(documents: Sequence[Document]) -> Iterator[Finding]:
    seen: dict[DocumentKey, Document] = {}
    for document in documents:
        first = seen.setdefault(document.key, document)
        if first is not document:
            line, _ = first.source.position(("metadata", "name"))
            message = f"{document.key} stands in {first.source.file}:{line} already"
            hint = "one revision takes one of them: remove or rename the other"
            yield document.finding("BM2101", message, ("metadata", "name"), hint=hint)


def _hosts_claimed_twice(
    documents: Sequence[Document], after: Mapping[DocumentKey, Document]
) -> Iterator[Finding]:
    """Yield a finding for each put document that speaks for a service another document speaks for."""
    claimed: dict[tuple[str, ServiceName], DocumentKey] = {}
    put = {document.key for document in documents}
    for document in sorted(after.values(), key=lambda document: (document.key in put, document.key)):
        for service, path in claims(document):
            other = claimed.setdefault((document.key.kind, service), document.key)
            if other != document.key and document.key in put:
                message = f"{other} already speaks for {service}"
                hint = f"give this document its name, or delete it: busmesh policy delete {_argument(other)}"
                yield document.finding("BM2102", message, path, hint=hint)


def _dangling(
    document: Document, declared: set[tuple[ServiceName, str]], live: Live | None
) -> Iterator[Finding]:
    for service, subset, path in used_subsets(document):
        if (service, subset) in declared:
            continue
        if live is None:
            message = f'no Destination declares subset "{subset}" of {service}'
            hint = (
                "right only if instances carry it as their label version: busmesh policy validate --live asks"
            )
            yield document.finding("BM2103", message, path, level="warning", hint=hint)
        elif not has_version(live, service, subset):
            message = f'subset "{subset}" of {service} has no instances and no Destination declares it'
            hint = f"start an instance with the label version: {subset}, or publish a Destination"
            yield document.finding("BM2103", message, path, hint=hint)


def _unserved(document: Document, live: Live) -> Iterator[Finding]:
    """Yield a doubt for each service that is meant and nobody serves, a typing error most likely."""
    told = set(live)
    for service, path in _meant(document) if live else ():
        if service in told:
            continue
        told.add(service)
        guess = nearest(str(service), map(str, live))
        hint = f"did you mean {guess}?" if guess else "right only if it is still to come"
        message = f"nobody serves {service} now"
        yield document.finding("BM2109", message, path, level="warning", hint=hint)


def _meant(document: Document) -> Iterator[tuple[ServiceName, Path]]:
    """Yield each service that a Route sends to or a RateLimit is about, and where it says so."""
    match document.spec:
        case RouteSpec(http=rules):
            for number, rule in enumerate(rules):
                for path, destination in rule.destinations():
                    yield document.service(destination.host), ("spec", "http", number, *path, "host")
        case RateLimitSpec(host=host):
            yield document.service(host), ("spec", "host")


def addressed(document: Document) -> Iterator[tuple[ServiceName, Path]]:
    """Yield each service that a document names as its own, without others being barred from naming it."""
    if isinstance(document.spec, AuthorizationSpec):
        for index, host in enumerate(document.spec.hosts):
            yield document.service(host), ("spec", "hosts", index)
    else:
        yield from claims(document)


def _protects_nobody(document: Document, live: Live) -> Iterator[Finding]:
    """Yield a doubt for an authorization that is about no instance: what it was for is unprotected."""
    if not live or not isinstance(document.spec, AuthorizationSpec | RequestAuthenticationSpec):
        return
    instances = ((service, labels) for service, carried in live.items() for labels in carried)
    if not any(is_about(document, service, labels) for service, labels in instances):
        named = isinstance(document.spec, AuthorizationSpec) and document.spec.hosts
        path: Path = ("spec", "hosts") if named else ("spec",)
        message = "no instance that is there now is meant by its namespace, hosts and selector"
        hint = "right only if it is still to come; busmesh instances -o wide shows labels"
        yield document.finding("BM2144", message, path, level="warning", hint=hint)


def _left_dangling(
    untouched: Sequence[Document],
    before: set[tuple[ServiceName, str]],
    after: set[tuple[ServiceName, str]],
    live: Live | None,
) -> Iterator[Finding]:
    """Yield a finding for each subset that a published Route uses and this revision takes away."""
    for document in untouched:
        for service, subset, path in used_subsets(document):
            gone = (service, subset) in before - after
            if gone and not (live is not None and has_version(live, service, subset)):
                message = f'{document.key} sends to subset "{subset}" of {service}, which this takes away'
                yield document.finding("BM2103", message, path, hint="publish the Route anew with it")


def has_version(live: Live, service: ServiceName, subset: str) -> bool:
    """Whether a live instance of ``service`` carries ``subset`` as its label ``version``."""
    return any(labels.get("version") == subset for labels in live.get(service, ()))


def _argument(key: DocumentKey) -> str:
    return f"{key.kind.lower()}/{key.namespace}/{key.name}"
