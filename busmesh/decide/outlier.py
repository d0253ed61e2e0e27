"""Outlier detection: an instance that does worse than it should leaves the rotation for a while.

Passive, per instance, and as Envoy does it: failures in a row eject at once, rates are compared at each
sweep, and the time away grows with each ejection and shrinks while the instance behaves. The caller tells
`Detector.result` of each response, calls `Detector.sweep` when it is due, and hears of what changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Literal

from busmesh.decide.ejection import (
    OutlierDetection,
    ejectable,
    ejection_time,
    next_multiplier,
    success_rate_threshold,
)
from busmesh.decide.records import Action, Cause, Change, Record, Tally
from busmesh.decide.report import Seen

GATEWAY_ERRORS = frozenset((502, 503, 504))

#: Cause -> the setting that says how often it is enforced. Shared evidence always is: it was agreed upon.
_ENFORCING: Mapping[Cause, str] = {
    cause: f"enforcing_{cause.value}" for cause in Cause if cause is not Cause.SHARED_EVIDENCE
}


class Detector:
    """The instances of one destination.

    Attributes:
        records: by instance; as many as `join` was called for and `leave` was not.
        ejected: how many of them are.
        due_at: when the next sweep is due (monotonic seconds).
        counts: how often each cause led to each action, for telemetry.
    """

    __slots__ = ("_rng", "_split", "counts", "due_at", "ejected", "policy", "records")

    def __init__(self, policy: OutlierDetection, rng: Random, now: float) -> None:
        self.policy = policy
        self.records: dict[str, Record] = {}
        self.ejected = 0
        self.due_at = now + policy.interval
        self.counts: Counter[tuple[Cause, Action]] = Counter()
        self._rng = rng
        self._split = policy.split_external_local_origin_errors

    def join(self, instance: str) -> Record:
        """Follow an instance; one that is followed already keeps its record."""
        record = self.records.get(instance)
        if record is None:
            record = self.records[instance] = Record(instance)
        return record

    def leave(self, instance: str, now: float) -> list[Change]:
        """Follow an instance no more; of a smaller service fewer may be ejected, so others may return."""
        record = self.records.pop(instance, None)
        if record is None:
            return []
        if record.ejected:
            self.ejected -= 1
        return self._return_surplus(now)

    def use(self, policy: OutlierDetection, now: float) -> list[Change]:
        """Go on by other settings, without forgetting anything."""
        self.policy = policy
        self._split = policy.split_external_local_origin_errors
        self.due_at = min(self.due_at, now + policy.interval)
        return self._return_surplus(now)

    def _return_surplus(self, now: float) -> list[Change]:
        """Let the longest ejected ones return that are more than may be."""
        surplus = self.ejected - ejectable(len(self.records), self.policy.max_ejection_percent)
        if surplus <= 0:
            return []
        away = sorted(
            (r for r in self.records.values() if r.ejected), key=lambda r: (r.ejected_at, r.instance)
        )
        return [self._return(record, now) for record in away[:surplus]]

    # -- per request -------------------------------------------------------------------------------

    def result(self, record: Record, status: int, now: float) -> Change | None:
        """Take in a response of the instance's application; return what that changed, nearly always None."""
        if self._split:
            record.local.calls += 1
            record.consecutive_local = 0
        return self._answered(record, status, now)

    def local_failure(self, record: Record, status: int, now: float) -> Change | None:
        """Take in a failure on the way, or a refusal by the instance's agent: no application answered.

        Args:
            record: of the instance.
            status: what the failure counts as unless it is split: 504 for a timeout, 503 for all else.
            now: monotonic seconds.
        """
        if not self._split:
            return self._answered(record, status, now)
        tally = record.local
        tally.calls += 1
        tally.failures += 1
        record.consecutive_local += 1
        if record.consecutive_local == self.policy.consecutive_local_origin_failures:
            record.consecutive_local = 0
            return self._detected(record, Cause.CONSECUTIVE_LOCAL_ORIGIN_FAILURE, now)
        return None

    def _answered(self, record: Record, status: int, now: float) -> Change | None:
        tally = record.external
        tally.calls += 1
        if status < 500:
            record.consecutive_5xx = record.consecutive_gateway = 0
            return None
        tally.failures += 1
        policy = self.policy
        change = None
        if status in GATEWAY_ERRORS:
            record.consecutive_gateway += 1
            if record.consecutive_gateway == policy.consecutive_gateway_errors:
                record.consecutive_gateway = 0
                change = self._detected(record, Cause.CONSECUTIVE_GATEWAY_FAILURE, now)
        else:
            record.consecutive_gateway = 0
        record.consecutive_5xx += 1
        if record.consecutive_5xx == policy.consecutive_5xx_errors:
            record.consecutive_5xx = 0
            change = self._detected(record, Cause.CONSECUTIVE_5XX, now) or change
        return change

    # -- per interval ------------------------------------------------------------------------------

    def sweep(self, now: float) -> list[Change]:
        """Let instances return whose time is up, eject those whose rates are bad, forgive a little."""
        self.due_at = now + self.policy.interval
        changes = []
        for record in self.records.values():
            if record.ejected and now >= record.returns_at:
                changes.append(self._return(record, now))
            record.external.turn()
            record.local.turn()
        changes += self._judge("external", now)
        if self._split:
            changes += self._judge("local", now)
        for record in self.records.values():
            behaved = record.returned_at is not None and now - record.returned_at >= self.policy.interval
            if behaved and not record.ejected and record.multiplier:
                record.multiplier -= 1
        return changes

    def condemn(
        self,
        instance: str,
        now: float,
        cause: Cause = Cause.SHARED_EVIDENCE,
        seconds: float | None = None,
    ) -> Change | None:
        """Eject an instance because others say so, within the same cap as one's own reasons.

        Args:
            instance: one that is followed, or nothing happens.
            now: monotonic seconds.
            cause: the callers together, or what another process of this agent found; its lot, if the cause
                is enforced by one, was drawn there.
            seconds: how long it is to be away; None: as long as an ejection found here.
        """
        record = self.records.get(instance)
        if record is None:
            return None
        change = self._detected(record, cause, now, agreed=True)
        if change is not None and change.action is Action.EJECTED and seconds is not None:
            record.returns_at = now + seconds
        return change

    @property
    def disregarded(self) -> bool:
        """Whether so few are left that ejections are disregarded: `minHealthPercent`, Envoy's panic."""
        left = len(self.records) - self.ejected
        return left * 100 < self.policy.min_health_percent * len(self.records)

    def seen(self) -> dict[str, Seen]:
        """Return what this agent itself saw of each instance, in this interval and the last.

        An ejection on shared evidence is not among it: an echo of what others said must not become evidence.
        """
        view = {}
        for record in self.records.values():
            own = record.ejected and record.ejected_by is not Cause.SHARED_EVIDENCE
            tallies = (record.external, record.local)
            calls = max(tally.calls + tally.last_calls for tally in tallies)
            failures = sum(tally.failures + tally.last_failures for tally in tallies)
            if calls or own:
                view[record.instance] = Seen(calls, min(failures, calls), own)
        return view

    def _judge(self, which: Literal["external", "local"], now: float) -> list[Change]:
        policy, local = self.policy, which == "local"
        rated: list[tuple[Record, Tally]] = [
            (record, tally)
            for record in self.records.values()
            if not record.ejected and (tally := record.local if local else record.external).last_calls
        ]
        found: list[Change | None] = []
        compared = [pair for pair in rated if pair[1].last_calls >= policy.success_rate_request_volume]
        if compared and len(compared) >= policy.success_rate_minimum_hosts:
            rates = [tally.success_rate for _, tally in compared]
            threshold = success_rate_threshold(rates, policy.success_rate_stdev_factor)
            cause = Cause.LOCAL_ORIGIN_SUCCESS_RATE if local else Cause.SUCCESS_RATE
            found += [
                self._detected(record, cause, now)
                for (record, _), rate in zip(compared, rates, strict=True)
                if rate < threshold
            ]
        judged = [pair for pair in rated if pair[1].last_calls >= policy.failure_percentage_request_volume]
        if len(judged) >= policy.failure_percentage_minimum_hosts:
            cause = Cause.FAILURE_PERCENTAGE_LOCAL_ORIGIN if local else Cause.FAILURE_PERCENTAGE
            found += [
                self._detected(record, cause, now)
                for record, tally in judged
                if 100.0 - tally.success_rate >= policy.failure_percentage_threshold
            ]
        return [change for change in found if change is not None]

    def _detected(self, record: Record, cause: Cause, now: float, *, agreed: bool = False) -> Change | None:
        """Eject if it may be; None if the instance is ejected already, or is followed no more."""
        if record.ejected or self.records.get(record.instance) is not record:
            return None
        policy = self.policy
        if self.ejected >= ejectable(len(self.records), policy.max_ejection_percent):
            action = Action.OVERFLOW
        elif not (agreed or self._enforced(cause)):
            action = Action.NOT_ENFORCED
        else:
            action = Action.EJECTED
            base, cap = policy.base_ejection_time, policy.max_ejection_time
            self.ejected += 1
            record.ejections += 1
            record.multiplier = next_multiplier(record.multiplier, base=base, cap=cap)
            record.ejected_by, record.ejected_at = cause, now
            jitter = policy.max_ejection_time_jitter * self._rng.random()
            record.returns_at = now + ejection_time(record.multiplier, base=base, cap=cap) + jitter
        self.counts[cause, action] += 1
        return Change(record.instance, action, cause)

    def _enforced(self, cause: Cause) -> bool:
        name = _ENFORCING.get(cause)
        percent: int = 100 if name is None else getattr(self.policy, name)
        return percent >= 100 or self._rng.random() * 100 < percent

    def _return(self, record: Record, now: float) -> Change:
        cause = record.ejected_by
        assert cause is not None, "only an ejected instance returns"
        self.ejected -= 1
        record.ejected_by, record.returned_at = None, now
        record.consecutive_5xx = record.consecutive_gateway = record.consecutive_local = 0
        self.counts[cause, Action.RETURNED] += 1
        return Change(record.instance, Action.RETURNED, cause)

    def __repr__(self) -> str:
        return f"<Detector instances={len(self.records)} ejected={self.ejected}>"
