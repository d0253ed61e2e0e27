"""The adaptive concurrency limit: found from latency instead of guessed by an operator.

The algorithm is Gradient2 of Netflix' concurrency-limits: while requests take no longer than they use to,
the limit grows by what may wait in line; once they take longer, it shrinks in proportion. Envoy's controller
compares with a minimum that it measures anew every minute by letting nearly nothing through, which its users
see as a burst of 503; this one compares with a slow average and never has to stop traffic.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Samples that a window needs: a limit that follows two or three requests follows noise.
MIN_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class AdaptiveConcurrency:
    """How the limit moves.

    Attributes:
        initial_limit: to begin with.
        min_concurrency: that the limit never goes below.
        max_concurrency_limit: that it never goes above.
        concurrency_update_interval: seconds of samples per decision; shorter follows faster and
            trembles more.
        rtt_tolerance: how many times the usual latency is still as usual.
        queue_size: requests that may wait at the destination; raising it keeps it busier and latency higher.
        smoothing: share of a new limit against the old one, above 0 to 1.
        long_window: intervals over which the usual latency is averaged.
    """

    initial_limit: int = 20
    min_concurrency: int = 3
    max_concurrency_limit: int = 1000
    concurrency_update_interval: float = 0.1
    rtt_tolerance: float = 1.5
    queue_size: int = 4
    smoothing: float = 0.2
    long_window: int = 600


def gradient(usual: float, latest: float, tolerance: float) -> float:
    """Return by what the limit is multiplied: 1 while latency is as usual, down to 0.5."""
    return max(0.5, min(1.0, tolerance * usual / latest))


def next_limit(limit: float, slope: float, policy: AdaptiveConcurrency) -> float:
    """Return the limit after one interval, between the policy's bounds."""
    wanted = limit * slope + policy.queue_size
    smooth = limit * (1 - policy.smoothing) + wanted * policy.smoothing
    return max(float(policy.min_concurrency), min(float(policy.max_concurrency_limit), smooth))


class ConcurrencyLimit:
    """The limit of one destination.

    Attributes:
        limit: in force; a fraction, so that small steps add up.
        usual: the slow average of latency, in seconds; 0 before the first interval.
        refused: requests that were not admitted.
    """

    __slots__ = ("_count", "_ends", "_most", "_sum", "limit", "policy", "refused", "usual")

    def __init__(self, policy: AdaptiveConcurrency) -> None:
        self.policy = policy
        self.limit = float(
            max(policy.min_concurrency, min(policy.max_concurrency_limit, policy.initial_limit))
        )
        self.usual = 0.0
        self.refused = 0
        self._ends: float | None = None
        self._sum = 0.0
        self._count = self._most = 0

    def admit(self, inflight: int) -> bool:
        """Say whether one more may be sent beside so many under way."""
        if inflight < int(self.limit):
            return True
        self.refused += 1
        return False

    def sample(self, latency: float, inflight: int, now: float) -> None:
        """Take in a response.

        Args:
            latency: seconds from sending the request; above 0. That of a request which timed out counts too,
                that of one which was refused or cancelled does not.
            inflight: requests under way when it came, itself included.
            now: monotonic seconds.
        """
        self._sum += latency
        self._count += 1
        if inflight > self._most:
            self._most = inflight
        if self._ends is None:
            self._ends = now + self.policy.concurrency_update_interval
        elif now >= self._ends and self._count >= MIN_SAMPLES:
            self._update(now)

    def _update(self, now: float) -> None:
        policy, latest, most = self.policy, self._sum / self._count, self._most
        self._sum, self._count, self._most = 0.0, 0, 0
        self._ends = now + policy.concurrency_update_interval
        if latest <= 0:
            return
        self.usual += (latest - self.usual) / policy.long_window if self.usual else latest
        if self.usual > 2 * latest:
            self.usual *= 0.95  # after long overload what was usual is no measure; come down faster
        if most < self.limit / 2:
            return  # so few under way say nothing about the limit
        self.limit = next_limit(self.limit, gradient(self.usual, latest, policy.rtt_tolerance), policy)

    def __repr__(self) -> str:
        return f"<ConcurrencyLimit limit={self.limit:.1f} usual={self.usual:.4f} refused={self.refused}>"
