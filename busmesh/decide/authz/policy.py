"""Istio's AuthorizationPolicy, compiled: rules, what they ask of the caller, what they ask of a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from busmesh.decide.authz.facts import Condition, Facts
from busmesh.names import SpiffeId

Action = Literal["ALLOW", "DENY", "AUDIT"]
CallerTest = Callable[[SpiffeId], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What must hold together: an entry of ``from`` or ``to``, or all of ``when``.

    Attributes:
        caller: asked once per caller.
        request: asked of each request.
        paths: whether one of ``request`` looks at the path; ``methods`` at the method; ``tokens`` at what a
            token says.
        within: the number of a set of paths that the path must be in; None if there is none.
    """

    caller: tuple[CallerTest, ...] = ()
    request: tuple[Condition, ...] = ()
    paths: bool = False
    methods: bool = False
    tokens: bool = False
    within: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AccessRule:
    """One rule: some entry of ``sources``, some entry of ``operations``, and ``when``; empty lists hold."""

    sources: tuple[Terms, ...] = ()
    operations: tuple[Terms, ...] = ()
    when: Terms = Terms()


@dataclass(frozen=True, slots=True, eq=False)
class AccessPolicy:
    """One policy that applies to this instance.

    Attributes:
        name: its document's, for people and counters.
        dry_run: counted and not enforced.
    """

    name: str
    action: Action
    rules: tuple[AccessRule, ...]
    dry_run: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What is left of a rule for one caller.

    Attributes:
        condition: None for "always".
        within: sets of paths, of which the path must be in one; None if it may be any path.
    """

    condition: Condition | None
    paths: bool
    methods: bool
    tokens: bool
    within: frozenset[int] | None = None


def settle(rule: AccessRule, caller: SpiffeId) -> Settled | None:
    """Return what a rule asks of the requests of ``caller``; None if it is not about them."""
    parts: list[Condition] = []
    left: list[Terms] = []
    within: frozenset[int] | None = None
    for entries in (rule.sources, rule.operations, (rule.when,)):
        open_entries = [entry for entry in entries if all(test(caller) for test in entry.caller)]
        if entries and not open_entries:
            return None
        if not all(entry.request for entry in open_entries):
            continue  # one of them holds by itself
        if open_entries:
            parts.append(_any([_all(entry.request) for entry in open_entries]))
            left += open_entries
            wanted = {entry.within for entry in open_entries}
            if None not in wanted:
                within = frozenset(number for number in wanted if number is not None)
    return Settled(
        condition=_all(tuple(parts)) if parts else None,
        paths=any(entry.paths for entry in left),
        methods=any(entry.methods for entry in left),
        tokens=any(entry.tokens for entry in left),
        within=within,
    )


def _all(conditions: tuple[Condition, ...]) -> Condition:
    match conditions:
        case (only,):
            return only
        case (first, second):
            return lambda facts: first(facts) and second(facts)
    return lambda facts: all(condition(facts) for condition in conditions)


def _any(conditions: list[Condition]) -> Condition:
    if len(conditions) == 1:
        return conditions[0]

    def some(facts: Facts) -> bool:
        return any(condition(facts) for condition in conditions)

    return some


def spellings(caller: SpiffeId) -> tuple[bytes, ...]:
    """Return what a principal in a document may look like to mean ``caller``, without its instance.

    The service takes the place of Kubernetes' service account, and ``cluster.local`` means this mesh, as in
    Istio it means the cluster's own trust domain. So ``local/ns/shop/svc/web`` and
    ``cluster.local/ns/shop/sa/web`` are the same.
    """
    if caller.service is None:
        return (caller.principal.removeprefix("spiffe://").encode(),)
    namespace, name = caller.service.namespace, caller.service.name
    return tuple(
        f"{domain}/ns/{namespace}/{kind}/{name}".encode()
        for domain in (caller.mesh, "cluster.local")
        for kind in ("svc", "sa")
    )
