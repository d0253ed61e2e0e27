"""Words that go into telemetry: bounded, printable, and times in RFC 3339.

Names come from callers and peers. What is printed on a terminal or kept as a label must neither
move a cursor nor grow without end.
"""

from __future__ import annotations

from datetime import UTC, datetime

#: Characters of one label value. Two longer values that begin alike share one series, on purpose.
MAX_LABEL = 128
_UNPRINTABLE = "\ufffd"


def bounded(value: str, limit: int = MAX_LABEL) -> str:
    """Return at most ``limit`` characters of ``value``, each that is not printable replaced."""
    value = value[:limit]
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else _UNPRINTABLE for c in value)


def rfc3339(now: float) -> str:
    """Return Unix time ``now`` (seconds) as UTC with milliseconds: ``2025-01-31T12:00:00.250Z``."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
