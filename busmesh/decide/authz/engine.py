"""Istio's order of evaluation, for the requests of one caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from busmesh.decide.authz.facts import Condition, Facts
from busmesh.decide.authz.paths import readings
from busmesh.decide.authz.policy import AccessPolicy, settle
from busmesh.decide.request import Headers
from busmesh.names import SpiffeId


class Edit(NamedTuple):
    """What authentication changes in a request before the application gets it.

    Attributes:
        drop: names of header lines that go, in lower case and with ``-``; those with ``_`` go as well.
        add: lines that come.
        params: names of query parameters that go.
    """

    drop: frozenset[bytes]
    add: Headers
    params: frozenset[bytes] = frozenset()

    def block(self, block: bytes) -> bytes:
        """Return a block of ``Name: value\\r\\n`` lines after the change."""
        drop = self.drop
        lines = [
            line
            for line in block.split(b"\r\n")[:-1]
            if line.partition(b":")[0].lower().replace(b"_", b"-") not in drop
        ]
        lines += [b"%b: %b" % pair for pair in self.add]
        return b"".join([line + b"\r\n" for line in lines])

    def target(self, target: bytes) -> bytes:
        """Return a request target after the change."""
        path, mark, query = target.partition(b"?")
        if not mark or not self.params:
            return target
        kept = [part for part in query.split(b"&") if part.partition(b"=")[0] not in self.params]
        return b"?".join([path, b"&".join(kept)]) if kept else path


class Decision(NamedTuple):
    """Whether a request is served, and why.

    Attributes:
        allowed: it is.
        status: of the answer if it is not: 400, 401 or 403.
        code: short and stable, for counters: ``no_policy``, ``allowed``, ``denied``, ``not_allowed``,
            ``path``, ``method``, ``token``, ``no_token``.
        policy: the document that decided, empty if none did.
        rule: the place of the rule in it, -1 if none did.
        reason: one line for people; nothing in it comes from the request.
        shadow: the decision if the policies in dry run were in force; None without such.
        audits: the documents whose AUDIT matched.
        edit: what changes in the request before the application gets it.
        token_asked: a rule that had a part in it looks at tokens.
    """

    allowed: bool
    status: int = 0
    code: str = ""
    policy: str = ""
    rule: int = -1
    reason: str = ""
    shadow: Decision | None = None
    audits: tuple[str, ...] = ()
    edit: Edit | None = None
    token_asked: bool = False


#: Istio's words for a request that it does not let through.
DENIED_BODY = "RBAC: access denied"
OPEN = Decision(True, code="no_policy", reason="no policy applies")
BAD_PATH = Decision(False, 400, "path", reason="a path that can be read in ways that no policy can foresee")
BAD_METHOD = Decision(False, 400, "method", reason="a method that is not in capital letters")


class Engine:
    """The policies of one kind of evaluation, settled for one caller: DENY first, then ALLOW.

    Attributes:
        constant: the decision on every request, None if it depends on the request.
    """

    __slots__ = ("_allow", "_deny", "_methods", "_otherwise", "_paths", "constant")

    def __init__(self, policies: Sequence[AccessPolicy], caller: SpiffeId) -> None:
        self._deny: list[tuple[Condition | None, Decision]] = []
        self._allow: list[tuple[Condition | None, Decision]] = []
        self._paths = self._methods = tokens = False
        for policy in policies:
            for index, rule in enumerate(policy.rules):
                settled = settle(rule, caller)
                if settled is None or policy.action == "AUDIT":
                    continue
                self._paths = self._paths or settled.paths
                self._methods = self._methods or settled.methods
                denies = policy.action == "DENY"
                if denies:
                    verdict = _denied(policy.name, index)._replace(token_asked=settled.tokens)
                    self._deny.append((settled.condition, verdict))
                else:
                    tokens = tokens or settled.tokens
                    self._allow.append((settled.condition, _allowed(policy.name, index)))
        allowing = [policy.name for policy in policies if policy.action == "ALLOW"]
        self._otherwise = _not_allowed(allowing)._replace(token_asked=tokens) if allowing else OPEN
        self.constant = self._always()

    def _always(self) -> Decision | None:
        for condition, verdict in self._deny:
            if condition is None:
                return verdict
        if self._deny:
            return None
        if not self._allow:
            return self._otherwise
        return next((verdict for condition, verdict in self._allow if condition is None), None)

    def decide(self, facts: Facts) -> Decision:
        """Decide on one request; ``facts.path`` is left at any reading of the path."""
        if self.constant is not None:
            return self.constant
        head = facts.head
        if self._methods and head.method != head.method.upper():
            return BAD_METHOD
        if not self._paths:
            return self._ask(facts)
        several = readings(head.target.partition(b"?")[0])
        if several is None:
            return BAD_PATH
        first: Decision | None = None
        for path in several:
            facts.path = path
            decision = self._ask(facts)
            if not decision.allowed:
                return decision
            first = first or decision
        assert first is not None, "there is always the path as it came"
        return first

    def _ask(self, facts: Facts) -> Decision:
        for condition, verdict in self._deny:
            if condition is None or condition(facts):
                return verdict
        for condition, verdict in self._allow:
            if condition is None or condition(facts):
                return verdict
        return self._otherwise


class Audits:
    """The AUDIT policies, settled for one caller: they count and decide nothing."""

    __slots__ = ("_entries",)

    def __init__(self, policies: Sequence[AccessPolicy], caller: SpiffeId) -> None:
        self._entries: list[tuple[str, list[Condition | None], bool]] = []
        for policy in policies:
            if policy.action == "AUDIT":
                found = [left for rule in policy.rules if (left := settle(rule, caller)) is not None]
                if found:
                    paths = any(left.paths for left in found)
                    self._entries.append((policy.name, [left.condition for left in found], paths))

    def __bool__(self) -> bool:
        return bool(self._entries)

    def matching(self, facts: Facts) -> tuple[str, ...]:
        """Return the documents that match; a path that can be read in several ways, in any of them."""
        raw = facts.head.target.partition(b"?")[0]
        names = []
        for name, conditions, paths in self._entries:
            for path in (readings(raw) or (raw,)) if paths else (raw,):
                facts.path = path
                if any(condition is None or condition(facts) for condition in conditions):
                    names.append(name)
                    break
        return tuple(names)


def _denied(policy: str, index: int) -> Decision:
    return Decision(False, 403, "denied", policy, index, f"rule {index} of {policy} denies it")


def _allowed(policy: str, index: int) -> Decision:
    return Decision(True, 0, "allowed", policy, index, f"rule {index} of {policy} allows it")


def _not_allowed(allowing: Sequence[str]) -> Decision:
    shown = ", ".join(allowing[:3]) + (f" and {len(allowing) - 3} more" if len(allowing) > 3 else "")
    policy = allowing[0] if len(allowing) == 1 else ""
    return Decision(False, 403, "not_allowed", policy, -1, f"no rule of {shown} allows it")
