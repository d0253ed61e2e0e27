"""Retries: not processed is always safe, unknown only for what may happen twice, settled never."""

from __future__ import annotations

from itertools import product

import pytest

from busmesh.decide.retry import DEFAULT_RETRIES, IDEMPOTENT, Outcome, may_retry, outcome_of_refusal

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


def test_the_whole_table() -> None:
    for outcome, method, retries in product(Outcome, METHODS, range(4)):
        for tries in range(1, 6):
            expected = tries <= retries and (
                outcome is Outcome.NOT_PROCESSED or (outcome is Outcome.UNKNOWN and method in _SAFE_TWICE)
            )
            assert may_retry(outcome, method, tries, retries) is expected, (outcome, method, tries, retries)


def test_idempotent_methods_are_those_of_the_rfc() -> None:
    assert IDEMPOTENT == _SAFE_TWICE


@pytest.mark.parametrize(("tries", "again"), [(1, True), (2, True), (3, False), (4, False)])
def test_by_default_two_tries_follow_the_first(tries: int, again: bool) -> None:
    assert DEFAULT_RETRIES == 2
    assert may_retry(Outcome.NOT_PROCESSED, b"POST", tries) is again


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
        (True, "", Outcome.UNKNOWN),
    ],
)
def test_what_a_refusal_means(processed: bool, flags: str, outcome: Outcome) -> None:
    assert outcome_of_refusal(processed, flags) is outcome
