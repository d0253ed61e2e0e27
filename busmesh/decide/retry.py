"""Whether a failed try is made again.

A failure is one of two kinds that must never be mixed up. *Not processed*: no application saw the request
(nobody listened, the session was unknown, the instance refused): trying elsewhere is always safe, also for
a POST. *Outcome unknown*: it was sent and no answer came: only an idempotent request may be tried again.
Beside them stands *settled*: another try would end the same, so there is none.
"""

from __future__ import annotations

from enum import Enum

#: RFC 9110 section 9.2.2.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

#: Retries beside the first try; Istio's default.
DEFAULT_RETRIES = 2


class Outcome(Enum):
    """What is known of a try that failed."""

    NOT_PROCESSED = "not processed"
    UNKNOWN = "outcome unknown"
    SETTLED = "settled"


#: Response flags of what every other instance would answer, too: it cannot be relayed, or time is up.
_SETTLED = frozenset(("DPE", "UT"))


def outcome_of_refusal(processed: bool, flags: str) -> Outcome:
    """Say what a refusal means that an instance's agent sealed.

    Args:
        processed: whether the application may have seen the request.
        flags: the response flags that the refusal carries.
    """
    if flags in _SETTLED:
        return Outcome.SETTLED
    return Outcome.UNKNOWN if processed else Outcome.NOT_PROCESSED


def may_retry(outcome: Outcome, method: bytes, tries: int, retries: int = DEFAULT_RETRIES) -> bool:
    """Say whether a request whose last try failed may be tried again.

    Args:
        outcome: what is known of the last try.
        method: the request's method.
        tries: how many tries were made, at least 1.
        retries: how many may follow the first.
    """
    if tries > retries:
        return False
    return outcome is Outcome.NOT_PROCESSED or (outcome is Outcome.UNKNOWN and method in IDEMPOTENT)
