"""Lifecycle events: what happened to the agent, its peers and its policies, in words.

They are few, but a peer that flaps can cause many: only the newest are kept until they are drained,
and the message that follows tells how many were lost before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from busmesh.telemetry.text import bounded, rfc3339

#: Characters of a message, and of each text in the detail.
MAX_TEXT = 512
#: Entries of the detail.
MAX_DETAIL = 32

Detail = Mapping[str, str | int | float | bool | None]


class EventLog:
    """Keeps lifecycle events until they are drained.

    Args:
        service: this agent's service; an event is about it unless it says otherwise.
        instance: this agent's instance.
        capacity: events between two drains; the oldest give way.

    Attributes:
        dropped: events that gave way, since the start.
    """

    __slots__ = ("_events", "_instance", "_service", "dropped")

    def __init__(self, service: str, instance: str, *, capacity: int) -> None:
        self._service = service
        self._instance = instance
        self._events: deque[dict[str, object]] = deque(maxlen=capacity)
        self.dropped = 0

    def add(
        self,
        now: float,
        kind: str,
        message: str,
        *,
        service: str | None = None,
        instance: str | None = None,
        detail: Detail | None = None,
    ) -> dict[str, object]:
        """Keep one event, and return it.

        Args:
            now: Unix time in seconds.
            kind: what happened, for programs: dotted words such as ``member.lost``.
            message: the same for people, on one line.
            service: whom it happened to, if not this agent's service.
            instance: whom it happened to, if not this agent.
            detail: flat facts; texts are cut to 512 printable characters, and entries past 32 left out.
        """
        event: dict[str, object] = {
            "time": rfc3339(now),
            "kind": bounded(kind),
            "service": self._service if service is None else bounded(service),
            "instance": self._instance if instance is None else bounded(instance),
            "message": bounded(message, MAX_TEXT),
            "detail": {
                bounded(name): bounded(value, MAX_TEXT) if isinstance(value, str) else value
                for name, value in list((detail or {}).items())[:MAX_DETAIL]
            },
        }
        if len(self._events) == self._events.maxlen:
            self.dropped += 1
        self._events.append(event)
        return event

    def drain(self) -> list[dict[str, object]]:
        """Return the events since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        return events

    def statistics(self) -> dict[str, int]:
        return {"waiting": len(self._events), "capacity": self._events.maxlen or 0, "dropped": self.dropped}

    def __repr__(self) -> str:
        return f"<EventLog {self._service}/{self._instance} {self.statistics()}>"
