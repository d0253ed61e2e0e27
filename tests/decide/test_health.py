"""Active health: the state after any checks is the one of a reference that remembers them all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.health import Health, observe


def _reference(results: list[bool], unhealthy_after: int, healthy_after: int) -> bool | None:
    """The first result counts; after it, only so many equal ones in a row turn the belief."""
    believed: bool | None = None
    since: list[bool] = []
    for result in results:
        if believed is None:
            believed = result
            continue
        since.append(result)
        needed = healthy_after if not believed else unhealthy_after
        if len(since) >= needed and all(r is not believed for r in since[-needed:]):
            believed, since = not believed, []
    return believed


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_any_checks_lead_where_the_reference_says(
    results: list[bool], unhealthy_after: int, healthy_after: int
) -> None:
    health = Health()
    for number, result in enumerate(results, start=1):
        health = observe(health, result, unhealthy_after=unhealthy_after, healthy_after=healthy_after)
        assert health.healthy is _reference(results[:number], unhealthy_after, healthy_after)
        assert 0 <= health.streak < max(unhealthy_after, healthy_after)


@pytest.mark.parametrize(
    ("results", "believed"),
    [
        ("", None),
        ("+", True),
        ("-", False),
        ("+-", True),
        ("+--", True),
        ("+---", False),
        ("+--+--", True),
        ("+--+---", False),
        ("---+", False),
        ("---++", True),
        ("---+-+", False),
    ],
)
def test_three_failures_down_two_successes_up(results: str, believed: bool | None) -> None:
    health = Health()
    for result in results:
        health = observe(health, result == "+", unhealthy_after=3, healthy_after=2)
    assert health.healthy is believed


def test_what_changes_nothing_makes_nothing_new() -> None:
    health = Health(True)
    assert observe(health, True, unhealthy_after=3, healthy_after=1) is health


def test_a_state_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Health().healthy = True  # type: ignore[misc]  # frozen: that is what is tested
