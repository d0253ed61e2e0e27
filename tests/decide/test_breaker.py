"""The breaker against a reference that remembers every result; probes are counted, late results harmless."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from busmesh.decide.breaker import (
    TRANSITIONS,
    Breaker,
    BreakerPolicy,
    Event,
    State,
    is_failure,
    open_time,
    reaches,
)

FIVE = BreakerPolicy(wait_duration_in_open_state=10.0)


def call(breaker: Breaker, failed: bool, now: float = 0.0, duration: float = 0.01) -> None:
    token = breaker.admit(now)
    assert token is not None
    breaker.report(token, failed, duration, now)


def state(breaker: Breaker) -> State:
    return breaker.state


def opened(policy: BreakerPolicy = FIVE) -> Breaker:
    breaker = Breaker(policy)
    for _ in range(5):
        call(breaker, True)
    assert state(breaker) is State.OPEN
    return breaker


@pytest.mark.parametrize(
    ("part", "whole", "percent", "expected"),
    [(1, 2, 50, True), (49, 100, 50, False), (50, 100, 50, True), (99, 100, 100, False), (1, 3, 33.3, True)],
)
def test_a_rate_is_reached(part: int, whole: int, percent: float, expected: bool) -> None:
    assert reaches(part, whole, percent) is expected


@pytest.mark.parametrize(
    ("times", "multiplier", "cap", "expected"),
    [
        (1, 2.0, 300, 60),
        (2, 2.0, 300, 120),
        (3, 2.0, 300, 240),
        (4, 2.0, 300, 300),
        (10**6, 1.001, 300, 300),
        (10**6, 10.0, 300, 300),
        (5, 1.0, 300, 60),
        (5, 2.0, 30, 60),
    ],
)
def test_how_long_it_stays_open(times: int, multiplier: float, cap: float, expected: float) -> None:
    assert open_time(times, base=60, multiplier=multiplier, cap=cap) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("status", "failed"), [(200, False), (404, False), (499, False), (500, True), (503, True)]
)
def test_what_a_failure_is(status: int, failed: bool) -> None:
    assert is_failure(status) is failed


def test_five_failures_in_a_row_open_it_and_a_good_probe_closes_it() -> None:
    breaker = Breaker(FIVE)
    for _ in range(3):
        for _ in range(4):
            call(breaker, True)
        call(breaker, False)
    assert state(breaker) is State.CLOSED
    for _ in range(5):
        call(breaker, True, 100.0)
    assert (breaker.state, breaker.until) == (State.OPEN, 110.0)
    assert breaker.admit(109.9) is None
    probe = breaker.admit(110.0)
    assert probe is not None
    assert breaker.admit(110.0) is None
    assert breaker.refuses(110.0)
    assert breaker.report(probe, False, 0.01, 110.1)
    assert state(breaker) is State.CLOSED
    assert repr(breaker) == "<Breaker closed generation=3 calls=0 failures=0 slow=0 probes=0 refused=2>"


def test_half_of_a_hundred_failures_open_it_even_if_the_last_call_is_good() -> None:
    breaker = Breaker(replace(FIVE, consecutive_failures=0))
    for number in range(99):
        call(breaker, number % 2 == 0)
    assert state(breaker) is State.CLOSED
    call(breaker, False)
    assert state(breaker) is State.OPEN


def test_slow_calls_open_it_though_they_succeed() -> None:
    policy = replace(FIVE, slow_call_duration_threshold=1.0, minimum_number_of_calls=3)
    breaker = Breaker(policy)
    for duration in (1.1, 1.1, 1.0):
        call(breaker, False, duration=duration)
    assert state(breaker) is State.CLOSED, "one of them took exactly as long as it may"
    breaker = Breaker(replace(policy, slow_call_rate_threshold=60))
    for duration in (1.1, 1.1, 1.0):
        call(breaker, False, duration=duration)
    assert state(breaker) is State.OPEN


def test_a_minimum_above_a_window_of_calls_is_the_window() -> None:
    breaker = Breaker(replace(FIVE, consecutive_failures=0, sliding_window_size=4))
    for _ in range(4):
        call(breaker, True)
    assert state(breaker) is State.OPEN


def test_a_window_of_time_forgets() -> None:
    policy = BreakerPolicy(
        consecutive_failures=0,
        minimum_number_of_calls=3,
        sliding_window_type="TIME_BASED",
        sliding_window_size=10,
    )
    breaker = Breaker(policy)
    for now in (0.0, 1.0, 20.0, 21.0):
        call(breaker, True, now)
    assert state(breaker) is State.CLOSED
    call(breaker, True, 22.0)
    assert state(breaker) is State.OPEN


def test_failed_probes_double_the_wait_until_it_closes() -> None:
    policy = replace(
        FIVE, exponential_backoff_multiplier=2.0, exponential_max_wait_duration_in_open_state=35.0
    )
    breaker = opened(policy)
    waits = []
    now = 0.0
    for _ in range(4):
        waits.append(breaker.until - now)
        now = breaker.until
        call(breaker, True, now)
    assert waits == [10, 20, 35, 35]
    now = breaker.until
    call(breaker, False, now)
    for _ in range(5):
        call(breaker, True, now)
    assert breaker.until - now == 10


def test_three_probes_are_judged_together_and_as_soon_as_it_is_certain() -> None:
    policy = replace(FIVE, permitted_number_of_calls_in_half_open_state=3)
    for results, wanted in (
        ((False, True, False), State.CLOSED),
        ((True, True), State.OPEN),
        ((False, False), State.HALF_OPEN),
    ):
        breaker = opened(policy)
        tokens = [breaker.admit(10.0) for _ in range(4)]
        assert tokens[3] is None
        for token, failed in zip(tokens, results, strict=False):
            assert token is not None
            breaker.report(token, failed, 0.01, 11.0)
        assert state(breaker) is wanted


def test_a_probe_whose_client_went_away_is_given_back() -> None:
    breaker = opened()
    probe = breaker.admit(10.0)
    assert probe is not None
    breaker.abandoned(probe)
    assert breaker.admit(10.0) is not None
    breaker.abandoned(0)
    assert breaker.admit(10.0) is None, "one of an old state gives nothing back"
    closed = Breaker(FIVE)
    closed.abandoned(0)
    assert repr(closed) == repr(Breaker(FIVE)), "a closed one counts no probes"


def test_results_of_an_old_state_change_nothing() -> None:
    breaker = Breaker(FIVE)
    old = breaker.admit(0.0)
    assert old is not None
    for _ in range(5):
        call(breaker, True)
    assert not breaker.report(old, False, 0.01, 1.0)
    assert state(breaker) is State.OPEN
    first = breaker.admit(10.0)
    assert first is not None
    breaker.report(first, True, 0.01, 10.0)
    second = breaker.admit(20.0)
    assert second is not None
    for late in (old, first):
        assert not breaker.report(late, False, 0.01, 20.0)
    assert state(breaker) is State.HALF_OPEN
    breaker.report(second, False, 0.01, 20.0)
    for late in (old, first, second) * 5:
        breaker.report(late, True, 0.01, 20.0)
    assert repr(breaker).startswith("<Breaker closed generation=5 calls=0")


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("event", Event)
def test_what_is_not_in_the_table_raises_and_changes_nothing(before: State, event: Event) -> None:
    breaker = Breaker(FIVE)
    breaker.state = before
    if (before, event) in TRANSITIONS:
        breaker._move(event, 0.0)
        assert state(breaker) is TRANSITIONS[before, event]
    else:
        shown = repr(breaker)
        with pytest.raises(ValueError, match=event.value):
            breaker._move(event, 0.0)
        assert repr(breaker) == shown


class Breaking(RuleBasedStateMachine):
    """The reference keeps the results of the present state in lists, and counts them anew each time."""

    @initialize(
        consecutive=st.integers(0, 4),
        minimum=st.integers(1, 8),
        size=st.integers(1, 8),
        rate=st.sampled_from([20.0, 50.0, 100.0]),
        slow_rate=st.sampled_from([50.0, 100.0]),
        permitted=st.integers(1, 4),
        multiplier=st.sampled_from([1.0, 2.0]),
    )
    def begin(
        self,
        consecutive: int,
        minimum: int,
        size: int,
        rate: float,
        slow_rate: float,
        permitted: int,
        multiplier: float,
    ) -> None:
        self.policy = BreakerPolicy(
            consecutive_failures=consecutive,
            failure_rate_threshold=rate,
            slow_call_rate_threshold=slow_rate,
            slow_call_duration_threshold=1.0,
            minimum_number_of_calls=minimum,
            sliding_window_size=size,
            wait_duration_in_open_state=5.0,
            exponential_backoff_multiplier=multiplier,
            exponential_max_wait_duration_in_open_state=20.0,
            permitted_number_of_calls_in_half_open_state=permitted,
        )
        self.breaker = Breaker(self.policy)
        self.now = 0.0
        self.state = "closed"
        self.results: list[tuple[bool, bool]] = []
        self.waits = 0
        self.until = 0.0
        #: Tokens that nobody has reported on, by the number of the state they were admitted in.
        self.outstanding: list[tuple[int, int]] = []
        self.number = 0
        self.probes = 0

    def turn(self, state: str) -> None:
        self.state, self.results, self.probes = state, [], 0
        self.number += 1
        if state == "open":
            self.until = self.now + min(5.0 * self.policy.exponential_backoff_multiplier**self.waits, 20.0)
            self.waits += 1
        elif state == "closed":
            self.waits = 0

    @rule()
    def admit(self) -> None:
        if self.state == "open" and self.now >= self.until:
            self.turn("half-open")
        permitted = self.policy.permitted_number_of_calls_in_half_open_state
        expected = self.state == "closed" or (self.state == "half-open" and self.probes < permitted)
        assert self.breaker.refuses(self.now) is not expected
        token = self.breaker.admit(self.now)
        assert (token is not None) is expected
        if token is not None:
            self.probes += self.state == "half-open"
            self.outstanding.append((self.number, token))

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data(), failed=st.booleans(), slow=st.booleans())
    def report(self, data: st.DataObject, failed: bool, slow: bool) -> None:
        number, token = self.outstanding.pop(data.draw(st.integers(0, len(self.outstanding) - 1)))
        before = self.state
        if number == self.number:
            self.results.append((failed, slow))
            if self.fails():
                self.turn("open")
            elif (
                self.state == "half-open"
                and len(self.results) == self.policy.permitted_number_of_calls_in_half_open_state
            ):
                self.turn("closed")
        moved = self.breaker.report(token, failed, 2.0 if slow else 0.5, self.now)
        assert moved is (before != self.state)

    def fails(self) -> bool:
        policy, results = self.policy, self.results
        if self.state == "half-open":
            whole = policy.permitted_number_of_calls_in_half_open_state
        else:
            row = policy.consecutive_failures
            if row and len(results) >= row and all(failed for failed, _ in results[-row:]):
                return True
            results = results[-policy.sliding_window_size :]
            whole = len(results)
            if whole < min(policy.minimum_number_of_calls, policy.sliding_window_size):
                return False
        bad, late = (sum(result[index] for result in results) for index in (0, 1))
        return (
            bad / whole * 100 >= policy.failure_rate_threshold
            or late / whole * 100 >= policy.slow_call_rate_threshold
        )

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        number, token = self.outstanding.pop(data.draw(st.integers(0, len(self.outstanding) - 1)))
        self.breaker.abandoned(token)
        if number == self.number and self.state == "half-open":
            self.probes -= 1

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.state.value == self.state
        if self.state == "half-open":
            assert self.probes <= self.policy.permitted_number_of_calls_in_half_open_state


TestBreaking = Breaking.TestCase
