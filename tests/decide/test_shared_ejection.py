"""Six callers, five instances, and what they tell each other, in virtual time.

Each caller sends two requests a second to each instance, so few that by itself it would need seconds to see
five failures in a row; together they find out sooner, and one liar among them changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

import pytest

from busmesh.decide.ejection import OutlierDetection, ejectable
from busmesh.decide.evidence import Evidence, EvidencePolicy, Reporter
from busmesh.decide.outlier import Detector
from busmesh.decide.report import Report, Seen, parse_report
from busmesh.names import ServiceName

ORDERS = ServiceName("orders")
INSTANCES = [f"orders-{number}" for number in range(5)]
SHARED = OutlierDetection(
    consecutive_5xx_errors=20, max_ejection_percent=20, shared=EvidencePolicy(minimum_volume=3)
)
Fails = Callable[[str, float], bool]


class Caller:
    """An agent, as far as ejection goes."""

    def __init__(self, number: int, lies: bool) -> None:
        assert SHARED.shared is not None
        self.reporter = Reporter(ServiceName("web" if number % 2 else "checkout"), f"caller-{number}")
        self.detector = Detector(SHARED, Random(number), 0.0)
        self.evidence = Evidence(SHARED.shared, capacity=50)
        self.lies = lies
        for instance in INSTANCES:
            self.detector.join(instance)

    def report(self) -> object:
        seen = self.detector.seen()
        if self.lies:
            seen = dict.fromkeys(INSTANCES, Seen(1000, 1000, True))
        return json.loads(json.dumps(Report(ORDERS, seen).to_plain()))

    @property
    def away(self) -> set[str]:
        return {name for name, record in self.detector.records.items() if record.ejected}


def run(fails: Fails, seconds: int, liars: int = 0) -> list[list[set[str]]]:
    """Return who had ejected whom after each second."""
    callers = [Caller(number, number < liars) for number in range(6)]
    history = []
    for second in range(1, seconds + 1):
        now = float(second)
        for caller in callers:
            for instance in INSTANCES:
                record = caller.detector.records[instance]
                if not record.ejected:
                    for _ in range(2):
                        caller.detector.result(record, 500 if fails(instance, now) else 200, now)
            if now >= caller.detector.due_at:
                caller.detector.sweep(now)
        for speaker in callers:
            for caller in callers:
                caller.evidence.heard(speaker.reporter, parse_report(speaker.report()).seen, now)
        for caller in callers:
            for instance in sorted(caller.evidence.judge(ejectable(5, 20), INSTANCES, now)):
                caller.detector.condemn(instance, now)
            assert len(caller.away) <= ejectable(5, 20)
        history.append([caller.away for caller in callers])
    return history


def test_together_they_eject_within_seconds_what_none_would_have_ejected_yet() -> None:
    history = run(lambda instance, now: instance == INSTANCES[0], 4)
    assert history[0] == [set()] * 6
    assert history[1] == [{INSTANCES[0]}] * 6


@pytest.mark.parametrize("liars", [0, 1])
def test_an_instance_that_has_recovered_stays_once_it_is_back(liars: int) -> None:
    """Nothing that was said before, and no echo of the ejection itself, takes it out again."""
    history = run(lambda instance, now: instance == INSTANCES[0] and 2 <= now <= 12, 120, liars)
    ejected_at = next(second for second, away in enumerate(history, 1) if all(away))
    back_at = next(second for second, away in enumerate(history, 1) if second > ejected_at and not any(away))
    assert ejected_at <= 6
    assert 30 <= back_at - ejected_at <= 40
    assert all(not any(away) for away in history[back_at:])


@pytest.mark.parametrize("liars", [1, 2])
def test_liars_fewer_than_the_quorum_change_nothing(liars: int) -> None:
    history = run(lambda instance, now: False, 60, liars)
    assert all(not any(away) for away in history)


def test_an_outage_of_all_ejects_no_more_than_the_cap() -> None:
    history = run(lambda instance, now: True, 60)
    assert all(len(away) == 1 for away in history[2])
    assert len({frozenset(away) for away in history[2]}) == 1, "all of them chose the same one"
