"""What strangers send is counted, and written down now and then: a flood must not fill the disk."""

from __future__ import annotations

import logging
import time

from busmesh.telemetry.repeats import Repeats

#: Seconds between two lines about the same thing; more each time that the reason is the same.
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
        self._repeats = Repeats(PAUSE_S, pause=PAUSE_S)
        self.count = 0

    def __repr__(self) -> str:
        return f"<Tally {self.count} {self._what}>"

    def add(self, reason: object) -> None:
        """Count one; say so, with all since the last line, unless that was a moment ago."""
        self.count += 1
        now = time.monotonic()
        if self._repeats.worth(reason, now):
            self._log.info("%d %s refused, the last: %s", self.count - self._told, self._what, reason)
            self._told = self.count
