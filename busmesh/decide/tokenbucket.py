"""A token bucket: so many requests a second on average, so many at once after a rest.

The level is brought up to date when somebody asks, so a bucket costs no timer, and one that nobody asks costs
nothing. What is added is the rate times the difference of two times, and these differences add up to the time
that has passed: however often it is asked, a bucket does not drift.
"""

from __future__ import annotations

#: A level this close below a whole token counts as one, because differences of times are rounded: a year
#: after the clock's beginning to 4 ns, and 10 ms at 100 tokens a second are then a little less than a
#: token. What is too little stays owed, so nothing is given away by it.
ROUNDING = 1e-6


class TokenBucket:
    """Begins full.

    Attributes:
        rate: tokens that come back per second.
        burst: tokens that it holds at most.
        level: tokens that it held when it was last asked; below 0 by ``ROUNDING`` at most.
    """

    __slots__ = ("_at", "burst", "level", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """``now`` is in seconds, of any clock that only goes forward.

        Raises:
            ValueError: such a bucket would never hold a token.
        """
        if not (rate > 0 and burst >= 1):
            raise ValueError(f"a bucket of {burst} tokens, {rate} a second, lets nobody through")
        self.rate = rate
        self.burst = burst
        self.level = float(burst)
        self._at = now

    def advance(self, now: float) -> float:
        """Bring the level up to ``now`` and return it; a clock that goes back adds nothing."""
        passed = now - self._at
        if passed > 0:
            self._at = now
            level = self.level + passed * self.rate
            self.level = level if level < self.burst else self.burst
        return self.level

    def take(self, now: float, n: int = 1) -> bool:
        """Take ``n`` tokens if they are there; else take none and return False."""
        if self.advance(now) < n - ROUNDING:
            return False
        self.level -= n
        return True

    def wait(self, now: float) -> float:
        """Return the seconds until there is a token, 0 if there is one."""
        missing = 1.0 - self.advance(now)
        return missing / self.rate if missing > ROUNDING else 0.0

    def give_back(self, tokens: float) -> None:
        """Return what turned out not to be needed of tokens that were taken."""
        self.level = min(self.burst, self.level + tokens)

    def change(self, rate: float, burst: float, now: float) -> None:
        """Go on with another rate from ``now``; what is above the new ``burst`` is lost."""
        self.advance(now)
        self.rate = rate
        self.burst = burst
        if self.level > burst:
            self.level = burst

    def __repr__(self) -> str:
        return f"<TokenBucket {self.level:.1f} of {self.burst:g}, {self.rate:g}/s>"
