"""Instances that share one limit, in virtual time: requests, ticks, reports that are late or lost."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from random import Random

from busmesh.decide.share import PERIOD_S, Share
from busmesh.decide.sharereport import Report, parse_report
from busmesh.decide.sharing import Sharing

KEY = b"12345678"
#: Requests per second that instance ``index`` is asked at time ``t``.
Demand = Callable[[int, float], float]
Lie = Callable[[Report], Report]


class Instance:
    """A sharing agent with one key."""

    def __init__(self, total: float, burst: float, now: float) -> None:
        self.sharing = Sharing(born=int(now * 1000), now=now)
        self.share: Share = self.sharing.open(KEY, total, burst, now)

    def request(self, now: float) -> bool:
        if not self.share.active:
            self.sharing.activate(self.share, now)
        self.share.offered()
        if self.share.bucket.wait(now) > 0:
            return False
        self.share.take(now)
        return True


class World:
    """Plays instances ``0`` to ``count - 1`` against a demand.

    Args:
        demand: what each is asked.
        poisson: whether requests come at random, else evenly.
        lives: (from, to) of instances that do not live from the beginning to the end.
        lies: what an instance says instead of its report.
    """

    def __init__(
        self,
        demand: Demand,
        *,
        count: int = 5,
        total: float = 100.0,
        burst: float = 100.0,
        poisson: bool = False,
        seed: int = 1,
        delay: float = 0.05,
        loss: float = 0.1,
        lives: dict[int, tuple[float, float]] | None = None,
        lies: dict[int, Lie] | None = None,
    ) -> None:
        self._demand = demand
        self._total, self._burst = total, burst
        self._poisson = poisson
        self._rng = Random(seed)
        self._delay, self._loss = delay, loss
        self._lives = lives or {}
        self._lies = lies or {}
        self._count = count
        self._queue: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = 0
        self.instances: dict[int, Instance] = {}
        #: (time, instance) of each request that was admitted.
        self.admitted: list[tuple[float, int]] = []

    def run(self, until: float) -> World:
        for index in range(self._count):
            begin, end = self._lives.get(index, (0.0, until))
            self._at(begin + self._rng.random() * PERIOD_S, self._start(index))
            self._at(end, self._end(index))
        while self._queue and self._queue[0][0] < until:
            now, _, happens = heapq.heappop(self._queue)
            happens(now)
        return self

    def _at(self, when: float, happens: Callable[[float], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (when, self._number, happens))

    def _end(self, index: int) -> Callable[[float], None]:
        def end(now: float) -> None:
            self.instances.pop(index, None)

        return end

    def _start(self, index: int) -> Callable[[float], None]:
        def start(now: float) -> None:
            self.instances[index] = Instance(self._total, self._burst, now)
            self._at(now + self._rng.random() * PERIOD_S, tick)
            self._at(now + self._rng.random() * 0.01, request)

        def tick(now: float) -> None:
            if (instance := self.instances.get(index)) is None:
                return
            instance.sharing.tick(now)
            report = instance.sharing.report(now)
            if report is not None:
                if index in self._lies:
                    report = self._lies[index](report)
                for peer in self.instances:
                    if peer != index and self._rng.random() >= self._loss:
                        self._at(now + self._rng.random() * self._delay, self._deliver(index, peer, report))
            self._at(now + PERIOD_S * self._rng.uniform(0.95, 1.05), tick)

        def request(now: float) -> None:
            if (instance := self.instances.get(index)) is None:
                return
            rate = self._demand(index, now)
            if rate <= 0:
                self._at(now + 0.01, request)
                return
            if instance.request(now):
                self.admitted.append((now, index))
            self._at(now + (self._rng.expovariate(rate) if self._poisson else 1 / rate), request)

        return start

    def _deliver(self, sender: int, peer: int, report: Report) -> Callable[[float], None]:
        plain = report.to_plain()

        def deliver(now: float) -> None:
            if peer in self.instances:
                self.instances[peer].sharing.hear(f"orders-{sender}", parse_report(plain), now)

        return deliver

    def windows(self, begin: float, end: float, only: Sequence[int] | None = None) -> Iterator[int]:
        """Yield what was admitted in each second that begins at a twentieth of one between the two."""
        times = [when for when, index in self.admitted if only is None or index in only]
        steps = int((end - begin - 1.0) * 20 + 1e-6)
        for step in range(steps + 1):
            at = begin + step / 20
            yield bisect_left(times, at + 1.0) - bisect_left(times, at)
