"""Weighted choice that keeps its promise early: after 2,000 requests an 80/20 split is 80/20 within 0.4 %.

A random draw is off by up to 4 % after 500 requests, which an operator takes for a fault. A weighted
round robin is exact, but a caller that sends every second request to the same path meets it in step and
sees 100/0. A golden-ratio sequence has neither fault: the next number is the last one plus (sqrt(5) - 1) / 2,
modulo 1, from a random start, and any regular sub-sequence of it is spread just as evenly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

T = TypeVar("T")

#: Positions lie on a grid of 2**-50: a sum of two is below 2 and so exact in a double. The sequence
#: therefore never drifts, and with an odd step it meets every position of the grid before one twice.
GRID = 2**50
#: (sqrt(5) - 1) / 2, rounded to that grid.
STEP = 695844410359083 / GRID


def deviation_bound(picks: int) -> int:
    """Return how far the count of a target may be from ``picks`` times its share, for any weights and start.

    The denominators of the golden ratio's convergents are the Fibonacci numbers, and over one such
    number of consecutive picks the count of an interval is off by at most its variation, 2
    (Denjoy-Koksma). ``picks`` is a sum of few Fibonacci numbers (Zeckendorf), each of which adds 2 at
    most. Holds up to ten million picks, as far as the grid's step has the same convergents; the worst
    arc really is off by 2.5 after 500 picks and by 3.5 after 2,000, where this says 6 and 8.
    """
    fibonacci = [1, 2]
    while fibonacci[-1] <= picks:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    terms = 0
    for number in reversed(fibonacci):
        if number <= picks:
            picks -= number
            terms += 1
    return 2 * terms


class Split(Generic[T]):
    """Targets with relative weights, and the place in the sequence; a target of weight 0 is never picked.

    Attributes:
        choices: every (target, weight) as given, those of weight 0 included.
    """

    __slots__ = ("_bounds", "_position", "_targets", "choices")

    def __init__(self, choices: Sequence[tuple[T, int]], start: float) -> None:
        """Begin at ``start``, a random number in [0, 1): agents that start together must not pick in step.

        Raises:
            ValueError: no target has a weight above 0, or one has a weight below 0.
        """
        if any(weight < 0 for _, weight in choices) or not any(weight for _, weight in choices):
            raise ValueError("a split needs weights of 0 or more, and one above 0")
        self.choices = tuple(choices)
        live = [(target, weight) for target, weight in choices if weight]
        sums = list(accumulate(weight for _, weight in live))
        self._targets = tuple(target for target, _ in live)
        self._bounds = [part / sums[-1] for part in sums[:-1]]
        self._position = int(start * GRID) % GRID / GRID

    def pick(self) -> T:
        """Return the next target."""
        bounds = self._bounds
        if not bounds:
            return self._targets[0]
        position = self._position + STEP
        if position >= 1.0:
            position -= 1.0
        self._position = position
        return self._targets[bisect_right(bounds, position)]

    def __repr__(self) -> str:
        return "<Split " + " ".join(f"{target}={weight}" for target, weight in self.choices) + ">"
