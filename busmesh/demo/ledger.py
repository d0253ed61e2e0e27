"""What the caller has seen: who answered which request, how long it took, and what failed.

An answer of the shop names every service that took part, so one count at the caller tells the shares of all
of them. Nothing here believes what anybody else says.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum

from busmesh.telemetry.buckets import BUCKETS, FINE_BOUNDS, percentiles

#: Failures that are kept word by word; all are counted.
MAX_FAILURES = 20
#: A request goes through web, orders and payments; an answer that nests deeper is nonsense.
MAX_HOPS = 8
MAX_NAME = 64


class Part(IntEnum):
    """A part of the demo; what is sent while a policy is on its way is in none that promises anything."""

    BETWEEN = 0
    EVEN = 1
    SPLIT = 2
    CANARY = 3
    KILL = 4


#: While these last, whoever does not ask for the canary is split 80 to 20.
SPLIT_PARTS = (Part.SPLIT, Part.CANARY, Part.KILL)
CANARY_PARTS = (Part.CANARY, Part.KILL)


@dataclass(frozen=True, slots=True)
class Hop:
    """Who took part in an answer."""

    service: str
    version: str
    instance: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request.

    Attributes:
        part: in which it was sent.
        service: to which it was sent.
        canary: whether it asked for the canary.
        seconds: from sending to the end, by the caller's clock.
        hops: who took part, the first one first.
        failure: why it failed; empty if it did not.
    """

    part: Part
    service: str
    canary: bool
    seconds: float
    hops: tuple[Hop, ...] = ()
    failure: str = ""


@dataclass(slots=True)
class Ledger:
    """Every result, counted."""

    total: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    sent_in: Counter[Part] = field(default_factory=Counter)
    _hops: dict[tuple[Part, bool], Counter[tuple[str, str]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    _durations: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * BUCKETS))

    def add(self, result: Result) -> None:
        self.total += 1
        self.sent_in[result.part] += 1
        if result.failure:
            self.failed += 1
            if len(self.failures) < MAX_FAILURES:
                self.failures.append(f"{result.part.name.lower()}: {result.service}: {result.failure}")
            return
        self._durations[result.service][bisect_left(FINE_BOUNDS, result.seconds)] += 1
        counts = self._hops[result.part, result.canary]
        for hop in result.hops:
            counts[hop.service, hop.version] += 1

    def versions(self, service: str, parts: Collection[Part], *, canary: bool) -> Counter[str]:
        """Return how many requests each version of ``service`` answered."""
        found: Counter[str] = Counter()
        for part in parts:
            for (name, version), count in self._hops.get((part, canary), Counter()).items():
                if name == service:
                    found[version] += count
        return found

    def percentiles_ms(self, service: str) -> tuple[float | None, float | None]:
        """Return p50 and p99 of what was sent to ``service``, in milliseconds."""
        p50, p99 = percentiles(self._durations.get(service, [0]), (50, 99))
        return (
            None if p50 is None else round(p50 * 1000, 3),
            None if p99 is None else round(p99 * 1000, 3),
        )


def share(counts: Counter[str], version: str) -> float | None:
    """Return the share of ``version``; None if there were no requests."""
    total = counts.total()
    return counts[version] / total if total else None


def read_hops(body: bytes) -> tuple[Hop, ...]:
    """Return who took part in an answer of the shop.

    Raises:
        ValueError: it is no such answer.
    """
    try:
        said = json.loads(body)
    except RecursionError:
        raise ValueError("the answer nests too deep") from None
    hops: list[Hop] = []
    while said is not None:
        if not isinstance(said, dict) or len(hops) == MAX_HOPS:
            raise ValueError("the answer is not one of the shop")
        hops.append(Hop(*(_name(said.get(key)) for key in ("service", "version", "instance"))))
        said = said.get("below")
    return tuple(hops)


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_NAME:
        raise ValueError("the answer names nobody")
    return value
