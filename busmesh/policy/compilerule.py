"""From a rule of a Route to what the request path asks of it, all but the match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from random import Random

from busmesh.decide import match
from busmesh.decide.answer import DirectResponse, Redirect
from busmesh.decide.fault import Fault
from busmesh.decide.headers import HeaderOps
from busmesh.decide.retry import DEFAULT_RETRIES
from busmesh.decide.rewrite import Rewrite
from busmesh.decide.route import Mirror, Owner, Rule, Target
from busmesh.decide.split import Split
from busmesh.policy.actions import HttpRedirect, HttpRewrite, SplitBy
from busmesh.policy.check import relative_weights
from busmesh.policy.compilematch import Caller
from busmesh.policy.documents import Document
from busmesh.policy.faults import HttpFault
from busmesh.policy.fields import seconds
from busmesh.policy.regex import substitution
from busmesh.policy.route import DestinationRef, HeaderOperations, Headers, HttpRoute, RouteMatch
from busmesh.policy.snapshot import Snapshot


class RuleCompiler:
    """Compiles the rules of one document for one caller."""

    def __init__(self, document: Document, snapshot: Snapshot, caller: Caller, rng: Random) -> None:
        self._document = document
        self._snapshot = snapshot
        self._caller = caller
        self._rng = rng

    def rule(self, rule: HttpRoute, index: int) -> Rule:
        """Return the rule, which as yet matches everything and rewrites nothing."""
        key = self._document.key
        name = rule.name or f"{key.name}[{index}]"
        request, response = _operations(rule.headers)
        copies = [(copy, copy.fraction) for copy in rule.copies() if copy.fraction]
        return Rule(
            name=name,
            split=self._split(rule, f"{key.namespace}/{key.name}/{name}") if rule.route else None,
            timeout=(seconds(rule.timeout) or None) if rule.timeout else None,
            request_headers=request,
            response_headers=response,
            retries=DEFAULT_RETRIES if rule.retries is None else rule.retries.compiled(),
            fault=None if rule.fault is None else _fault(rule.fault),
            mirrors=tuple(Mirror(self._target(copy.destination), share) for copy, share in copies),
            answer=_answer(rule),
            owner=None if rule.split_by is None else self._owner(rule.split_by),
        )

    def _split(self, rule: HttpRoute, salt: str) -> Split[Target]:
        targets = [self._target(route.destination, route.headers) for route in rule.route]
        choices = list(zip(targets, relative_weights(rule.route), strict=True))
        return Split(choices, self._rng.random(), salt)

    def _target(self, destination: DestinationRef, headers: Headers | None = None) -> Target:
        service, subset = self._document.service(destination.host), destination.subset
        request, response = _operations(headers)
        return Target(
            service=service,
            subset=subset,
            labels=self._snapshot.subset_labels(service, subset),
            balancer=self._snapshot.balancer(service, subset),
            request_headers=request,
            response_headers=response,
            traffic=self._snapshot.traffic(service, subset),
        )

    def _owner(self, by: SplitBy) -> Owner:
        if by.header is not None:
            header = by.header.lower().encode()
            return lambda head: match.header_value(head.block, header) or None
        if by.query is not None:
            query = by.query.encode()
            return lambda head: match.query_value(head.target.partition(b"?")[2], query) or None
        if by.cookie is not None:
            cookie = by.cookie.encode()
            return lambda head: (
                match.cookie_value(match.header_value(head.block, b"cookie") or b"", cookie) or None
            )
        service = self._caller.service
        caller = f"{service.name}.{service.namespace}".encode()
        return lambda _: caller


def ways_to_match(
    rule: HttpRoute, entries: Sequence[RouteMatch]
) -> Iterator[tuple[Rewrite | None, list[RouteMatch]]]:
    """Yield each rewriting that a rule does, and the entries of its match for which it does that."""
    rewrite = rule.rewrite
    if rewrite is None:
        yield None, list(entries)
    elif rewrite.uri is None:
        yield _rewrite(rewrite, None), list(entries)
    elif not entries:
        yield _rewrite(rewrite, b"/"), []
    else:
        for prefix, alternatives in groupby(entries, _matched_prefix):
            yield _rewrite(rewrite, prefix), list(alternatives)


def _matched_prefix(entry: RouteMatch) -> bytes | None:
    """Return the prefix of every path that an entry matches; None if it matches whole paths."""
    if entry.uri is None:
        return b"/"  # as Istio has it: a match without a path is one of every path
    return None if entry.uri.prefix is None else entry.uri.prefix.encode()


def _rewrite(rewrite: HttpRewrite, prefix: bytes | None) -> Rewrite:
    regex = rewrite.uri_regex_rewrite
    return Rewrite(
        uri=None if rewrite.uri is None else rewrite.uri.encode(),
        prefix=prefix,
        substitution=None if regex is None else substitution(regex.match, regex.rewrite),
        authority=None if rewrite.authority is None else rewrite.authority.encode(),
    )


def _fault(fault: HttpFault) -> Fault | None:
    """Return what a fault does; None if it is one of no request."""
    delay, abort = fault.delay, fault.abort
    compiled = Fault(
        delay_s=0.0 if delay is None else seconds(delay.fixed_delay),
        delay_fraction=0.0 if delay is None else delay.fraction,
        abort_status=0 if abort is None else abort.http_status,
        abort_fraction=0.0 if abort is None else abort.fraction,
    )
    return compiled if compiled.delay_fraction or compiled.abort_fraction else None


def _answer(rule: HttpRoute) -> Redirect | DirectResponse | None:
    if rule.direct_response is not None:
        body = rule.direct_response.body
        return DirectResponse(rule.direct_response.status, b"" if body is None else body.content())
    return None if rule.redirect is None else _redirect(rule.redirect)


def _redirect(redirect: HttpRedirect) -> Redirect:
    def encoded(text: str | None) -> bytes | None:
        return None if text is None else text.encode()

    derived = redirect.derive_port
    return Redirect(
        status=redirect.redirect_code,
        uri=encoded(redirect.uri),
        authority=encoded(redirect.authority),
        scheme=encoded(redirect.scheme),
        port=0 if derived == "FROM_PROTOCOL_DEFAULT" else redirect.port,
        request_port=derived == "FROM_REQUEST_PORT",
    )


def _operations(headers: Headers | None) -> tuple[HeaderOps | None, HeaderOps | None]:
    if headers is None:
        return None, None
    return _header_ops(headers.request), _header_ops(headers.response)


def _header_ops(operations: HeaderOperations | None) -> HeaderOps | None:
    if operations is None or not (operations.set or operations.add or operations.remove):
        return None
    return HeaderOps(put=operations.set, add=operations.add, remove=operations.remove)
