"""Whether a try is followed by another, and when.

A failure is one of two kinds that must never be mixed up. *Not processed*: no application saw the request
(nobody listened, the session was unknown, the instance refused): trying elsewhere is always safe, also for
a POST. *Outcome unknown*: it was sent and no answer came: only an idempotent request may be tried again.
Beside them stands *settled*: another try would end the same, so there is none.

That is the mesh's own default, and it holds whatever a policy says, but for ``attempts: 0``. A policy can
only add to it, with Envoy's meanings: responses with certain statuses, and unknown outcomes of requests that
are not idempotent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from busmesh.decide.match import header_value

#: RFC 9110 section 9.2.2.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

#: Retries beside the first try; Istio's default.
DEFAULT_ATTEMPTS = 2
#: gRPC's "cancelled" and "unavailable": Istio's default.
DEFAULT_GRPC_STATUSES = frozenset((1, 14))
#: Seconds; Envoy's default.
BASE_BACKOFF_S = 0.025
#: The longest pause, in base pauses; Envoy's default.
MAX_BACKOFF_BASES = 10


class Outcome(Enum):
    """What is known of a try that failed."""

    NOT_PROCESSED = "not processed"
    UNKNOWN = "outcome unknown"
    SETTLED = "settled"


#: Response flags of what every other instance would answer, too: it cannot be relayed, time is up, the caller
#: may not ask this or has no good token, or it asks for more than it is granted, of which more requests are
#: not the cure.
_SETTLED = frozenset(("DPE", "UT", "RL", "RBAC", "JWT"))


def outcome_of_refusal(processed: bool, flags: str) -> Outcome:
    """Say what a refusal means that an instance's agent sealed.

    Args:
        processed: whether the application may have seen the request.
        flags: the response flags that the refusal carries.
    """
    if flags in _SETTLED:
        return Outcome.SETTLED
    return Outcome.UNKNOWN if processed else Outcome.NOT_PROCESSED


def backoff_limit(retry: int, base: float) -> float:
    """Return the longest pause, in seconds, before the given retry: base times 1, 3, 7, at most 10.

    Envoy's formula, (2**N - 1) * base, capped.

    Args:
        retry: counted from 1.
        base: seconds.
    """
    return base * min((1 << min(retry, 10)) - 1, MAX_BACKOFF_BASES)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What a rule says of tries that did not end well; without arguments, Istio's default.

    Attributes:
        attempts: retries that may follow the first try; 0 switches them off.
        per_try_timeout: seconds for one try, the first included; None for the time of the whole request.
        statuses: of responses that are not handed on but tried again, whatever the method.
        grpc_statuses: the same for a gRPC status in the headers of a response with status 200.
        unknown: unknown outcomes are tried again whatever the method: ``reset``, ``5xx``, ``gateway-error``.
        rate_limited: so is what was refused by a rate limit (flag RL): ``envoy-ratelimited``.
        ignore_previous: a retry avoids the instances that were tried, if there are others.
        remote_localities: a retry may leave the locality of the first try.
        base_backoff: seconds, see :func:`backoff_limit`.
        hedge: when a try's time is up, the next one runs beside it, and the first response counts.
    """

    attempts: int = DEFAULT_ATTEMPTS
    per_try_timeout: float | None = None
    statuses: frozenset[int] = frozenset()
    grpc_statuses: frozenset[int] = DEFAULT_GRPC_STATUSES
    unknown: bool = False
    rate_limited: bool = False
    ignore_previous: bool = True
    remote_localities: bool = False
    base_backoff: float = BASE_BACKOFF_S
    hedge: bool = False

    def again(self, outcome: Outcome, method: bytes, tries: int, flags: str = "") -> bool:
        """Say whether another try may follow one that brought no response of the application.

        A per-try timeout is an unknown outcome with the flag UT. It is tried again like any other, and
        also if the policy names the status 504, or if it hedges: that is a wish to ask twice.

        Args:
            outcome: what is known of the last try.
            method: the request's method.
            tries: how many tries were begun, at least 1.
            flags: the response flags that the application would get.
        """
        if tries > self.attempts:
            return False
        if outcome is Outcome.NOT_PROCESSED:
            return True
        if outcome is Outcome.SETTLED:
            return self.rate_limited and flags == "RL"
        if self.unknown or method in IDEMPOTENT:
            return True
        return flags == "UT" and (self.hedge or 504 in self.statuses)

    def again_after(self, status: int, block: bytes, tries: int) -> bool:
        """Say whether another try may follow this response, which then nobody sees.

        Args:
            status: of the response.
            block: its headers, as checked ``Name: value`` lines; empty if there is no gRPC status in them.
            tries: how many tries were begun, at least 1.
        """
        if status in self.statuses:
            return tries <= self.attempts
        if status != 200 or not block:
            return False
        return tries <= self.attempts and grpc_status(block) in self.grpc_statuses

    def backoff(self, retry: int, rng: Random) -> float:
        """Draw the seconds to wait before the given retry, counted from 1: full jitter, as Envoy's.

        Waiting is for instances that may be in trouble. A try that was not processed and goes to another
        instance need not wait.
        """
        return rng.random() * backoff_limit(retry, self.base_backoff)


def grpc_status(block: bytes) -> int | None:
    """Return the gRPC status in a response's headers, None if there is none."""
    value = header_value(block, b"grpc-status")
    return int(value) if value is not None and value.isdigit() and len(value) < 4 else None


#: For a rule that says nothing of retries; one object, so that it costs nothing.
DEFAULT_RETRIES = RetryPolicy()
#: ``attempts: 0``.
NO_RETRIES = RetryPolicy(attempts=0)
