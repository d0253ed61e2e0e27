"""Sliding windows: their sums are those of a list that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.window import PARTS, CountWindow, TimeWindow

results = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)


def _sums(kept: list[tuple[bool, bool]]) -> tuple[int, int, int]:
    return len(kept), sum(failed for failed, _ in kept), sum(slow for _, slow in kept)


@given(size=st.integers(1, 12), calls=results, again=results)
def test_the_last_calls(size: int, calls: list[tuple[bool, bool]], again: list[tuple[bool, bool]]) -> None:
    window = CountWindow(size)
    for some in (calls, again):
        window.clear()
        for number, (failed, slow) in enumerate(some, start=1):
            window.add(failed, slow, 0.0)
            kept = some[max(0, number - size) : number]
            assert (window.calls, window.failures, window.slow) == _sums(kept)


@given(
    seconds=st.sampled_from([0.5, 1.0, 8.0, 60.0]),
    start=st.floats(0, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 40), st.booleans(), st.booleans()), max_size=60),
)
def test_the_calls_of_the_last_seconds(
    seconds: float, start: float, steps: list[tuple[float, bool, bool]]
) -> None:
    window, now = TimeWindow(seconds), start
    width = seconds / PARTS
    everything: list[tuple[int, bool, bool]] = []
    for pause, failed, slow in steps:
        now += pause
        window.add(failed, slow, now)
        everything.append((int(now / width), failed, slow))
        kept = [(f, s) for part, f, s in everything if part > int(now / width) - PARTS]
        assert (window.calls, window.failures, window.slow) == _sums(kept)
    window.advance(now + 2 * seconds)
    assert (window.calls, window.failures, window.slow) == (0, 0, 0)


@pytest.mark.parametrize(("after", "calls"), [(0.0, 1), (8.9, 1), (10.1, 0), (1e9, 0)])
def test_a_call_is_forgotten_between_nine_and_ten_tenths(after: float, calls: int) -> None:
    window = TimeWindow(10.0)
    window.add(True, True, 100.0)
    window.advance(100.0 + after)
    assert window.calls == calls


def test_a_clock_that_steps_back_forgets_nothing() -> None:
    window = TimeWindow(10.0)
    window.add(True, False, 100.0)
    window.add(False, False, 95.0)
    assert (window.calls, window.failures) == (2, 1)
