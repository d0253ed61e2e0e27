"""The breaker: a destination or instance that fails gets no traffic for a while, then a few probes.

Names, rates and windows are resilience4j's; the generation number is gobreaker's. Each admission carries the
generation it was made in, and a result of another generation counts for nothing, so what was sent before the
breaker opened cannot close it, and what a first probe left behind cannot fail the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import log
from typing import Literal

from busmesh.decide.window import CountWindow, TimeWindow, Window

WindowType = Literal["COUNT_BASED", "TIME_BASED"]


class State(Enum):
    """Closed: traffic flows. Open: it is refused. Half-open: a few requests find out which is right."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(Enum):
    """What moves a breaker."""

    FAILING = "failing"
    WAITED = "waited"
    RECOVERED = "recovered"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.CLOSED, Event.FAILING): State.OPEN,
    (State.OPEN, Event.WAITED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.FAILING): State.OPEN,
    (State.HALF_OPEN, Event.RECOVERED): State.CLOSED,
}
_CLOSED, _OPEN = State.CLOSED, State.OPEN


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and how it closes again. Durations are in seconds, rates in percent.

    Attributes:
        consecutive_failures: in a row that open it; 0 switches this off.
        failure_rate_threshold: of the window's calls, at or above which it opens; 100 waits until all fail.
        slow_call_rate_threshold: the same for slow calls, those that succeed included.
        slow_call_duration_threshold: above which a call is slow.
        minimum_number_of_calls: in the window before a rate means anything; lower reacts sooner and to less.
        sliding_window_type: the last calls, or those of the last seconds.
        sliding_window_size: how many calls or seconds.
        wait_duration_in_open_state: from opening to the first probe.
        exponential_backoff_multiplier: by which that grows each time probes fail; 1 leaves it as it is.
        exponential_max_wait_duration_in_open_state: to which it grows at most.
        permitted_number_of_calls_in_half_open_state: probes. More make a better-founded decision, and send
            more requests into what may still be broken.
    """

    consecutive_failures: int = 5
    failure_rate_threshold: float = 50.0
    slow_call_rate_threshold: float = 100.0
    slow_call_duration_threshold: float = 60.0
    minimum_number_of_calls: int = 100
    sliding_window_type: WindowType = "COUNT_BASED"
    sliding_window_size: int = 100
    wait_duration_in_open_state: float = 60.0
    exponential_backoff_multiplier: float = 1.0
    exponential_max_wait_duration_in_open_state: float = 300.0
    permitted_number_of_calls_in_half_open_state: int = 1


def reaches(part: int, whole: int, percent: float) -> bool:
    """Say whether ``part`` of ``whole`` is at least ``percent`` of it."""
    return part * 100 >= percent * whole


def open_time(opened: int, *, base: float, multiplier: float, cap: float) -> float:
    """Return for how many seconds a breaker stays open.

    Args:
        opened: how often it opened without closing in between, from 1.
        base: seconds the first time.
        multiplier: of each time after.
        cap: seconds that it never exceeds, unless ``base`` does.
    """
    if opened <= 1 or multiplier <= 1.0 or base >= cap:
        return base
    if (opened - 1) * log(multiplier) >= log(cap / base):  # the power itself may be too large for a float
        return cap
    return base * multiplier ** (opened - 1)


class Breaker:
    """One breaker. Per request `admit`, then exactly one of `report` and `abandoned` with its token.

    Attributes:
        state: half-open begins with the first admission after the wait, not by itself.
        generation: grows at each transition.
        opened: how often it opened since it was last closed.
        until: when a probe may be admitted, while it is open (monotonic seconds).
        refused: requests that were not admitted.
    """

    __slots__ = (
        "_consecutive",
        "_minimum",
        "_probes",
        "_probes_failed",
        "_probes_reported",
        "_probes_slow",
        "_window",
        "generation",
        "opened",
        "policy",
        "refused",
        "state",
        "until",
    )

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.state = State.CLOSED
        self.generation = 0
        self.opened = 0
        self.until = 0.0
        self.refused = 0
        size, minimum = policy.sliding_window_size, policy.minimum_number_of_calls
        counts = policy.sliding_window_type == "COUNT_BASED"
        self._window: Window = CountWindow(size) if counts else TimeWindow(size)
        self._minimum = min(minimum, size) if counts else minimum
        self._consecutive = 0
        self._probes = self._probes_reported = self._probes_failed = self._probes_slow = 0

    def admit(self, now: float) -> int | None:
        """Return the token to report with, None if the request is refused."""
        if self.state is _CLOSED:
            return self.generation
        if self.refuses(now):
            self.refused += 1
            return None
        if self.state is _OPEN:
            self._move(Event.WAITED, now)
        self._probes += 1
        return self.generation

    def refuses(self, now: float) -> bool:
        """Say what `admit` would, without admitting: for who only looks round among the instances."""
        if self.state is _CLOSED:
            return False
        if self.state is _OPEN:
            return now < self.until
        return self._probes >= self.policy.permitted_number_of_calls_in_half_open_state

    def report(self, token: int, failed: bool, duration: float, now: float) -> bool:
        """Take in the result of an admitted request; say whether that moved the breaker.

        Args:
            token: of its admission; a result of another generation is ignored.
            failed: as `is_failure` says it; also if there was no response at all.
            duration: seconds from sending it to its response's beginning.
            now: monotonic seconds.
        """
        if token != self.generation:
            return False
        slow = duration > self.policy.slow_call_duration_threshold
        event = self._called(failed, slow, now) if self.state is _CLOSED else self._probed(failed, slow)
        if event is None:
            return False
        self._move(event, now)
        return True

    def abandoned(self, token: int) -> None:
        """Hear that an admitted request ends without a result, its client gone: a probe is given back."""
        if token == self.generation and self.state is State.HALF_OPEN:
            self._probes -= 1

    def _called(self, failed: bool, slow: bool, now: float) -> Event | None:
        window, policy = self._window, self.policy
        window.add(failed, slow, now)
        if failed:
            self._consecutive += 1
            if self._consecutive == policy.consecutive_failures:
                return Event.FAILING
        else:
            self._consecutive = 0
        failures, slow_calls, calls = window.failures, window.slow, window.calls
        if (
            (failures or slow_calls)  # nearly always neither, and then there is no rate to work out
            and calls >= self._minimum
            and (
                reaches(failures, calls, policy.failure_rate_threshold)
                or reaches(slow_calls, calls, policy.slow_call_rate_threshold)
            )
        ):
            return Event.FAILING
        return None

    def _probed(self, failed: bool, slow: bool) -> Event | None:
        """Decide as soon as it is certain: rates are those of all the probes, as if the rest were good."""
        policy = self.policy
        permitted = policy.permitted_number_of_calls_in_half_open_state
        self._probes_reported += 1
        self._probes_failed += failed
        self._probes_slow += slow
        if reaches(self._probes_failed, permitted, policy.failure_rate_threshold) or reaches(
            self._probes_slow, permitted, policy.slow_call_rate_threshold
        ):
            return Event.FAILING
        return Event.RECOVERED if self._probes_reported == permitted else None

    def _move(self, event: Event, now: float) -> None:
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise ValueError(f"a breaker that is {self.state.value} cannot hear {event.value}")
        policy = self.policy
        self.state = after
        self.generation += 1
        self._consecutive = 0
        self._window.clear()
        self._probes = self._probes_reported = self._probes_failed = self._probes_slow = 0
        if after is State.OPEN:
            self.opened += 1
            self.until = now + open_time(
                self.opened,
                base=policy.wait_duration_in_open_state,
                multiplier=policy.exponential_backoff_multiplier,
                cap=policy.exponential_max_wait_duration_in_open_state,
            )
        elif after is State.CLOSED:
            self.opened = 0

    def __repr__(self) -> str:
        window = self._window
        return (
            f"<Breaker {self.state.value} generation={self.generation} calls={window.calls}"
            f" failures={window.failures} slow={window.slow} probes={self._probes} refused={self.refused}>"
        )


def is_failure(status: int) -> bool:
    """Say whether a response of this status is a failure of the instance: 5xx, as for Envoy."""
    return status >= 500
