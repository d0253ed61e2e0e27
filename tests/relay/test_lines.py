"""What a header is to a parser, by its name as it came."""

from __future__ import annotations

import pytest

from busmesh.relay.lines import MAX_NAME, MAX_NAMES, Meanings

DROP, HOST = 1, 2


@pytest.fixture
def meanings() -> Meanings:
    return Meanings({b"host": HOST, b"keep-alive": DROP}, DROP)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        (b"Host", HOST),
        (b"HOST", HOST),
        (b"Keep-Alive", DROP),
        (b"keep_alive", DROP),
        (b"x-busmesh-source", DROP),
        (b"X_Busmesh-Source", DROP),
        (b"x-busmesh-", DROP),
        (b"Content-Type", 0),
        (b"my_own", 0),
        (b"x-busmesh", 0),
    ],
)
def test_a_name_means_the_same_in_any_case_and_disguise(
    meanings: Meanings, name: bytes, meaning: int
) -> None:
    assert meanings[name] == meaning
    assert meanings[name] == meaning, "the second time it is remembered"


def test_invented_names_do_not_fill_the_memory(meanings: Meanings) -> None:
    for number in range(3 * MAX_NAMES):
        assert meanings[b"x-%d" % number] == 0
        assert len(meanings) <= MAX_NAMES
    assert meanings[b"host"] == HOST


def test_long_names_are_not_remembered(meanings: Meanings) -> None:
    name = b"x-busmesh-" + b"a" * MAX_NAME
    assert meanings[name] == DROP
    assert name not in meanings
