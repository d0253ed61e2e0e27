"""Every metric of one process: its requests, and any other number worth seeing.

A number is either counted here (:class:`Counter`), or counted where it belongs and read by a function
when somebody asks: so the owner of a number needs no telemetry on its hot path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from busmesh.errors import UsageError
from busmesh.telemetry import exposition, message
from busmesh.telemetry.series import (
    OTHER,
    UNKNOWN,
    Labels,
    Outcome,
    Reporter,
    RequestMetrics,
    RequestTable,
    Series,
)
from busmesh.telemetry.text import bounded, rfc3339

__all__ = ["Counter", "Registry", "Reporter", "RequestMetrics", "Series", "Values"]

#: A number for each set of label values.
Values = Mapping[tuple[str, ...], float]
_METRIC_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_LABEL_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, n: float = 1) -> None:
        self.value += n

    def __repr__(self) -> str:
        return f"<Counter {self.value}>"


@dataclass(slots=True)
class Family:
    """The counters or gauges of one name.

    Attributes:
        read: returns the values.
        counters: what ``read`` returns, where they are counted here.
        told: values of the last tick.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...]
    read: Callable[[], Values]
    counters: dict[tuple[str, ...], Counter] = field(default_factory=dict)
    told: dict[tuple[str, ...], float] = field(default_factory=dict)

    def values(self, limit: int) -> dict[tuple[str, ...], float]:
        """Return at most ``limit`` values, with the label values bounded."""
        items = islice(self.read().items(), limit)
        # The plus makes a number of a bool, which is a natural thing for a gauge to read.
        return {tuple([bounded(text) for text in values]): +number for values, number in items}


class Registry:
    """Every metric of one process.

    Args:
        origin: what each message says of its sender, such as ``service`` and ``instance``.
        max_series: request series, and label sets of any one counter or gauge. Requests past it are counted
            under labels that all say ``other``. Each costs 2 to 8 KiB of memory and 20 lines of a scrape,
            which takes 20 us; lowering it blurs a busy agent sooner.
        max_entries: label sets in one message of :meth:`tick`, the busiest first; the rest is added up.
            256 keep a message within half of the megabyte that NATS takes.
    """

    def __init__(
        self,
        origin: Mapping[str, str] | None = None,
        *,
        max_series: int = 500,
        max_entries: int = 256,
    ) -> None:
        if max_series < 1 or max_entries < 1:
            raise UsageError("max_series and max_entries must be at least 1", code="BM6001")
        self._origin = {name: bounded(value) for name, value in (origin or {}).items()}
        self._max_entries = max_entries
        self._table = RequestTable(capacity=max_series)
        self._families: dict[str, Family] = {}
        self._sequence = 0
        self.counter_from(
            "busmesh_telemetry_overflow_total",
            "Requests counted under the labels 'other': too many series.",
            lambda: self._table.other.count,
        )

    def requests(
        self,
        reporter: Reporter,
        source_service: str,
        source_principal: str,
        destination_service: str,
        destination_version: str,
        route: str,
    ) -> RequestMetrics:
        """Return what counts the requests of these labels, made at the first call; hold on to it.

        Label values are cut to 128 printable characters; an empty one is ``unknown``. Past the cap this
        is the one ``other``. Give no name that a caller made up: for a service that nobody knows, say so.
        """
        return self._table.of(
            Labels(
                reporter, source_service, source_principal, destination_service, destination_version, route
            )
        )

    def counter(self, name: str, help_text: str, labels: Mapping[str, str] | None = None) -> Counter:
        """Return the counter of this name and these labels, made at the first call.

        Raises:
            UsageError: not a counter's name, or known with another kind or other labels.
        """
        labels = labels or {}
        family = self._families.get(name)
        if family is None or not family.counters:
            counters: dict[tuple[str, ...], Counter] = {}
            family = Family(name, "counter", help_text, tuple(labels), dict, counters)
            family.read = lambda: {values: counter.value for values, counter in counters.items()}
            self._add(family)
        elif family.labels != tuple(labels):
            raise _clash(family)
        values = tuple([bounded(value) or UNKNOWN for value in labels.values()])
        if values not in family.counters and len(family.counters) >= self._table.capacity:
            values = (OTHER,) * len(values)
        return family.counters.setdefault(values, Counter())

    def counter_from(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a number that somebody else counts. A later call of this name replaces ``read``."""
        self._add(Family(name, "counter", help_text, (), lambda: {(): read()}))

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a number that goes up and down. A later call of this name replaces ``read``."""
        self._add(Family(name, "gauge", help_text, (), lambda: {(): read()}))

    def gauge_table(
        self, name: str, help_text: str, labels: tuple[str, ...], read: Callable[[], Values]
    ) -> None:
        """Show a number for each of a changing set of things; ``read`` maps label values to numbers."""
        self._add(Family(name, "gauge", help_text, labels, read))

    def _add(self, family: Family) -> None:
        named = _METRIC_NAME.fullmatch(family.name) and all(map(_LABEL_NAME.fullmatch, family.labels))
        if not named or (family.kind == "counter") != family.name.endswith("_total"):
            raise UsageError(
                f"{family.name!r} with labels {family.labels} cannot name a {family.kind}",
                code="BM6002",
                hint="snake_case; counters end in _total, gauges do not",
            )
        # An actor that is started again registers again, so the same name may come twice.
        known = self._families.get(family.name)
        if known is not None:
            if (known.kind, known.labels) != (family.kind, family.labels):
                raise _clash(known)
            family.told = known.told
        self._families[family.name] = family

    def tick(self, now: float, elapsed: float = 1.0) -> dict[str, object]:
        """Return what happened since the last tick, ready for JSON.

        Args:
            now: Unix time in seconds.
            elapsed: seconds since the last tick, by a clock that does not jump; rates come from it.
        """
        self._sequence += 1
        changes = [change for metrics in self._table if (change := message.take(metrics)) is not None]
        changes = message.busiest(changes, self._max_entries)
        counters: list[dict[str, object]] = []
        gauges: list[dict[str, object]] = []
        for family in self._families.values():
            values = family.values(self._max_entries)
            for key, value in values.items():
                told = {"name": family.name, "labels": dict(zip(family.labels, key, strict=True))}
                if family.kind == "gauge":
                    gauges.append({**told, "value": _json(value)})
                elif delta := value - family.told.get(key, 0):
                    counters.append({**told, "total": _json(value), "delta": _json(delta)})
            family.told = values
        return {
            **self._origin,
            "time": rfc3339(now),
            "sequence": self._sequence,
            "elapsed_s": round(elapsed, 6),
            "requests": [message.entry(change, elapsed) for change in changes],
            "counters": counters,
            "gauges": gauges,
        }

    def take(self) -> list[tuple[list[str], int, list[Outcome]]]:
        """Return what was counted since the last call, for the registry of another process: plain data."""
        taken = []
        for metrics in self._table:
            retries, metrics.told_retries = metrics.retries - metrics.told_retries, metrics.retries
            outcomes = metrics.take()
            if outcomes or retries:
                taken.append((list(metrics.labels), retries, outcomes))
        return taken

    def take_counters(self) -> list[tuple[str, str, dict[str, str], float]]:
        """Return the same of what is counted here beside requests: name, help, labels, and by how much."""
        taken = []
        for family in self._families.values():
            for values, counter in family.counters.items():
                more = counter.value - family.told.get(values, 0)
                if more:
                    family.told[values] = counter.value
                    labels = dict(zip(family.labels, values, strict=True))
                    taken.append((family.name, family.help, labels, more))
        return taken

    def add(self, labels: list[str], retries: int, outcomes: list[Outcome]) -> None:
        """Count what another process of this agent counted."""
        metrics = self._table.of(Labels(*labels))
        metrics.retries += retries
        for outcome in outcomes:
            metrics.add(*outcome)

    def prometheus(self) -> str:
        """Return everything in the Prometheus text format 0.0.4."""
        lines = exposition.requests(self._table)
        for name in sorted(self._families):
            family = self._families[name]
            samples = {
                exposition.labelled(family.labels, key): value
                for key, value in family.values(self._table.capacity).items()
            }
            lines += exposition.family(name, family.kind, family.help, samples)
        return "\n".join(lines) + "\n"

    def statistics(self) -> dict[str, int]:
        return {**self._table.statistics(), "families": len(self._families)}

    def __repr__(self) -> str:
        return f"<Registry {self.statistics()}>"


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _clash(known: Family) -> UsageError:
    return UsageError(f"{known.name} is already a {known.kind} with labels {known.labels}", code="BM6003")
