"""What is known of one instance beyond its weight: how fast it answers, how often it fails, what it reports.

A failure is never taken for a fast answer. An instance that fails at once has few requests at work and a
short time to show for each, so whoever looks at those sends it everything (istio 39870). Here a failure
counts as a request that keeps the instance busy for 5 s, both where requests are counted and where time is
measured; 5 s is what Linkerd's load biaser takes.
"""

from __future__ import annotations

from math import exp, inf

#: What a failure counts as, in seconds.
PENALTY_S = 5.0
#: Failures that have decayed below this are forgotten: a single one after 3.5 s.
FORGOTTEN = 0.5
#: How long a measured latency is remembered: after this time without an answer 1/e of it is left, so that
#: an instance that was slow once is asked again (Finagle's and Linkerd's default).
DECAY_S = 10.0
#: The latency of an instance that has not answered yet (Linkerd's default).
DEFAULT_LATENCY_S = 0.03
#: Shorter is not told apart, and nothing answers in no time: it would be preferred whatever it has at work.
LEAST_LATENCY_S = 1e-4
#: A report counts from this long after an instance began to report, while it is still finding its pace
#: (Envoy's ``blackout_period``), until it is this old: Envoy waits 3 minutes, here reports come each second.
BLACKOUT_S = 10.0
STALE_S = 10.0


class Figures:
    """The figures of one instance as one agent sees it; the request path reports each try to them once.

    Attributes:
        latency: seconds to the response, a peak EWMA as of the last try; ``latency_at`` says as of now.
        failures: decaying count as of the last failure; ``failing`` says as of now. 0.0, nearly always.
        qps: requests per second that the instance reported; ``eps`` of them failed.
        utilisation: of what it can do, 1.0 for all; as it reported.
        reported: when that was, monotonic seconds, ``-inf`` for never.
        reporting: since when it reports without a gap.
    """

    __slots__ = (
        "_failed",
        "_measured",
        "_seen",
        "eps",
        "failures",
        "latency",
        "qps",
        "reported",
        "reporting",
        "utilisation",
    )

    def __init__(self, now: float) -> None:
        self.latency = DEFAULT_LATENCY_S
        self._seen = now
        self._measured = False
        self.failures = 0.0
        self._failed = now
        self.qps = self.eps = self.utilisation = 0.0
        self.reported = self.reporting = -inf

    def answered(self, latency: float, now: float) -> None:
        """Hear that it answered after ``latency`` seconds.

        A longer time than is remembered counts at once, a shorter one by and by (Finagle's peak EWMA): a
        slow instance must be left quickly, and a fast answer or two prove nothing.
        """
        if latency > self.latency or not self._measured:
            self.latency = max(latency, LEAST_LATENCY_S)
            self._measured = True
        else:
            self.latency = max(smoothed(self.latency, latency, now - self._seen), LEAST_LATENCY_S)
        self._seen = now

    def failed(self, now: float, took: float = 0.0) -> None:
        """Hear that a try failed, was refused, or got a response that counts as a failure.

        It is averaged in as a sample of 5 s rather than taken as a peak: at a failure in a thousand the
        latency of such an instance rises by 5 ms, where a peak would keep it out for a minute each time.
        If it does nothing but fail, one second of that is enough for 0.5 s.

        Args:
            now: monotonic seconds.
            took: seconds that the try lasted; a time-out is a slow answer as well.
        """
        self.failures = self.failing(now) + 1.0
        self._failed = now
        sample = max(PENALTY_S, self.latency)
        self.latency = max(smoothed(self.latency, sample, now - self._seen), took)
        self._seen = now

    def report(self, qps: float, eps: float, utilisation: float, now: float) -> None:
        """Take what the instance announced of its load."""
        if now - self.reported > STALE_S:
            self.reporting = now
        self.reported = now
        self.qps, self.eps, self.utilisation = qps, eps, utilisation

    def failing(self, now: float) -> float:
        """Return how many requests its recent failures count as. Ask only if ``failures`` is not 0."""
        if not self.failures:
            return 0.0
        left = self.failures * exp((self._failed - now) / PENALTY_S)
        if left < FORGOTTEN:
            self.failures = left = 0.0
        return left

    def latency_at(self, now: float) -> float:
        """Return the latency that is expected, in seconds: what was measured, less the older it is."""
        age = now - self._seen
        return self.latency if age < 0.1 else self.latency * exp(-age / DECAY_S)

    def __repr__(self) -> str:
        return f"<Figures latency={self.latency * 1000:.1f}ms failures={self.failures:.1f} qps={self.qps:g}>"


def smoothed(value: float, sample: float, age: float, decay: float = DECAY_S) -> float:
    """Return the exponentially weighted average after a sample that comes ``age`` seconds after the last."""
    kept = exp(-max(age, 0.0) / decay)
    return value * kept + sample * (1.0 - kept)
