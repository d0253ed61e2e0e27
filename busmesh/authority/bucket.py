"""A token bucket: so many a second on average, so many at once."""

from __future__ import annotations


class TokenBucket:
    """Begins full.

    Args:
        rate: tokens that come back per second.
        burst: tokens that it holds.
        now: seconds of any clock that only goes forward.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if not (rate > 0 and burst >= 1):
            raise ValueError(f"a bucket of {burst} tokens, {rate} a second, lets nobody through")
        self.rate = rate
        self.burst = burst
        self._level = float(burst)
        self._at = now

    def __repr__(self) -> str:
        return f"<TokenBucket {self._level:.1f} of {self.burst:g}, {self.rate:g}/s>"

    def take(self, now: float) -> bool:
        """Take one token; False, and nothing changes but the time, if there is none."""
        self._level = min(self.burst, self._level + max(0.0, now - self._at) * self.rate)
        self._at = max(self._at, now)
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def give_back(self, tokens: float) -> None:
        """Return what turned out not to be needed of a token that was taken."""
        self._level = min(self.burst, self._level + tokens)
