"""Faults on purpose: a delay before a request is sent, an answer in place of sending it.

The two are drawn independently, the delay first, as Envoy's fault filter does: a request may be delayed and
then aborted. Both come before everything else that a rule does, also before a redirect.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Fault:
    """What a rule does to some of its requests to see how callers bear it.

    Attributes:
        delay_s: seconds that a delayed request waits. They are not part of the rule's timeout, which
            begins when the request is let go, as in Envoy.
        delay_fraction: of the requests, from 0 to 1.
        abort_status: what an aborted request is answered with.
        abort_fraction: of the requests, from 0 to 1.
    """

    delay_s: float = 0.0
    delay_fraction: float = 0.0
    abort_status: int = 0
    abort_fraction: float = 0.0

    def delay(self, rng: Random) -> float:
        """Draw for one request; return the seconds that it is to wait, 0.0 for none."""
        return self.delay_s if drawn(self.delay_fraction, rng) else 0.0

    def abort(self, rng: Random) -> int:
        """Draw for one request; return the status that it is to be answered with, 0 to let it pass."""
        return self.abort_status if drawn(self.abort_fraction, rng) else 0


def drawn(fraction: float, rng: Random) -> bool:
    """Say yes for ``fraction`` of all calls: never for 0, always for 1."""
    return rng.random() < fraction
