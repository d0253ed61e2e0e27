"""Sliding windows over the results of calls: the last so many, or those of the last so many seconds.

Both keep running sums, so that adding a result and reading the sums take the same time whatever the size.
"""

from __future__ import annotations

from typing import Protocol

#: Parts of a window of time. One leaves as a whole, so the window reaches back 9 to 10 tenths of its length.
PARTS = 10


class Window(Protocol):
    """What a breaker needs of either."""

    calls: int
    failures: int
    slow: int

    def add(self, failed: bool, slow: bool, now: float) -> None:
        """Take in one result."""

    def advance(self, now: float) -> None:
        """Forget what is too old at ``now`` (monotonic seconds)."""

    def clear(self) -> None:
        """Forget everything."""


class CountWindow:
    """The last ``size`` calls.

    Attributes:
        calls: in the window; so many of them ``failures``, so many ``slow``.
    """

    __slots__ = ("_at", "_marks", "calls", "failures", "slow")

    def __init__(self, size: int) -> None:
        self._marks = bytearray(size)
        self._at = 0
        self.calls = self.failures = self.slow = 0

    def add(self, failed: bool, slow: bool, now: float) -> None:
        marks, at = self._marks, self._at
        if self.calls == len(marks):
            oldest = marks[at]
            if oldest:
                self.failures -= oldest & 1
                self.slow -= oldest >> 1
        else:
            self.calls += 1
        marks[at] = failed | slow << 1
        self.failures += failed
        self.slow += slow
        at += 1
        self._at = 0 if at == len(marks) else at

    def advance(self, now: float) -> None:
        """Nothing ages here."""

    def clear(self) -> None:
        self._at = self.calls = self.failures = self.slow = 0

    def __repr__(self) -> str:
        return f"<CountWindow calls={self.calls} failures={self.failures} slow={self.slow}>"


class TimeWindow:
    """The calls of the last ``seconds``, in ten parts.

    Attributes:
        calls: in the window as of the last `advance` or `add`; so many of them ``failures`` and ``slow``.
    """

    __slots__ = ("_part", "_parts", "_width", "calls", "failures", "slow")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / PARTS
        self._part = 0
        self._parts = [[0, 0, 0] for _ in range(PARTS)]
        self.calls = self.failures = self.slow = 0

    def add(self, failed: bool, slow: bool, now: float) -> None:
        self.advance(now)
        part = self._parts[self._part % PARTS]
        part[0] += 1
        self.calls += 1
        if failed:
            part[1] += 1
            self.failures += 1
        if slow:
            part[2] += 1
            self.slow += 1

    def advance(self, now: float) -> None:
        current = int(now / self._width)
        passed = current - self._part
        if passed <= 0:
            return
        if passed >= PARTS:
            self.clear()
        else:
            for number in range(self._part + 1, current + 1):
                part = self._parts[number % PARTS]
                self.calls -= part[0]
                self.failures -= part[1]
                self.slow -= part[2]
                part[:] = (0, 0, 0)
        self._part = current

    def clear(self) -> None:
        for part in self._parts:
            part[:] = (0, 0, 0)
        self.calls = self.failures = self.slow = 0

    def __repr__(self) -> str:
        return f"<TimeWindow calls={self.calls} failures={self.failures} slow={self.slow}>"
