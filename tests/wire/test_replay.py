"""The replay window against a model that forgets nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from busmesh.wire.replay import WINDOW, ReplayWindow


class Model:
    """Every counter ever accepted; too old is what lies a window behind the highest."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.highest = -1

    def accept(self, counter: int) -> bool:
        if counter in self.seen or counter <= self.highest - WINDOW:
            return False
        self.seen.add(counter)
        self.highest = max(self.highest, counter)
        return True


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.window = ReplayWindow()
        self.model = Model()

    def _accept(self, counter: int) -> None:
        if counter >= 0:
            assert self.window.accept(counter) == self.model.accept(counter)

    @rule(steps=st.integers(1, 50))
    def in_order(self, steps: int) -> None:
        for _ in range(steps):
            self._accept(self.model.highest + 1)

    @rule(ahead=st.integers(1, 5))
    def with_a_gap(self, ahead: int) -> None:
        self._accept(self.model.highest + ahead)

    @rule(ahead=st.integers(WINDOW - 2, WINDOW + 2) | st.integers(1, 2**40))
    def far_ahead(self, ahead: int) -> None:
        self._accept(self.model.highest + ahead)

    @rule(behind=st.integers(0, 60) | st.integers(WINDOW - 3, WINDOW + 3) | st.integers(0, 3 * WINDOW))
    def behind(self, behind: int) -> None:
        self._accept(self.model.highest - behind)

    @rule(counter=st.integers(0, 2**64 - 1))
    def anywhere(self, counter: int) -> None:
        self._accept(counter)

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        if self.model.seen:
            self._accept(data.draw(st.sampled_from(sorted(self.model.seen))))

    @invariant()
    def agree(self) -> None:
        assert self.window.highest == self.model.highest
        assert self.window._bits < 1 << WINDOW, "the window must not grow"


TestReplayWindow = Machine.TestCase
TestReplayWindow.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.permutations(range(200)))
def test_every_order_within_the_window_is_accepted_once(order: list[int]) -> None:
    window = ReplayWindow()
    assert all(window.accept(counter) for counter in order)
    assert not any(window.accept(counter) for counter in order)


@pytest.mark.parametrize("start", [0, 2**32 - 5, 2**63 - 5])
def test_the_window_ends_exactly_where_it_says(start: int) -> None:
    window = ReplayWindow()
    assert window.accept(start + WINDOW)
    assert window.accept(start + 1)
    assert not window.accept(start)
    assert not window.accept(start + 1)


def test_a_jump_past_the_window_forgets_nothing_that_it_would_accept_again() -> None:
    window = ReplayWindow()
    for counter in range(10):
        window.accept(counter)
    assert window.accept(10 * WINDOW)
    assert not any(window.accept(counter) for counter in range(10))


def test_it_shows_itself() -> None:
    window = ReplayWindow()
    window.accept(7)
    assert repr(window) == "<ReplayWindow highest=7 seen=1>"
