"""What is said again and again is said less and less often, and news at once."""

from __future__ import annotations

from busmesh.telemetry.repeats import LONGEST_S, Repeats


def times(repeats: Repeats, text: str, begin: int, end: int) -> list[int]:
    return [now for now in range(begin, end) if repeats.worth(text, now)]


def test_the_same_is_said_at_growing_distances() -> None:
    repeats = Repeats(5)
    assert times(repeats, "x", 0, 200) == [0, 5, 15, 35, 75, 155]
    said = times(repeats, "x", 200, 100_000)
    assert said[-1] - said[-2] == LONGEST_S


def test_something_else_is_news_and_begins_anew() -> None:
    repeats = Repeats(5)
    assert times(repeats, "x", 0, 30) == [0, 5, 15]
    assert times(repeats, "y", 30, 50) == [30, 35, 45]
    repeats.forget()
    assert repeats.worth("y", 50), "it came back"


def test_where_strangers_choose_the_words_there_is_a_pause() -> None:
    repeats = Repeats(5, pause=5)
    assert [now for now in range(30) if repeats.worth(f"reason {now}", now)] == [0, 5, 10, 15, 20, 25]
    assert [now for now in range(100, 160) if repeats.worth("x", now)] == [100, 105, 115, 135]
    assert repeats.worth("y", 141), "not as late as the same again"
