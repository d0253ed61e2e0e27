"""Retries: not processed is always safe, unknown only for what may happen twice, settled never."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.retry import (
    DEFAULT_ATTEMPTS,
    DEFAULT_RETRIES,
    IDEMPOTENT,
    NO_RETRIES,
    Outcome,
    RetryPolicy,
    backoff_limit,
    grpc_status,
    outcome_of_refusal,
)

METHODS = [
    b"GET",
    b"HEAD",
    b"OPTIONS",
    b"TRACE",
    b"PUT",
    b"DELETE",
    b"POST",
    b"PATCH",
    b"CONNECT",
    b"get",
    b"X",
]
_SAFE_TWICE = {b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"}
FLAGS = ["", "UF", "UT", "RL", "DPE"]


def test_the_whole_table_of_what_the_mesh_does_unasked() -> None:
    for outcome, method, attempts, flags in product(Outcome, METHODS, range(4), FLAGS):
        policy = RetryPolicy(attempts=attempts)
        for tries in range(1, 6):
            expected = tries <= attempts and (
                outcome is Outcome.NOT_PROCESSED or (outcome is Outcome.UNKNOWN and method in _SAFE_TWICE)
            )
            assert policy.again(outcome, method, tries, flags) is expected, (outcome, method, tries, flags)


def test_idempotent_methods_are_those_of_the_rfc() -> None:
    assert IDEMPOTENT == _SAFE_TWICE


@pytest.mark.parametrize(("tries", "again"), [(1, True), (2, True), (3, False), (4, False)])
def test_by_default_two_tries_follow_the_first(tries: int, again: bool) -> None:
    assert DEFAULT_ATTEMPTS == 2
    assert DEFAULT_RETRIES.again(Outcome.NOT_PROCESSED, b"POST", tries) is again


def test_without_attempts_nothing_is_tried_again() -> None:
    for outcome, method, flags in product(Outcome, METHODS, FLAGS):
        assert not NO_RETRIES.again(outcome, method, 1, flags)
    assert not RetryPolicy(attempts=0, statuses=frozenset((503,))).again_after(503, b"", 1)


@pytest.mark.parametrize(
    ("policy", "outcome", "flags", "expected"),
    [
        (RetryPolicy(unknown=True), Outcome.UNKNOWN, "UF", True),
        (RetryPolicy(unknown=True), Outcome.UNKNOWN, "UT", True),
        (RetryPolicy(unknown=True), Outcome.SETTLED, "UT", False),
        (RetryPolicy(unknown=True), Outcome.SETTLED, "DPE", False),
        (RetryPolicy(statuses=frozenset((504,))), Outcome.UNKNOWN, "UT", True),
        (RetryPolicy(statuses=frozenset((504,))), Outcome.UNKNOWN, "UF", False),
        (RetryPolicy(statuses=frozenset((503,))), Outcome.UNKNOWN, "UT", False),
        (RetryPolicy(statuses=frozenset((503,))), Outcome.UNKNOWN, "UF", False),
        (RetryPolicy(hedge=True), Outcome.UNKNOWN, "UT", True),
        (RetryPolicy(hedge=True), Outcome.UNKNOWN, "UF", False),
        (RetryPolicy(rate_limited=True), Outcome.SETTLED, "RL", True),
        (RetryPolicy(rate_limited=True), Outcome.SETTLED, "DPE", False),
        (RetryPolicy(rate_limited=True), Outcome.UNKNOWN, "UF", False),
    ],
)
def test_what_a_policy_adds_for_a_post(
    policy: RetryPolicy, outcome: Outcome, flags: str, expected: bool
) -> None:
    assert policy.again(outcome, b"POST", 1, flags) is expected
    assert policy.again(outcome, b"POST", 3, flags) is False


@given(
    st.builds(
        RetryPolicy,
        attempts=st.integers(1, 5),
        statuses=st.frozensets(st.integers(400, 599), max_size=5),
        unknown=st.booleans(),
        rate_limited=st.booleans(),
        hedge=st.booleans(),
    ),
    st.sampled_from(Outcome),
    st.sampled_from(METHODS),
    st.integers(1, 6),
    st.sampled_from(FLAGS),
)
def test_a_policy_only_adds_to_what_is_safe(
    policy: RetryPolicy, outcome: Outcome, method: bytes, tries: int, flags: str
) -> None:
    if RetryPolicy(attempts=policy.attempts).again(outcome, method, tries, flags):
        assert policy.again(outcome, method, tries, flags)


@pytest.mark.parametrize(
    ("policy", "status", "block", "expected"),
    [
        (DEFAULT_RETRIES, 503, b"", False),
        (DEFAULT_RETRIES, 200, b"grpc-status: 14\r\n", True),
        (DEFAULT_RETRIES, 200, b"a: b\r\nGrpc-Status: 1\r\n", True),
        (DEFAULT_RETRIES, 200, b"grpc-status: 13\r\n", False),
        (DEFAULT_RETRIES, 200, b"grpc-message: grpc-status: 14\r\n", False),
        (DEFAULT_RETRIES, 500, b"grpc-status: 14\r\n", False),
        (RetryPolicy(statuses=frozenset((503,))), 503, b"", True),
        (RetryPolicy(statuses=frozenset((503,))), 502, b"", False),
        (RetryPolicy(statuses=frozenset((200,)), grpc_statuses=frozenset()), 200, b"", True),
        (RetryPolicy(grpc_statuses=frozenset()), 200, b"grpc-status: 14\r\n", False),
    ],
)
def test_which_responses_are_tried_again(
    policy: RetryPolicy, status: int, block: bytes, expected: bool
) -> None:
    assert policy.again_after(status, block, 1) is expected
    assert policy.again_after(status, block, policy.attempts + 1) is False


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"", None),
        (b"content-type: application/grpc-web\r\n", None),
        (b"grpc-status: 0\r\n", 0),
        (b"GRPC-STATUS:14 \r\n", 14),
        (b"grpc-status: x\r\n", None),
        (b"grpc-status: -1\r\n", None),
        (b"grpc-status: 99999\r\n", None),
        (b"x-grpc-status: 14\r\n", None),
    ],
)
def test_the_grpc_status_of_a_response(block: bytes, expected: int | None) -> None:
    assert grpc_status(block) == expected


@pytest.mark.parametrize(
    ("retry", "base", "expected"),
    [
        (1, 0.025, 0.025),
        (2, 0.025, 0.075),
        (3, 0.025, 0.175),
        (4, 0.025, 0.25),
        (99, 0.025, 0.25),
        (2, 1.0, 3.0),
    ],
)
def test_the_longest_pause_before_a_retry(retry: int, base: float, expected: float) -> None:
    assert backoff_limit(retry, base) == pytest.approx(expected)


@given(st.integers(1, 20), st.floats(0.001, 10), st.integers())
def test_a_pause_is_drawn_from_the_whole_of_its_range(retry: int, base: float, seed: int) -> None:
    rng, policy = Random(seed), RetryPolicy(base_backoff=base)
    limit = backoff_limit(retry, base)
    pauses = [policy.backoff(retry, rng) for _ in range(200)]
    assert all(0 <= pause < limit for pause in pauses)
    assert min(pauses) < limit / 4
    assert max(pauses) > limit * 3 / 4


@pytest.mark.parametrize(
    ("processed", "flags", "outcome"),
    [
        (False, "UH", Outcome.NOT_PROCESSED),
        (False, "UO", Outcome.NOT_PROCESSED),
        (False, "UF", Outcome.NOT_PROCESSED),
        (True, "UF", Outcome.UNKNOWN),
        (True, "UT", Outcome.SETTLED),
        (False, "UT", Outcome.SETTLED),
        (True, "DPE", Outcome.SETTLED),
        (False, "DPE", Outcome.SETTLED),
        (False, "RL", Outcome.SETTLED),
        (True, "", Outcome.UNKNOWN),
    ],
)
def test_what_a_refusal_means(processed: bool, flags: str, outcome: Outcome) -> None:
    assert outcome_of_refusal(processed, flags) is outcome
