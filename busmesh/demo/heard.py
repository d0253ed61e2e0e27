"""What the agents tell on the telemetry subjects, as any subscriber hears it: the last seconds, added up.

Telemetry is unsigned and comes from anybody: it is shown, and nothing of the demo's verdict rests on it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from busmesh.telemetry.buckets import BUCKETS, FINE_BOUNDS, percentiles

#: Figures are of these last seconds. Agents tell each second; shorter jumps, longer is late to show a fault.
WINDOW_S = 3.2
#: Who was not heard for so long is gone.
GONE_S = 2.2
#: Senders that are kept apart, and messages of each.
MAX_SENDERS = 64
MAX_MESSAGES = 8
_BUCKET_OF: dict[float | None, int] = {
    **{round(bound * 1000, 3): index for index, bound in enumerate(FINE_BOUNDS)},
    None: len(FINE_BOUNDS),
}
_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Name = Annotated[str, Field(max_length=256)]


class Entry(BaseModel):
    """What is read of one label set."""

    model_config = ConfigDict(frozen=True)

    reporter: _Name
    destination_service: _Name
    destination_version: _Name
    route: _Name
    count: _Count
    failed: _Count = 0
    buckets: Annotated[list[tuple[float | None, _Count]], Field(max_length=BUCKETS)] = []


class Message(BaseModel):
    """What is read of one message."""

    model_config = ConfigDict(frozen=True)

    requests: Annotated[list[Entry], Field(max_length=4096)] = []


@dataclass(slots=True)
class Figures:
    """Tries of some seconds, as those who made them saw them."""

    count: int = 0
    failed: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    @property
    def success(self) -> float | None:
        return 1 - self.failed / self.count if self.count else None

    def percentiles_ms(self) -> tuple[float | None, float | None]:
        """Return p50 and p99 in milliseconds."""
        p50, p99 = percentiles(self.buckets, (50, 99))
        return None if p50 is None else p50 * 1000, None if p99 is None else p99 * 1000

    def add(self, entry: Entry) -> None:
        self.count += entry.count
        self.failed += min(entry.failed, entry.count)
        for upper, count in entry.buckets:
            index = _BUCKET_OF.get(upper)
            if index is not None:
                self.buckets[index] += count


class Heard:
    """Metrics messages of the last seconds, by who sent them.

    Args:
        clock: seconds that do not jump.

    Attributes:
        messages: read so far.
        dropped: what could not be read.
        failed_tries: of all agents, since the beginning.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.messages = 0
        self.dropped = 0
        self.failed_tries = 0
        self._clock = clock
        self._by_sender: dict[str, deque[tuple[float, Message]]] = {}

    def hear(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take one message from the bus: ``<root>.telemetry.metrics.<ns>.<service>.<instance>``."""
        sender = subject.rpartition(b".")[2].decode("ascii", "replace")
        try:
            message = Message.model_validate(json.loads(payload))
        except (ValueError, ValidationError, RecursionError):
            self.dropped += 1
            return
        if sender not in self._by_sender and len(self._by_sender) >= MAX_SENDERS:
            self.dropped += 1
            return
        self.messages += 1
        self.failed_tries += sum(entry.failed for entry in message.requests if entry.reporter == "source")
        told = self._by_sender.setdefault(sender, deque(maxlen=MAX_MESSAGES))
        told.append((self._clock(), message))

    def lately(self) -> set[str]:
        """Return the instances that were heard lately."""
        now = self._clock()
        return {sender for sender, told in self._by_sender.items() if now - told[-1][0] <= GONE_S}

    def figures(self, wanted: Callable[[Entry], bool]) -> Figures:
        """Add up what callers told of the ``wanted`` tries."""
        now = self._clock()
        total = Figures()
        for told in self._by_sender.values():
            for at, message in told:
                if now - at <= WINDOW_S:
                    for entry in message.requests:
                        if entry.reporter == "source" and wanted(entry):
                            total.add(entry)
        return total

    def __repr__(self) -> str:
        return f"<Heard senders={len(self._by_sender)} messages={self.messages} dropped={self.dropped}>"
