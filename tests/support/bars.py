"""Bars in seconds: held to the letter by ``make bars``, four times as wide where others use the machine.

A suite that runs anywhere, beside anything, must not fail because a core was taken for a second; but what is
promised within a second must not be claimed on the ground of a test that grants four.
"""

from __future__ import annotations

import os

EXACT = os.environ.get("BUSMESH_BARS") == "exact"


def bar(seconds: float) -> float:
    """Return the seconds that an assertion grants where ``seconds`` are promised."""
    return seconds if EXACT else 4 * seconds


def times(usual: int, exact: int) -> int:
    """Return how often something is done: as often as is promised, or so often that mistakes show."""
    return exact if EXACT else usual
