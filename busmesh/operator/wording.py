"""Numbers and names as people read them in a sentence."""

from __future__ import annotations

from collections.abc import Iterable

from busmesh.identity.alarms import DAY_S

#: So many are named; the others are counted.
NAMED = 4


def lasting(seconds: float) -> str:
    """Write how long something still lasts: ``89 days``, ``3 hours``, ``40 s``."""
    for size, unit in ((DAY_S, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def counted(number: int, one: str, many: str) -> str:
    """Write how many: ``1 agent``, ``2 agents``."""
    return f"{number} {one if number == 1 else many}"


def named(names: Iterable[str]) -> str:
    """Write the first names, and how many more there are."""
    told = list(names)
    return ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if len(told) > NAMED else "")
