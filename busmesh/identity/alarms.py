"""Expiry alarms: a root that will end is said 30, 7 and 1 days before, each once."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from busmesh.identity.trust import TrustBundle, key_identifier

DAY_S = 86400.0
#: Days before the end.
THRESHOLDS: tuple[int, ...] = (1, 7, 30)


def threshold(seconds_left: float, thresholds: Sequence[int] = THRESHOLDS) -> int | None:
    """Return the smallest number of days that ``seconds_left`` is within, None if there is more time."""
    return next((days for days in sorted(thresholds) if seconds_left <= days * DAY_S), None)


class Alarms:
    """Remembers what was said, so that each threshold of each root is said once."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Alarms {self._said}>"

    def due(self, bundle: TrustBundle, now: float) -> list[tuple[x509.Certificate, int]]:
        """Return the roots that came within a threshold, with its days; ``now`` in unix seconds."""
        found = []
        for root in bundle.roots:
            name = key_identifier(root).hex()
            days = threshold(root.not_valid_after_utc.timestamp() - now)
            if days is not None and days < self._said.get(name, max(THRESHOLDS) + 1):
                self._said[name] = days
                found.append((root, days))
        return found
