"""What a guard keeps, and what it begins anew, when the settings change."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from busmesh.decide.breaker import BreakerPolicy, State
from busmesh.decide.budget import RetryBudget
from busmesh.decide.concurrency import AdaptiveConcurrency
from busmesh.decide.ejection import OutlierDetection
from busmesh.decide.evidence import EvidencePolicy, Reporter
from busmesh.decide.guard import Guard
from busmesh.decide.limits import Limits
from busmesh.decide.report import Seen
from busmesh.decide.traffic import DEFAULT_TRAFFIC, Traffic
from busmesh.names import ServiceName

FULL = Traffic(
    limits=Limits(10, 10, 10),
    retry_budget=RetryBudget(),
    outlier_detection=OutlierDetection(max_ejection_percent=100, shared=EvidencePolicy()),
    breaker=BreakerPolicy(),
    instance_breaker=BreakerPolicy(consecutive_failures=1, wait_duration_in_open_state=5.0),
    adaptive_concurrency=AdaptiveConcurrency(),
)


def guard(traffic: Traffic = FULL, instances: int = 3) -> Guard:
    made = Guard(traffic, Random(1), 0.0)
    for number in range(instances):
        made.join(f"i{number}")
    return made


def eject(of: Guard, instance: str) -> None:
    assert of.detector is not None
    for _ in range(5):
        of.detector.result(of.detector.records[instance], 500, 0.0)


def usable(of: Guard, now: float = 0.0) -> set[str]:
    return {instance for instance in ("i0", "i1", "i2") if of.usable(instance, now)}


def test_by_default_nothing_stands_in_the_way() -> None:
    of = guard(DEFAULT_TRAFFIC)
    assert (of.breaker, of.adaptive, of.detector, of.evidence) == (None, None, None, None)
    assert (of.instance_breaker("i0"), of.changes_at(0.0)) == (None, None)
    assert of.admission.admit()
    assert of.budget.take(1, 0.0)
    assert usable(of) == {"i0", "i1", "i2"}
    assert of.leave("i0", 0.0) == []
    assert repr(of) == "<Guard <Admission active=1 pending=0 overflows=0> <Budget retries=1 overflows=0>>"


def test_an_ejected_instance_and_one_behind_its_breaker_are_not_usable() -> None:
    of = guard()
    eject(of, "i0")
    breaker = of.instance_breaker("i1")
    assert breaker is not None
    assert of.instance_breaker("i1") is breaker
    token = breaker.admit(0.0)
    assert token is not None
    assert breaker.report(token, True, 0.1, 0.0)
    assert usable(of) == {"i2"}
    assert of.changes_at(0.0) == 5.0
    assert usable(of, 5.0) == {"i1", "i2"}
    assert of.changes_at(5.0) == 10.0
    assert breaker.admit(5.0) is not None
    assert usable(of, 5.0) == {"i2"}, "its one probe is under way"


def test_so_few_left_that_all_are_usable() -> None:
    of = guard(
        replace(FULL, outlier_detection=OutlierDetection(max_ejection_percent=100, min_health_percent=50))
    )
    eject(of, "i0")
    assert usable(of) == {"i1", "i2"}
    eject(of, "i1")
    assert usable(of) == {"i0", "i1", "i2"}


@pytest.mark.parametrize(
    "changed",
    [
        {"limits": Limits(20, 20, 10)},
        {"outlier_detection": OutlierDetection(max_ejection_percent=90, shared=EvidencePolicy(expiry=30.0))},
        {},
    ],
)
def test_state_goes_on_where_its_meaning_is_the_same(changed: dict[str, object]) -> None:
    of = guard()
    eject(of, "i0")
    assert of.evidence is not None
    of.evidence.heard(Reporter(ServiceName("web"), "web-0"), {"i0": Seen(9, 9, True)}, 0.0)
    before = repr(of)
    kept = [
        of.admission,
        of.budget,
        of.breaker,
        of.adaptive,
        of.detector,
        of.evidence,
        of.instance_breaker("i2"),
    ]
    settings = replace(FULL, **changed)  # type: ignore[arg-type]  # each case has the right ones
    assert of.use(settings, 1.0) == []
    assert repr(of) == before
    now = [
        of.admission,
        of.budget,
        of.breaker,
        of.adaptive,
        of.detector,
        of.evidence,
        of.instance_breaker("i2"),
    ]
    assert all(one is other for one, other in zip(kept, now, strict=True))
    assert of.detector is not None
    assert of.detector.policy == of.traffic.outlier_detection
    assert of.evidence.policy == of.detector.policy.shared
    assert of.admission.limits == settings.limits


def test_what_has_another_meaning_begins_anew_and_the_rest_stays() -> None:
    of = guard()
    eject(of, "i0")
    old = of.breaker, of.budget, of.adaptive, of.instance_breaker("i0")
    detector = of.detector
    of.use(
        replace(
            FULL,
            breaker=BreakerPolicy(consecutive_failures=1),
            instance_breaker=BreakerPolicy(),
            retry_budget=None,
            adaptive_concurrency=AdaptiveConcurrency(initial_limit=5),
        ),
        1.0,
    )
    new = of.breaker, of.budget, of.adaptive, of.instance_breaker("i0")
    assert all(one is not other for one, other in zip(old, new, strict=True))
    assert of.detector is detector
    assert of.budget.max_retries == 10
    assert of.breaker is not None
    token = of.breaker.admit(1.0)
    assert token is not None
    of.breaker.report(token, True, 0.1, 1.0)
    assert of.breaker.state is State.OPEN


def test_turned_off_and_on_it_follows_the_instances_that_are_there() -> None:
    of = guard()
    eject(of, "i0")
    of.use(DEFAULT_TRAFFIC, 1.0)
    assert usable(of) == {"i0", "i1", "i2"}
    of.leave("i1", 1.0)
    of.use(FULL, 2.0)
    assert of.detector is not None
    assert set(of.detector.records) == {"i0", "i2"}
    assert of.detector.ejected == 0
    assert of.instance_breaker("i1") is None, "it is followed no more"


def test_a_smaller_share_lets_the_longest_ejected_return() -> None:
    of = guard()
    for instance in ("i0", "i1", "i2"):
        eject(of, instance)
    smaller = replace(FULL, outlier_detection=OutlierDetection(max_ejection_percent=40))
    assert [change.instance for change in of.use(smaller, 1.0)] == ["i0", "i1"]
    assert of.evidence is None
    assert [change.instance for change in of.leave("i0", 1.0)] == []
    assert [change.instance for change in of.leave("i1", 1.0)] == ["i2"]
