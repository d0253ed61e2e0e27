"""Hypothesis for as long as one likes, with ever new seeds, until time is over."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, seed, settings

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
