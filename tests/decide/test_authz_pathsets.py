"""One look for all rules against asking each rule about each reading, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.authz import facts
from busmesh.decide.authz.authorizer import Authorizer
from busmesh.decide.authz.facts import Condition
from busmesh.decide.authz.paths import readings
from busmesh.decide.authz.pathsets import PathSets
from busmesh.decide.authz.patterns import Patterns
from busmesh.decide.authz.policy import AccessPolicy, AccessRule, Action, Terms
from busmesh.decide.request import RequestHead
from busmesh.names import ServiceName, SpiffeId

WEB = SpiffeId.workload("local", ServiceName("web"), "web-1")
#: Few letters, so that patterns contain each other and paths are in several of them.
SEGMENTS = st.lists(st.sampled_from(["/", "a", "b", "aa", "é"]), max_size=5).map("".join)
TEXTS = st.one_of(
    SEGMENTS.map(lambda text: "/" + text),
    SEGMENTS.map(lambda text: "/" + text + "*"),
    SEGMENTS.filter(len).map(lambda text: "*" + text),
    st.just("*"),
)
SETS = st.lists(TEXTS, min_size=1, max_size=4).map(Patterns.parse)
PATHS = st.lists(
    st.sampled_from("/ // \\ . .. ; ;b % %2f %2F %252f %25 %61 a b aa %C3%A9 %e9 %00 # %3f %20".split()),
    max_size=8,
).map(lambda pieces: ("/" + "".join(pieces)).encode())


@given(st.lists(SETS, max_size=6), st.one_of(SEGMENTS.map(str.encode), PATHS))
def test_a_path_is_in_the_sets_whose_patterns_it_fits(sets: list[Patterns], path: bytes) -> None:
    expected = {number for number, patterns in enumerate(sets) if patterns.test()(path)}
    assert PathSets(sets).containing(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", set()),
        (b"/", {0, 5}),
        (b"/a", {0, 1, 5}),
        (b"/a/", {0, 2, 5}),
        (b"/a/b", {0, 2, 3, 4, 5}),
        (b"/a/b/", {0, 2, 3, 5}),
        (b"/b", {0, 4, 5}),
        (b"b", {4, 5}),
    ],
)
def test_sets(path: bytes, expected: set[int]) -> None:
    texts: list[list[str]] = [["/*"], ["/a"], ["/a/*"], ["/a/b*", "/a/bc*"], ["*b", "*cb"], ["*"]]
    assert PathSets([Patterns.parse(some) for some in texts]).containing(path) == expected


# -- whole policies ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What an operation asks: a path within one set, outside of another, a method."""

    within: Patterns | None
    outside: Patterns | None
    method: bytes | None

    def holds(self, method: bytes, path: bytes) -> bool:
        return (
            (self.within is None or self.within.test()(path))
            and (self.outside is None or not self.outside.test()(path))
            and (self.method is None or self.method == method)
        )


@dataclass(frozen=True)
class Plain:
    """A policy as the plain model has it: rules are lists of operations, of which one must hold."""

    action: Action
    rules: list[list[Asked]]
    dry_run: bool

    def first(self, method: bytes, path: bytes) -> int | None:
        """Return the place of the first rule that holds."""
        for place, operations in enumerate(self.rules):
            if not operations or any(operation.holds(method, path) for operation in operations):
                return place
        return None


ASKED = st.builds(Asked, st.none() | SETS, st.none() | SETS, st.sampled_from([None, b"GET", b"PUT"]))
POLICIES = st.lists(
    st.builds(
        Plain,
        st.sampled_from(["ALLOW", "DENY", "AUDIT"]),
        st.lists(st.lists(ASKED, max_size=2), max_size=3),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


def always(rule: list[Asked]) -> bool:
    """Whether a rule holds for every request, so that an engine need not ask those before it."""
    return not rule or Asked(None, None, None) in rule


def made(policies: list[Plain]) -> Authorizer:
    """Compile policies, each set of paths once."""
    sets: list[Patterns] = []

    def number(patterns: Patterns) -> int:
        if patterns not in sets:
            sets.append(patterns)
        return sets.index(patterns)

    def terms(asked: Asked) -> Terms:
        conditions: list[Condition] = []
        within = None if asked.within is None else number(asked.within)
        if within is not None:
            conditions.append(facts.path_in(within))
        if asked.outside is not None:
            conditions.append(facts.outside(facts.path_in(number(asked.outside))))
        if asked.method is not None:
            conditions.append(facts.method_in(asked.method.__eq__))
        paths = asked.within is not None or asked.outside is not None
        return Terms((), tuple(conditions), paths=paths, methods=asked.method is not None, within=within)

    compiled = [
        AccessPolicy(
            f"p{place}",
            policy.action,
            tuple(AccessRule(operations=tuple(map(terms, rule))) for rule in policy.rules),
            policy.dry_run,
        )
        for place, policy in enumerate(policies)
    ]
    return Authorizer(compiled, None, PathSets(sets))


def verdict(policies: list[Plain], method: bytes, path: bytes) -> tuple[bool, str]:
    """Decide on one reading: DENY first, then ALLOW; without any ALLOW everything is allowed."""
    for action, allowed in (("DENY", False), ("ALLOW", True)):
        for place, policy in enumerate(policies):
            if policy.action == action and (rule := policy.first(method, path)) is not None:
                return allowed, f"p{place} {rule}"
    allowing = [place for place, policy in enumerate(policies) if policy.action == "ALLOW"]
    return not allowing, f"p{allowing[0]} -1" if len(allowing) == 1 else " -1"


@given(POLICIES, PATHS, st.sampled_from([b"GET", b"POST"]))
def test_the_verdict_is_that_of_asking_each_rule_about_each_reading(
    policies: list[Plain], path: bytes, method: bytes
) -> None:
    decision = made(policies).decide(WEB, RequestHead(method, path, []), None)
    several = readings(path)
    enforced = [
        Plain("AUDIT" if policy.dry_run else policy.action, [] if policy.dry_run else policy.rules, False)
        for policy in policies
    ]
    for found, some in ((decision, enforced), (decision.shadow, policies)):
        if found is None:
            assert not any(policy.dry_run for policy in policies)
        elif found.code == "path":
            assert several is None
            assert any(asked.within or asked.outside for one in some for rule in one.rules for asked in rule)
        elif several is None:  # then no rule that is asked looks at paths, or one holds for every request
            assert verdict(some, method, path)[0] == found.allowed
        else:
            verdicts = [verdict(some, method, reading) for reading in several]
            assert found.allowed == all(allowed for allowed, _ in verdicts)
            told = next((told for allowed, told in verdicts if allowed == found.allowed), None)
            if not any(always(rule) for policy in policies for rule in policy.rules):
                assert f"{found.policy} {found.rule}" == told
    audits = {
        f"p{place}"
        for place, policy in enumerate(enforced)
        if policy.action == "AUDIT"
        for reading in several or (path,)
        if policy.first(method, reading) is not None
    }
    assert set(decision.audits) == audits
