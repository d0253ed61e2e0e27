"""Hypothesis for as long as one likes: bytes that have been damaged, cut at any place, until time is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("BUSMESH_PROOF_SECONDS", "60"))
#: Without the database: it would make each run begin with the failures of the one before it.
LONG = settings(
    max_examples=1000,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def keep_on(attempt: Callable[[], None]) -> None:
    """Run a property with ever new seeds for :data:`SECONDS`; ``attempt`` has its ``@given`` already."""
    until = time.monotonic() + SECONDS
    first = time.time_ns()
    rounds = 0
    while time.monotonic() < until:
        seed(first + rounds)(attempt)()
        rounds += 1
    print(f"{rounds * LONG.max_examples} examples in {SECONDS:.0f} s, seeds {first} to {first + rounds - 1}")


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes], words: list[bytes]) -> bytes:
    """Bytes of ``whole`` after some edits: changed, taken out, repeated, moved, or ``words`` put in."""
    data = draw(whole)
    for _ in range(draw(st.integers(0, 6))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        match draw(st.integers(0, 5)):
            case 0:
                data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:end] + data[at:end] + data[end:]
            case 3:
                data = data[end:] + data[:at] + data[at:end]
            case 4:
                data = data[:at] + draw(st.sampled_from(words)) + data[at:]
            case _:
                data = data[:at] + draw(st.sampled_from(words)) + data[end:]
    return data


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` in pieces: of one byte each, or cut at any places."""
    if draw(st.integers(0, 3)) == 0:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[at:end] for at, end in zip([0, *places], [*places, len(data)], strict=True)]
