"""The replay window: each counter of a session is accepted once.

A sliding bitmap as in RFC 6479 and RFC 4303 section 3.4.3, held in one Python integer: bit ``i`` stands for
``highest - i``.
"""

from __future__ import annotations

#: Counters that may arrive out of order. The bus keeps the order of one publisher, so this only has to
#: cover a change of route inside a NATS cluster.
WINDOW = 1024
_MASK = (1 << WINDOW) - 1


class ReplayWindow:
    """Which counters of one direction of a session have been seen."""

    __slots__ = ("_bits", "highest")

    def __init__(self) -> None:
        self.highest = -1
        self._bits = 0

    def accept(self, counter: int) -> bool:
        """Mark ``counter`` as seen; False if it was seen before or is too old to tell.

        Call it only after the frame has proven authentic: a forged counter must not move the window.
        """
        ahead = counter - self.highest
        if ahead == 1:  # in order: nearly always
            self._bits = (self._bits << 1 | 1) & _MASK
            self.highest = counter
            return True
        if ahead > 0:
            self._bits = (self._bits << min(ahead, WINDOW) | 1) & _MASK
            self.highest = counter
            return True
        if ahead <= -WINDOW:
            return False
        bit = 1 << -ahead
        if self._bits & bit:
            return False
        self._bits |= bit
        return True

    def __repr__(self) -> str:
        return f"<ReplayWindow highest={self.highest} seen={self._bits.bit_count()}>"
