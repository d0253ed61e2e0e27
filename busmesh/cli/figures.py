"""Numbers as people read them in a table: three figures at most, and a unit."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def age(seconds: float | None) -> str:
    """Write a time span: ``37s``, ``5m``, ``3h``, ``12d``; nothing for None."""
    if seconds is None:
        return ""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def percent(share: float | None) -> str:
    """Write a share of 1: ``99.10%``; nothing for None. It says 100 only if it is."""
    if share is None:
        return ""
    return f"{min(share * 100, 99.99) if share < 1 else 100:.2f}%"


def milliseconds(value: float | None) -> str:
    """Write a duration given in milliseconds: ``0.3ms``, ``14ms``, ``1.25s``; nothing for None."""
    if value is None:
        return ""
    if value >= 1000:
        return f"{value / 1000:.2f}s"
    return f"{value:.0f}ms" if value >= 10 else f"{value:.1f}ms"


def rate(per_second: float | None) -> str:
    """Write a rate: ``45.2``; nothing for None."""
    return "" if per_second is None else f"{per_second:.1f}"


def rfc3339(seconds: float) -> str:
    """Write unix time in UTC: ``2025-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
