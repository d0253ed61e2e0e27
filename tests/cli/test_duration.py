"""Durations on the command line."""

from __future__ import annotations

import contextlib
import math

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.cli.duration import Duration, DurationOrNever


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("5s", 5.0),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("90d", 90 * 86400.0),
        ("1d12h", 1.5 * 86400),
        ("7", 7.0),
        ("2.5", 2.5),
        ("1d30", 86430.0),
        ("0s", 0.0),
    ],
)
def test_what_people_write(text: str, length: float) -> None:
    assert Duration().convert(text, None, None) == length


@pytest.mark.parametrize(
    "text", ["", "s", "d", "-5s", "5 s", "1w", "5d5d", "12345d", "1e3", "\u0665s", "5s\n"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration; write 5s"):
        Duration().convert(text, None, None)


def test_too_short() -> None:
    with pytest.raises(click.BadParameter, match="at least 10s: there must be time"):
        Duration(10.0, "there must be time").convert("9s", None, None)


def test_never_is_a_length_where_it_is_asked_for() -> None:
    assert DurationOrNever(1.0).convert("never", None, None) == math.inf
    assert DurationOrNever(1.0).convert("1h", None, None) == 3600.0
    for convert, text in ((Duration().convert, "never"), (DurationOrNever(1.0).convert, "0s")):
        with pytest.raises(click.BadParameter):
            convert(text, None, None)


@given(st.text(max_size=80))
def test_whatever_is_written_is_a_length_or_a_clean_refusal(text: str) -> None:
    with contextlib.suppress(click.BadParameter):
        assert Duration().convert(text, None, None) >= 0.0
