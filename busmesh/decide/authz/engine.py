"""Istio's order of evaluation, for the requests of one caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from busmesh.decide.authz.facts import Facts
from busmesh.decide.authz.pathsets import NONE
from busmesh.decide.authz.policy import AccessPolicy, Settled, settle
from busmesh.decide.authz.ruletable import RuleTable
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

    __slots__ = ("_methods", "_otherwise", "_paths", "_rules", "constant")

    def __init__(self, policies: Sequence[AccessPolicy], caller: SpiffeId) -> None:
        deny: list[tuple[Settled, Decision]] = []
        allow: list[tuple[Settled, Decision]] = []
        for policy in policies:
            for index, rule in enumerate(policy.rules):
                settled = settle(rule, caller)
                if settled is None or policy.action == "AUDIT":
                    continue
                if policy.action == "DENY":
                    verdict = _denied(policy.name, index)._replace(token_asked=settled.tokens)
                    deny.append((settled, verdict))
                else:
                    allow.append((settled, _allowed(policy.name, index)))
        self._rules = RuleTable([*deny, *allow])
        self._paths = any(settled.paths for settled, _ in (*deny, *allow))
        self._methods = any(settled.methods for settled, _ in (*deny, *allow))
        tokens = any(settled.tokens for settled, _ in allow)
        allowing = [policy.name for policy in policies if policy.action == "ALLOW"]
        self._otherwise = _not_allowed(allowing)._replace(token_asked=tokens) if allowing else OPEN
        self.constant = _always(deny) or (_always(allow) if not deny else None)
        if not deny and not allow:
            self.constant = self._otherwise

    def decide(self, facts: Facts) -> Decision:
        """Decide on one request: the first reading of its path that is not let through decides."""
        if self.constant is not None:
            return self.constant
        head = facts.head
        if self._methods and head.method != head.method.upper():
            return BAD_METHOD
        if not self._paths:
            return self._rules.first(facts) or self._otherwise
        ways = facts.ways()
        if ways is None:
            return BAD_PATH
        first: Decision | None = None
        for within in ways:
            facts.within = within
            decision = self._rules.first(facts) or self._otherwise
            if not decision.allowed:
                return decision
            first = first or decision
        assert first is not None, "there is always the path as it came"
        return first


def _always(rules: Sequence[tuple[Settled, Decision]]) -> Decision | None:
    """Return what follows from the first rule that always holds."""
    return next((verdict for settled, verdict in rules if settled.condition is None), None)


class Audits:
    """The AUDIT policies, settled for one caller: they count and decide nothing."""

    __slots__ = ("_entries",)

    def __init__(self, policies: Sequence[AccessPolicy], caller: SpiffeId) -> None:
        self._entries: list[tuple[str, RuleTable[Literal[True]], bool]] = []
        for policy in policies:
            if policy.action == "AUDIT":
                found = [left for rule in policy.rules if (left := settle(rule, caller)) is not None]
                if found:
                    rules: RuleTable[Literal[True]] = RuleTable([(left, True) for left in found])
                    self._entries.append((policy.name, rules, any(left.paths for left in found)))

    def __bool__(self) -> bool:
        return bool(self._entries)

    def matching(self, facts: Facts) -> tuple[str, ...]:
        """Return the documents that match; a path that can be read in several ways, in any of them."""
        names = []
        for name, rules, paths in self._entries:
            for within in (facts.ways() or (facts.way_as_it_came(),)) if paths else (NONE,):
                facts.within = within
                if rules.first(facts):
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
