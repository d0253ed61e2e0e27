"""Active health checking: from single check results to healthy or unhealthy.

A table of two states and two counters, as in Envoy's health checker: so many failures in a row make an
instance unhealthy, so many successes in a row make it healthy again. The first result counts by itself, so
that an instance is known as soon as it was asked once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Health:
    """What is believed of the application.

    Attributes:
        healthy: None until the first result.
        streak: results in a row that contradict ``healthy``.
    """

    healthy: bool | None = None
    streak: int = 0


def observe(health: Health, success: bool, *, unhealthy_after: int, healthy_after: int) -> Health:
    """Return what to believe after one more check."""
    if health.healthy is None:
        return Health(success)
    if success == health.healthy:
        return replace(health, streak=0) if health.streak else health
    streak = health.streak + 1
    needed = healthy_after if success else unhealthy_after
    return Health(success) if streak >= needed else replace(health, streak=streak)
