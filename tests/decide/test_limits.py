"""Limits and the retry budget: never exceeded, whatever comes and goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from busmesh.decide.budget import Budget, RetryBudget, allowed_retries, retries_here
from busmesh.decide.limits import UNLIMITED, Admission, Limits


def test_one_under_way_and_one_that_waits_and_the_third_overflows() -> None:
    """Istio's task about circuit breaking: maxConnections 1, http1MaxPendingRequests 1."""
    admission = Admission(Limits(max_requests=1, max_pending=1))
    assert admission.admit()
    assert not admission.admit()
    assert admission.wait()
    assert not admission.admit()
    assert not admission.wait()
    assert repr(admission) == "<Admission active=1 pending=1 overflows=1>"
    assert not admission.promote()
    admission.release()
    assert not admission.admit(), "somebody waits already"
    assert admission.promote()
    assert not admission.promote()
    assert (admission.active, admission.pending) == (1, 0)


def test_without_limits_everybody_is_let_in() -> None:
    admission = Admission()
    assert all(admission.admit() for _ in range(5000))
    assert admission.limits == Limits(UNLIMITED, UNLIMITED, UNLIMITED, None)


class Admitting(RuleBasedStateMachine):
    """The reference is a set of requests under way and a queue, both looked at from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(2, 2)
        self.admission = Admission(self.limits)
        self.under_way: set[int] = set()
        self.line: list[int] = []
        self.next = 0
        self.let_in: list[int] = []
        #: What a smaller limit found above it may run off, and no more may come.
        self.tolerated = (2, 2)

    @rule()
    def comes(self) -> None:
        self.next += 1
        free = not self.line and len(self.under_way) < self.limits.max_requests
        room = len(self.line) < self.limits.max_pending
        if self.admission.admit():
            assert free
            self.start(self.next)
        elif self.admission.wait():
            assert not free
            assert room
            self.line.append(self.next)
        else:
            assert not free
            assert not room

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        self.under_way.remove(data.draw(st.sampled_from(sorted(self.under_way))))
        self.admission.release()
        self.promote()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        self.line.remove(data.draw(st.sampled_from(self.line)))
        self.admission.leave()

    @rule(active=st.integers(1, 4), pending=st.integers(0, 4))
    def other_limits(self, active: int, pending: int) -> None:
        self.limits = self.admission.limits = Limits(active, pending)
        self.promote()
        self.tolerated = (max(active, len(self.under_way)), max(pending, len(self.line)))

    def promote(self) -> None:
        while self.admission.promote():
            self.start(self.line.pop(0))

    def start(self, request: int) -> None:
        assert len(self.under_way) < self.limits.max_requests
        self.under_way.add(request)
        self.let_in.append(request)

    @invariant()
    def counts_agree_and_no_place_is_left_empty(self) -> None:
        assert (self.admission.active, self.admission.pending) == (len(self.under_way), len(self.line))
        assert len(self.under_way) <= self.tolerated[0]
        assert len(self.line) <= self.tolerated[1]
        assert not (self.line and len(self.under_way) < self.limits.max_requests)
        assert self.let_in == sorted(self.let_in), "first come, first served"


TestAdmitting = Admitting.TestCase


# -- the retry budget ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "percent", "minimum", "expected"),
    [
        (0, 20, 3, 3),
        (15, 20, 3, 3),
        (19, 20, 3, 3),
        (20, 20, 3, 4),
        (100, 25, 3, 25),
        (100, 0, 0, 0),
        (1, 100, 0, 1),
        (1000, 0.1, 0, 1),
    ],
)
def test_allowed_retries(requests: int, percent: float, minimum: int, expected: int) -> None:
    assert allowed_retries(requests, percent=percent, minimum=minimum) == expected


@pytest.mark.parametrize(("retries", "attempt", "expected"), [(2, 0, 2), (2, 1, 0), (2, 5, 0), (0, 0, 0)])
def test_who_serves_a_retry_makes_none(retries: int, attempt: int, expected: int) -> None:
    assert retries_here(retries, attempt) == expected


@given(
    percent=st.floats(0, 100),
    minimum=st.integers(0, 5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 60))),
)
def test_a_budget_is_never_exceeded(percent: float, minimum: int, steps: list[tuple[bool, int]]) -> None:
    budget, held = Budget(RetryBudget(percent, minimum)), 0
    for takes, requests in steps:
        if takes:
            granted = budget.take(requests, 0.0)
            assert granted is (held < max(requests * percent // 100, minimum))
            held += granted
            if granted:
                assert held <= max(requests * percent / 100, minimum)
        elif held:
            budget.give_back()
            held -= 1
        assert budget.retries == held


def test_without_a_rule_the_fixed_limit_holds() -> None:
    budget = Budget(None, max_retries=2)
    assert [budget.take(1000, 0.0) for _ in range(3)] == [True, True, False]
    budget.give_back()
    assert budget.take(0, 0.0)
    assert repr(budget) == "<Budget retries=2 overflows=1>"
    assert all(Budget().take(0, 0.0) for _ in range(100))


def test_with_an_interval_the_requests_that_began_in_it_count() -> None:
    budget = Budget(RetryBudget(20, 0, budget_interval=10.0))
    assert not budget.take(1000, 100.0), "how many are under way does not count"
    for number in range(50):
        budget.began(100.0 + number / 10)
    assert [budget.take(0, 105.0) for _ in range(11)] == [True] * 10 + [False]
    for _ in range(10):
        budget.give_back()
    assert not budget.take(0, 116.0), "they are forgotten"
