"""Expiry alarms: of a root 30, 7 and 1 days before it ends, of an SVID after three quarters of its life.

Renewal begins at half of the life, so a quarter left means that it has failed for as long again.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from busmesh.identity.svid import Svid
from busmesh.identity.trust import TrustBundle, key_identifier

DAY_S = 86400.0
#: Days before the end.
THRESHOLDS: tuple[int, ...] = (1, 7, 30)
#: The part of an SVID's life after which somebody should hear that it has not been renewed.
LATE = 0.75


def threshold(seconds_left: float, thresholds: Sequence[int] = THRESHOLDS) -> int | None:
    """Return the smallest number of days that ``seconds_left`` is within, None if there is more time."""
    return next((days for days in sorted(thresholds) if seconds_left <= days * DAY_S), None)


def late(issued: float, not_after: float, now: float) -> bool:
    """Say whether what was issued then, and ends then, should have been renewed by ``now``; unix seconds."""
    return now > issued + LATE * (not_after - issued)


class Alarms:
    """Remembers what was said, so that each threshold of each root, and each late SVID, is said once."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}
        self._late = ""

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

    def newly_late(self, svid: Svid, now: float) -> bool:
        """Say once for each SVID that it is `late`."""
        if svid.fingerprint == self._late or not late(svid.issued, svid.not_after, now):
            return False
        self._late = svid.fingerprint
        return True
