"""Golden signals from the metrics that agents publish: a second or two of them, added up.

Percentiles cannot be averaged, so the messages carry buckets and those are added. Telemetry is unsigned:
numbers are for people to look at, and nothing is decided by them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from busmesh.errors import InvalidName
from busmesh.names import ServiceName
from busmesh.telemetry.buckets import BUCKETS, FINE_BOUNDS, percentiles

#: Messages that are kept; a mesh of 1,000 instances sends as many a second.
MAX_MESSAGES = 8192
_BUCKET_OF: Mapping[float | None, int] = {
    **{round(bound * 1000, 3): index for index, bound in enumerate(FINE_BOUNDS)},
    None: len(FINE_BOUNDS),
}

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Name = Annotated[str, Field(max_length=256)]


class _Entry(BaseModel):
    """What is read of one label set."""

    model_config = ConfigDict(frozen=True)

    reporter: _Name
    destination_service: _Name
    count: _Count
    failed: _Count = 0
    in_flight: _Count = 0
    buckets: Annotated[list[tuple[float | None, _Count]], Field(max_length=BUCKETS)] = []


class _Message(BaseModel):
    """What is read of one message."""

    model_config = ConfigDict(frozen=True)

    elapsed_s: float = Field(gt=0, le=3600, allow_inf_nan=False)
    requests: Annotated[list[_Entry], Field(max_length=4096)] = []


@dataclass(slots=True)
class Signals:
    """Requests of some seconds, added up.

    Attributes:
        rps: requests per second.
        count: requests.
        failed: those that ended with 500 or more, or without an answer.
        buckets: durations, by fine bucket.
    """

    rps: float = 0.0
    count: int = 0
    failed: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS, repr=False)

    @property
    def success(self) -> float | None:
        """The share that did not fail; None if there were no requests."""
        return 1 - self.failed / self.count if self.count else None

    def percentiles_ms(self) -> tuple[float | None, float | None, float | None]:
        """Return p50, p95 and p99 in milliseconds; None if there were no requests."""
        p50, p95, p99 = (
            None if value is None else round(value * 1000, 3)
            for value in percentiles(self.buckets, (50, 95, 99))
        )
        return p50, p95, p99

    def _add(self, entry: _Entry, elapsed: float) -> None:
        self.rps += entry.count / elapsed
        self.count += entry.count
        self.failed += min(entry.failed, entry.count)
        for upper, count in entry.buckets:
            index = _BUCKET_OF.get(upper)
            if index is not None:
                self.buckets[index] += count


class Numbers:
    """Collects metrics messages and adds them up.

    Attributes:
        dropped: messages that could not be read, or came when there were too many.
    """

    def __init__(self) -> None:
        self._heard: dict[tuple[ServiceName, str], list[_Message]] = {}
        self._count = 0
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Numbers instances={len(self._heard)} messages={self._count} dropped={self.dropped}>"

    def hear(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take one message from the bus: ``<root>.telemetry.metrics.<ns>.<service>.<instance>``."""
        try:
            namespace, service, instance = subject.decode("ascii").split(".")[-3:]
            name = ServiceName.parse(f"{service}.{namespace}")
            message = _Message.model_validate(json.loads(payload))
        except (ValueError, ValidationError, InvalidName, RecursionError):
            self.dropped += 1
            return
        if self._count >= MAX_MESSAGES:
            self.dropped += 1
            return
        self._count += 1
        self._heard.setdefault((name, instance), []).append(message)

    def instance(self, service: ServiceName, instance: str) -> Signals:
        """Return what ``instance`` received, as its own agent counted it."""
        return _added(self._heard.get((service, instance), ()), lambda entry: entry.reporter == "destination")

    def service(self, service: ServiceName) -> Signals:
        """Return what ``service`` answered as its callers' agents saw it: failures on the way count.

        Without such callers, as a caller that is on its way out is, what its instances received.
        """
        called = str(service)
        total = Signals()
        for messages in self._heard.values():
            _merge(total, _added(messages, lambda entry: _called(entry, called)))
        if not total.count:
            for (name, _), messages in self._heard.items():
                if name == service:
                    _merge(total, _added(messages, lambda entry: entry.reporter == "destination"))
        return total


def _called(entry: _Entry, service: str) -> bool:
    return entry.reporter == "source" and entry.destination_service == service


def _added(messages: Sequence[_Message], wanted: Callable[[_Entry], bool]) -> Signals:
    """Add the wanted entries of one reporter's messages; its rate is over all its seconds."""
    elapsed = sum(message.elapsed_s for message in messages)
    total = Signals()
    for message in messages:
        for entry in message.requests:
            if wanted(entry):
                total._add(entry, elapsed)
    return total


def _merge(total: Signals, more: Signals) -> None:
    total.rps += more.rps
    total.count += more.count
    total.failed += more.failed
    total.buckets = [a + b for a, b in zip(total.buckets, more.buckets, strict=True)]
