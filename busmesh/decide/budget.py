"""The retry budget: retries may be so large a part of the work, and no more.

Two retries per request triple the load of a service at the moment when it has least to spare. A budget
bounds that for a whole destination, however many requests fail at once. Names and rules are those of
Istio's `retryBudget`, which are Envoy's.
"""

from __future__ import annotations

from dataclasses import dataclass

from busmesh.decide.limits import UNLIMITED
from busmesh.decide.window import TimeWindow


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many retries may be under way at once.

    Attributes:
        percent: of the requests under way or waiting, 0 to 100; raising it mends more failures and adds more
            load when most of them fail.
        min_retry_concurrency: so many always, so that a service with little traffic is retried at all.
        budget_interval: seconds; above 0, the requests that began within them count instead of those under
            way, for requests so short that hardly any two are under way at once.
    """

    percent: float = 20.0
    min_retry_concurrency: int = 3
    budget_interval: float = 0.0


def allowed_retries(requests: int, *, percent: float, minimum: int) -> int:
    """Return how many retries may be under way beside ``requests``."""
    return max(int(requests * percent / 100), minimum)


def retries_here(retries: int, attempt: int) -> int:
    """Return how many retries an agent may make of a request, given which try of it another agent made.

    Only the agent closest to whom it began with retries. Five hops with two retries each would otherwise
    turn one request into 243 at the last of them; the attempt number travels with a request for this.

    Args:
        retries: what the policy grants.
        attempt: 0 for a first try, and for a request that comes from no other agent; above, it is a retry
            already.
    """
    return 0 if attempt else retries


class Budget:
    """The retries under way at one destination.

    Without a `RetryBudget` the fixed limit ``max_retries`` holds in its place, as in Envoy.

    Attributes:
        retries: under way.
        overflows: retries that were not granted.
    """

    __slots__ = ("_began", "max_retries", "overflows", "retries", "rule")

    def __init__(self, rule: RetryBudget | None = None, max_retries: int = UNLIMITED) -> None:
        self.rule = rule
        self.max_retries = max_retries
        self.retries = 0
        self.overflows = 0
        interval = rule.budget_interval if rule is not None else 0.0
        self._began = TimeWindow(interval) if interval > 0 else None

    def began(self, now: float) -> None:
        """Hear of each request that begins, retries left out; needed only with a ``budget_interval``."""
        if self._began is not None:
            self._began.add(False, False, now)

    def take(self, requests: int, now: float) -> bool:
        """Grant one retry; False if the budget is used up, and the request ends as it failed.

        Args:
            requests: of this agent under way at the destination or waiting for it, the asking one included.
            now: monotonic seconds.
        """
        rule = self.rule
        if rule is None:
            allowed = self.max_retries
        else:
            if self._began is not None:
                self._began.advance(now)
                requests = self._began.calls
            allowed = allowed_retries(requests, percent=rule.percent, minimum=rule.min_retry_concurrency)
        if self.retries >= allowed:
            self.overflows += 1
            return False
        self.retries += 1
        return True

    def give_back(self) -> None:
        """Hear that a retry which was granted has ended, in whatever way."""
        self.retries -= 1

    def __repr__(self) -> str:
        return f"<Budget retries={self.retries} overflows={self.overflows}>"
