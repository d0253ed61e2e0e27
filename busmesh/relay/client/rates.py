"""How fast a client sends and reads, between one look and the next."""

from __future__ import annotations


class Rates:
    """Counts the bytes of one connection.

    Args:
        least: bytes a second; slower is too slow.

    Attributes:
        came: bytes read from the client.
        wrote: bytes written for it, whether it has taken them or not.
    """

    __slots__ = ("_came", "_least", "_since", "_taken", "_wrote", "came", "wrote")

    def __init__(self, least: int) -> None:
        self._least = least
        self.came = self.wrote = 0
        self.look(0.0, 0)

    def look(self, now: float, unread: int) -> None:
        """Begin to measure; ``unread`` of the bytes written have not been taken yet."""
        self._since = now
        self._came = self.came
        self._wrote = self.wrote
        self._taken = self.wrote - unread

    def sends_too_slowly(self, now: float) -> bool:
        """Say whether less came since the look than should have."""
        return self.came - self._came < self._least * (now - self._since)

    def reads_too_slowly(self, now: float, unread: int) -> bool:
        """Say whether the client took too little of what was there for it at the look already.

        What was written since then does not count against it: it may have been written this very moment.
        """
        taken = self.wrote - unread
        return taken < self._wrote and taken - self._taken < self._least * (now - self._since)

    def __repr__(self) -> str:
        return f"<Rates came={self.came} wrote={self.wrote}>"
