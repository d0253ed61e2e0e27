"""What is said again and again is written down at growing distances: a state that lasts is no news."""

from __future__ import annotations

#: Seconds between two lines that say the same, at most.
LONGEST_S = 600.0


class Repeats:
    """Says of one matter whether it is worth a line now.

    Args:
        again: seconds until the same is said a second time; they double each time, up to ten minutes.
        pause: seconds between two lines, whatever they say: more where strangers choose the words.
    """

    def __init__(self, again: float, *, pause: float = 0.0) -> None:
        self._first = self._again = again
        self._pause = pause
        self._said: str | None = None
        self._due = self._same_due = 0.0

    def __repr__(self) -> str:
        return f"<Repeats every {self._again:g} s {self._said!r}>"

    def worth(self, text: object, now: float) -> bool:
        """Say whether ``text`` is worth a line at ``now``, in monotonic seconds; if so it counts as said."""
        if now < self._due:
            return False
        spelled = str(text)
        if spelled != self._said:
            self._again = self._first
        elif now < self._same_due:
            return False
        else:
            self._again = min(2 * self._again, LONGEST_S)
        self._said, self._due, self._same_due = spelled, now + self._pause, now + self._again
        return True

    def forget(self) -> None:
        """The matter is settled: should it come back, that is news."""
        self._said = None
