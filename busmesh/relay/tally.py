"""What strangers send is counted, and written down now and then: a flood must not fill the disk."""

from __future__ import annotations

import logging
import time

#: Seconds between two lines about the same thing.
PAUSE_S = 5.0


class Tally:
    """Counts refusals of one kind.

    Args:
        log: where the lines go.
        what: is refused, in the plural ("announcements").
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._told = 0
        self._due = 0.0
        self.count = 0

    def __repr__(self) -> str:
        return f"<Tally {self.count} {self._what}>"

    def add(self, reason: object) -> None:
        """Count one; say so, with all since the last line, unless that was a moment ago."""
        self.count += 1
        now = time.monotonic()
        if now >= self._due:
            self._due = now + PAUSE_S
            self._log.info("%d %s refused, the last: %s", self.count - self._told, self._what, reason)
            self._told = self.count
