"""Panic: when too few instances are left, the figures that say so are mistrusted more than the instances.

If a fault of the caller or of the network makes all look ill, sending everything to the last two that look
well kills those as well. Envoy's ``healthy_panic_threshold``, in Istio ``outlierDetection.minHealthPercent``,
whose default 0 means never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def in_panic(usable: int, announced: int, percent: float) -> bool:
    """Say whether less than ``percent`` of the instances are usable."""
    return usable * 100 < percent * announced


def candidates_in_panic(announced: Sequence[T], usable: Sequence[T], percent: float) -> Sequence[T]:
    """Return whom to balance over: the usable ones, or in panic every one that is announced.

    Args:
        announced: all instances that are not about to leave; ``usable`` are among them.
        usable: those that nothing is known against.
        percent: below this share of usable ones there is panic, 0 for never.
    """
    return announced if in_panic(len(usable), len(announced), percent) else usable
