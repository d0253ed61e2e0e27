"""What outlier detection remembers of an instance, and the words in which it says what happened to one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """What asked for an ejection; the names are Envoy's, but for the last."""

    CONSECUTIVE_5XX = "consecutive_5xx"
    CONSECUTIVE_GATEWAY_FAILURE = "consecutive_gateway_failure"
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE = "consecutive_local_origin_failure"
    SUCCESS_RATE = "success_rate"
    LOCAL_ORIGIN_SUCCESS_RATE = "local_origin_success_rate"
    FAILURE_PERCENTAGE = "failure_percentage"
    FAILURE_PERCENTAGE_LOCAL_ORIGIN = "failure_percentage_local_origin"
    SHARED_EVIDENCE = "shared_evidence"


class Action(Enum):
    """What came of it."""

    EJECTED = "ejected"
    RETURNED = "returned"
    #: The lot of the enforcing percentage said no.
    NOT_ENFORCED = "not enforced"
    #: As many as may be are ejected already.
    OVERFLOW = "overflow"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to an instance; only EJECTED and RETURNED change where traffic may go.

    Attributes:
        cause: of the ejection, also when it ends.
    """

    instance: str
    action: Action
    cause: Cause


class Tally:
    """Calls and failures of the running interval and of the one before, which is the one that is judged."""

    __slots__ = ("calls", "failures", "last_calls", "last_failures")

    def __init__(self) -> None:
        self.calls = self.failures = self.last_calls = self.last_failures = 0

    def turn(self) -> None:
        """Begin a new interval."""
        self.last_calls, self.last_failures = self.calls, self.failures
        self.calls = self.failures = 0

    @property
    def success_rate(self) -> float:
        """Percent of the last interval's calls; it had some."""
        return 100.0 * (self.last_calls - self.last_failures) / self.last_calls


class Record:
    """What a detector knows of one instance.

    Attributes:
        ejected_by: why it is ejected, None if it is not.
        multiplier: of the base ejection time, for the next ejection.
        ejections: in all.
        external: the application's responses; ``local``: whether there was any, counted only if split.
    """

    __slots__ = (
        "consecutive_5xx",
        "consecutive_gateway",
        "consecutive_local",
        "ejected_at",
        "ejected_by",
        "ejections",
        "external",
        "instance",
        "local",
        "multiplier",
        "returned_at",
        "returns_at",
    )

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.consecutive_5xx = self.consecutive_gateway = self.consecutive_local = 0
        self.ejected_by: Cause | None = None
        self.ejected_at = self.returns_at = 0.0
        self.returned_at: float | None = None
        self.multiplier = 0
        self.ejections = 0
        self.external = Tally()
        self.local = Tally()

    @property
    def ejected(self) -> bool:
        return self.ejected_by is not None

    def __repr__(self) -> str:
        state = f"ejected by {self.ejected_by.value}" if self.ejected_by else "in rotation"
        return f"<Record {self.instance} {state} ejections={self.ejections} multiplier={self.multiplier}>"
