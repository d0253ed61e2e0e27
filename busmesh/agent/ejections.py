"""Ejections that the processes of one agent share: what one of them finds out, all of them use.

A process makes a destination when the first request goes there, and a worker that was started again has none;
so what it is told of is kept until the instance is one that it could choose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from busmesh.decide.records import Action, Cause, Change
from busmesh.relay.destination.destination import Destination
from busmesh.relay.destination.upstreams import Upstreams

#: What one process tells the others: destination, instance, cause, and seconds that it is to be away.
Ejection = tuple[str, str, str, float]


class Ejections:
    """What one process of an agent tells and hears.

    Args:
        upstreams: where instances are ejected.
        capacity: ejections kept for destinations that no request has gone to yet.

    Attributes:
        on_found: called with what the other processes are to hear.
    """

    def __init__(self, upstreams: Upstreams, *, capacity: int = 1024) -> None:
        self._upstreams = upstreams
        self.on_found: Callable[[Ejection], None] = lambda ejection: None
        self._capacity = capacity
        self._hearing = False
        #: By destination and instance: why, and when it returns (monotonic seconds).
        self._early: dict[tuple[str, str], tuple[Cause, float]] = {}
        upstreams.on_join = self._joined

    def __repr__(self) -> str:
        return f"<Ejections early={len(self._early)}>"

    def found(self, destination: Destination, change: Change) -> None:
        """Hear what happened here, and tell the others unless it is what they have told."""
        if change.action is Action.EJECTED and not self._hearing:
            self.on_found(_told(destination, change.instance, time.monotonic()))

    def heard(self, key: str, instance: str, cause: str, seconds: float) -> None:
        """Eject an instance as another process has, as far as this one may."""
        now = time.monotonic()
        for destination in self._upstreams.destinations():
            detector = destination.guard.detector
            if destination.target.key == key and detector is not None and instance in detector.records:
                self._condemn(destination, instance, Cause(cause), seconds)
                return
        self._early = {which: what for which, what in self._early.items() if what[1] > now}
        if len(self._early) < self._capacity:
            self._early[key, instance] = (Cause(cause), now + seconds)

    def current(self) -> Iterator[Ejection]:
        """Return the ejections that stand, for a process that begins."""
        now = time.monotonic()
        for destination in self._upstreams.destinations():
            detector = destination.guard.detector
            for record in detector.records.values() if detector is not None else ():
                if record.ejected:
                    yield _told(destination, record.instance, now)
        for (key, instance), (cause, until) in self._early.items():
            yield key, instance, cause.value, until - now

    def _joined(self, destination: Destination) -> None:
        if not self._early:
            return
        now, key = time.monotonic(), destination.target.key
        for instance in list(destination.guard.detector.records) if destination.guard.detector else ():
            early = self._early.pop((key, instance), None)
            if early is not None and early[1] > now:
                self._condemn(destination, instance, early[0], early[1] - now)

    def _condemn(self, destination: Destination, instance: str, cause: Cause, seconds: float) -> None:
        self._hearing = True
        try:
            destination.condemn(instance, time.monotonic(), cause, seconds)
        finally:
            self._hearing = False


def _told(destination: Destination, instance: str, now: float) -> Ejection:
    detector = destination.guard.detector
    assert detector is not None, "it has ejected an instance"
    record = detector.records[instance]
    assert record.ejected_by is not None, "it has ejected this one"
    return destination.target.key, instance, record.ejected_by.value, record.returns_at - now
