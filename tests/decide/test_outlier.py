"""Outlier detection against a plain model of Envoy's rules; never more than the cap is ejected."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from busmesh.decide.ejection import (
    OutlierDetection,
    ejectable,
    ejection_time,
    next_multiplier,
    success_rate_threshold,
)
from busmesh.decide.outlier import Detector
from busmesh.decide.records import Action, Cause, Change, Record
from busmesh.decide.report import Seen

ALL = OutlierDetection(max_ejection_percent=100)


def detector(policy: OutlierDetection = ALL, instances: int = 3, seed: int = 1) -> Detector:
    made = Detector(policy, Random(seed), 0.0)
    for number in range(instances):
        made.join(f"i{number}")
    return made


def fail(of: Detector, instance: str, times: int = 5, status: int = 500, now: float = 0.0) -> list[Change]:
    record = of.records[instance]
    return [change for _ in range(times) if (change := of.result(record, status, now))]


def away(of: Detector) -> set[str]:
    return {name for name, record in of.records.items() if record.ejected}


# -- formulas --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instances", "percent", "expected"),
    [
        (0, 100, 0),
        (1, 10, 0),
        (1, 99, 0),
        (1, 100, 1),
        (2, 10, 1),
        (3, 50, 1),
        (3, 67, 2),
        (9, 10, 1),
        (10, 10, 1),
        (19, 10, 1),
        (20, 10, 2),
        (10, 0, 0),
        (4, 100, 4),
    ],
)
def test_how_many_may_be_ejected(instances: int, percent: int, expected: int) -> None:
    assert ejectable(instances, percent) == expected


@given(st.integers(0, 200), st.integers(0, 100))
def test_the_share_is_never_exceeded_but_for_the_first_of_several(instances: int, percent: int) -> None:
    allowed = ejectable(instances, percent)
    assert allowed * 100 <= percent * instances or (allowed == 1 and instances > 1 and percent > 0)


@pytest.mark.parametrize(("multiplier", "expected"), [(1, 30), (2, 60), (10, 300), (11, 300)])
def test_how_long_it_is_ejected(multiplier: int, expected: float) -> None:
    assert ejection_time(multiplier, base=30, cap=300) == expected


@pytest.mark.parametrize(("multiplier", "expected"), [(0, 1), (1, 2), (9, 10), (10, 11), (11, 11)])
def test_the_multiplier_stops_where_the_cap_takes_over(multiplier: int, expected: int) -> None:
    assert next_multiplier(multiplier, base=30, cap=300) == expected


def test_the_threshold_of_envoys_own_example() -> None:
    assert success_rate_threshold([50, 100, 100, 100, 100], 1900) == pytest.approx(52)


# -- consecutive failures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "statuses", "cause"),
    [
        (ALL, [500] * 5, Cause.CONSECUTIVE_5XX),
        (ALL, [500] * 4 + [200] + [500] * 4, None),
        (ALL, [500] * 4 + [404] + [500] * 4, None),
        (replace(ALL, consecutive_5xx_errors=0), [500] * 50, None),
        (replace(ALL, consecutive_gateway_errors=3), [502, 503, 504], Cause.CONSECUTIVE_GATEWAY_FAILURE),
        (replace(ALL, consecutive_gateway_errors=3), [502, 500, 504, 503], None),
        (replace(ALL, consecutive_gateway_errors=5), [503] * 5, Cause.CONSECUTIVE_GATEWAY_FAILURE),
        (replace(ALL, consecutive_gateway_errors=6), [503] * 5, Cause.CONSECUTIVE_5XX),
        (replace(ALL, consecutive_5xx_errors=1), [501], Cause.CONSECUTIVE_5XX),
    ],
)
def test_failures_in_a_row(policy: OutlierDetection, statuses: list[int], cause: Cause | None) -> None:
    of = detector(policy)
    for status in statuses:
        of.result(of.records["i0"], status, 1.0)
    assert of.records["i0"].ejected_by is cause
    assert of.ejected == (cause is not None)


@pytest.mark.parametrize("split", [False, True])
def test_failures_on_the_way(split: bool) -> None:
    policy = replace(
        ALL,
        split_external_local_origin_errors=split,
        consecutive_local_origin_failures=2,
        consecutive_5xx_errors=3,
    )
    of = detector(policy)
    one, two = of.records["i0"], of.records["i1"]
    for record, answers in ((one, ["way", 500, "way"]), (two, ["way", "way", 500])):
        for answer in answers:
            if isinstance(answer, int):
                of.result(record, answer, 0.0)
            else:
                of.local_failure(record, 503, 0.0)
    if split:
        assert (one.ejected_by, two.ejected_by) == (None, Cause.CONSECUTIVE_LOCAL_ORIGIN_FAILURE)
        assert (one.consecutive_5xx, one.consecutive_local) == (1, 1)
    else:
        assert one.ejected_by is two.ejected_by is Cause.CONSECUTIVE_5XX


def test_a_timeout_is_a_gateway_error() -> None:
    of = detector(replace(ALL, consecutive_gateway_errors=2))
    of.local_failure(of.records["i0"], 504, 0.0)
    change = of.local_failure(of.records["i0"], 503, 0.0)
    assert change == Change("i0", Action.EJECTED, Cause.CONSECUTIVE_GATEWAY_FAILURE)


# -- going and coming ------------------------------------------------------------------------------


def test_it_is_away_for_longer_each_time_and_for_less_once_it_behaves() -> None:
    of, now, times = detector(), 0.0, []
    for _ in range(12):
        fail(of, "i0", now=now)
        began = now
        while away(of):
            now += 10
            of.sweep(now)
        times.append(now - began)
    assert times == [30.0 * n for n in range(1, 11)] + [300.0, 300.0]
    for _ in range(4):  # the first comes an interval after the return
        now += 10
        of.sweep(now)
    assert of.records["i0"].multiplier == 7
    assert repr(of.records["i0"]) == "<Record i0 in rotation ejections=12 multiplier=7>"


def test_it_returns_at_a_sweep_with_a_clean_slate() -> None:
    of = detector(replace(ALL, base_ejection_time=15.0))
    assert fail(of, "i0", 9) == [Change("i0", Action.EJECTED, Cause.CONSECUTIVE_5XX)]
    assert of.due_at == 10
    assert of.sweep(10.0) == []
    assert of.due_at == 20
    assert of.sweep(20.0) == [Change("i0", Action.RETURNED, Cause.CONSECUTIVE_5XX)]
    assert fail(of, "i0", 4, now=21.0) == []
    assert fail(of, "i0", 1, now=21.0) != []


def test_jitter_only_adds() -> None:
    returns = set()
    for seed in range(20):
        of = detector(replace(ALL, max_ejection_time_jitter=5.0), seed=seed)
        fail(of, "i0")
        returns.add(of.records["i0"].returns_at)
    assert len(returns) == 20
    assert all(30 <= at < 35 for at in returns)


def test_by_default_a_small_service_loses_one_and_a_single_instance_stays() -> None:
    of = detector(OutlierDetection())
    assert fail(of, "i0")[0].action is Action.EJECTED
    assert fail(of, "i1", 10) == [Change("i1", Action.OVERFLOW, Cause.CONSECUTIVE_5XX)] * 2
    assert away(of) == {"i0"}
    alone = detector(OutlierDetection(), instances=1)
    assert fail(alone, "i0")[0].action is Action.OVERFLOW
    assert of.counts == {
        (Cause.CONSECUTIVE_5XX, Action.EJECTED): 1,
        (Cause.CONSECUTIVE_5XX, Action.OVERFLOW): 2,
    }


def test_when_the_healthy_ones_leave_the_longest_ejected_return() -> None:
    of = detector(replace(ALL, max_ejection_percent=50), instances=4)
    fail(of, "i0", now=1.0)
    fail(of, "i1", now=2.0)
    assert of.leave("i3", 3.0) == [Change("i0", Action.RETURNED, Cause.CONSECUTIVE_5XX)]
    assert of.leave("i1", 3.0) == []
    assert of.leave("i1", 3.0) == []
    assert repr(of) == "<Detector instances=2 ejected=0>"


def test_a_smaller_cap_lets_return_and_forgets_nothing() -> None:
    of = detector()
    fail(of, "i0", now=1.0)
    fail(of, "i1", now=2.0)
    returned = of.use(replace(ALL, max_ejection_percent=40, interval=1.0), 3.0)
    assert [change.instance for change in returned] == ["i0"]
    assert (of.due_at, of.records["i1"].ejections) == (4.0, 1)


def test_a_result_for_an_instance_that_has_left_changes_nothing() -> None:
    of = detector()
    old = of.records["i0"]
    of.leave("i0", 0.0)
    assert of.join("i0") is not old
    assert of.join("i0") is of.records["i0"]
    assert [of.result(old, 500, 0.0) for _ in range(20)] == [None] * 20
    assert of.ejected == 0


def test_too_few_left_and_ejections_are_disregarded() -> None:
    of = detector(replace(ALL, min_health_percent=50), instances=4)
    for number, expected in enumerate([False, False, True, True]):
        fail(of, f"i{number}")
        assert of.disregarded is expected
    never = detector(instances=1)
    fail(never, "i0")
    assert not never.disregarded


@pytest.mark.parametrize("percent", [0, 30, 100])
def test_enforcing_is_a_share_of_what_is_detected(percent: int) -> None:
    of = detector(replace(ALL, enforcing_consecutive_5xx=percent), instances=1000)
    for name in list(of.records):
        (change,) = fail(of, name)
        assert change.action in (Action.EJECTED, Action.NOT_ENFORCED)
    assert of.ejected == pytest.approx(10 * percent, abs=50 if percent == 30 else 0)


# -- rates -----------------------------------------------------------------------------------------


def serve(of: Detector, instance: str, good: int, bad: int) -> None:
    record = of.records[instance]
    for status, count in ((500, bad), (200, good)):
        for _ in range(count):
            of.result(record, status, 5.0)


RATES = replace(
    ALL, consecutive_5xx_errors=0, enforcing_success_rate=100, failure_percentage_request_volume=1000
)


def test_the_one_that_does_worse_than_the_others_is_ejected() -> None:
    of = detector(RATES, instances=5)
    for number in range(4):
        serve(of, f"i{number}", 100, 0)
    serve(of, "i4", 50, 50)
    assert of.sweep(10.0) == [Change("i4", Action.EJECTED, Cause.SUCCESS_RATE)]


@pytest.mark.parametrize(("hosts", "volume"), [(4, 100), (5, 99)])
def test_rates_of_too_few_instances_or_requests_say_nothing(hosts: int, volume: int) -> None:
    of = detector(RATES, instances=5)
    for number in range(hosts - 1):
        serve(of, f"i{number}", volume, 0)
    serve(of, "i4", 0, volume)
    assert of.sweep(10.0) == []


def test_a_rate_is_of_one_interval_only() -> None:
    of = detector(RATES, instances=5)
    for number in range(5):
        serve(of, f"i{number}", 60, 0)
    of.sweep(10.0)
    for number in range(4):
        serve(of, f"i{number}", 60, 0)
    serve(of, "i4", 0, 60)
    assert of.sweep(20.0) == []


@pytest.mark.parametrize(("bad", "ejected"), [(42, False), (43, True), (50, True)])
def test_a_failure_percentage_needs_no_comparison(bad: int, ejected: bool) -> None:
    policy = replace(ALL, consecutive_5xx_errors=0, enforcing_failure_percentage=100)
    of = detector(policy, instances=5)
    for number in range(5):
        serve(of, f"i{number}", 50 - bad, bad)
    changes = of.sweep(10.0)
    assert [change.cause for change in changes] == [Cause.FAILURE_PERCENTAGE] * (5 * ejected)


def test_by_default_rates_are_detected_and_not_enforced() -> None:
    of = detector(replace(ALL, consecutive_5xx_errors=0), instances=5)
    for number in range(4):
        serve(of, f"i{number}", 100, 0)
    serve(of, "i4", 0, 100)
    assert of.sweep(10.0) == [
        Change("i4", Action.NOT_ENFORCED, Cause.SUCCESS_RATE),
        Change("i4", Action.NOT_ENFORCED, Cause.FAILURE_PERCENTAGE),
    ]


def test_rates_of_the_way_are_apart_if_split() -> None:
    policy = replace(
        RATES,
        split_external_local_origin_errors=True,
        consecutive_local_origin_failures=0,
        enforcing_local_origin_success_rate=100,
    )
    of = detector(policy, instances=5)
    for number in range(5):
        serve(of, f"i{number}", 100, 0)
    for _ in range(100):
        of.local_failure(of.records["i3"], 503, 5.0)
    changes = of.sweep(10.0)
    assert Change("i3", Action.EJECTED, Cause.LOCAL_ORIGIN_SUCCESS_RATE) in changes
    assert away(of) == {"i3"}


# -- evidence --------------------------------------------------------------------------------------


def test_it_tells_what_it_saw_itself() -> None:
    of = detector()
    serve(of, "i0", 3, 2)
    of.sweep(10.0)
    serve(of, "i0", 1, 1)
    assert of.seen() == {"i0": Seen(7, 3, False)}
    of.sweep(20.0)
    of.sweep(30.0)
    assert of.seen() == {}
    fail(of, "i1", now=30.0)
    assert of.seen() == {"i1": Seen(5, 5, True)}


def test_what_others_said_is_no_evidence_of_its_own() -> None:
    of = detector(replace(ALL, max_ejection_percent=67))
    assert of.condemn("i0", 1.0) == Change("i0", Action.EJECTED, Cause.SHARED_EVIDENCE)
    assert of.condemn("i0", 1.0) is None
    assert of.condemn("unknown", 1.0) is None
    assert of.seen() == {}
    assert fail(of, "i1") != []
    assert of.condemn("i2", 1.0) == Change("i2", Action.OVERFLOW, Cause.SHARED_EVIDENCE)


def test_what_another_process_found_counts_as_found_here_and_is_not_drawn_for_again() -> None:
    of = detector(replace(ALL, max_ejection_percent=67, enforcing_consecutive_5xx=0))
    change = of.condemn("i0", 1.0, Cause.CONSECUTIVE_5XX, 12.5)
    assert change == Change("i0", Action.EJECTED, Cause.CONSECUTIVE_5XX)
    assert of.records["i0"].returns_at == 13.5
    assert of.seen() == {"i0": Seen(0, 0, True)}
    assert fail(of, "i1") == [Change("i1", Action.NOT_ENFORCED, Cause.CONSECUTIVE_5XX)]
    assert of.condemn("i1", 2.0, Cause.CONSECUTIVE_5XX, 1.0) is not None
    assert of.condemn("i2", 2.0, Cause.CONSECUTIVE_5XX, 1.0) == Change(
        "i2", Action.OVERFLOW, Cause.CONSECUTIVE_5XX
    )
    assert of.records["i2"].returns_at == 0.0


def test_split_calls_are_counted_once() -> None:
    of = detector(replace(ALL, split_external_local_origin_errors=True))
    record = of.records["i0"]
    of.result(record, 200, 0.0)
    of.result(record, 500, 0.0)
    of.local_failure(record, 503, 0.0)
    assert of.seen() == {"i0": Seen(3, 2, False)}


class Detecting(RuleBasedStateMachine):
    """The reference keeps the statuses of each instance in a list and reads from it what Envoy would do."""

    @initialize(percent=st.integers(0, 100), row=st.integers(1, 4), gateway=st.integers(0, 4))
    def begin(self, percent: int, row: int, gateway: int) -> None:
        self.policy = OutlierDetection(
            consecutive_5xx_errors=row,
            consecutive_gateway_errors=gateway,
            max_ejection_percent=percent,
            base_ejection_time=15.0,
            max_ejection_time=40.0,
        )
        self.detector = Detector(self.policy, Random(0), 0.0)
        self.now = 0.0
        self.statuses: dict[str, tuple[list[int], list[int]]] = {}
        self.away: dict[str, float] = {}  # since when
        self.times: dict[str, int] = {}  # multiplier
        self.back: dict[str, float] = {}
        self.left: list[Record] = []

    @rule(number=st.integers(0, 11))
    def joins(self, number: int) -> None:
        self.detector.join(f"i{number}")
        self.statuses.setdefault(f"i{number}", ([], []))

    @precondition(lambda self: self.statuses)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.statuses)))
        self.left.append(self.detector.records[name])
        changes = self.detector.leave(name, self.now)
        for known in (self.statuses, self.away, self.times, self.back):
            known.pop(name, None)
        surplus = len(self.away) - self.allowed()
        oldest = sorted(self.away, key=lambda other: (self.away[other], other))[: max(0, surplus)]
        assert [change.instance for change in changes] == oldest
        for other in oldest:
            self.returns(other)

    @precondition(lambda self: self.statuses)
    @rule(data=st.data(), status=st.sampled_from([200, 404, 500, 502, 504]), times=st.integers(1, 6))
    def answers(self, data: st.DataObject, status: int, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.statuses)))
        for _ in range(times):
            self.detector.result(self.detector.records[name], status, self.now)
            for history, errors, threshold in (
                (self.statuses[name][1], (502, 504), self.policy.consecutive_gateway_errors),
                (self.statuses[name][0], (500, 502, 504), self.policy.consecutive_5xx_errors),
            ):
                history.append(status)
                row = history[-threshold:]
                if threshold and len(history) >= threshold and set(row) <= set(errors):
                    history.clear()
                    self.detected(name)

    @precondition(lambda self: self.left)
    @rule(data=st.data(), times=st.integers(1, 6))
    def answers_late(self, data: st.DataObject, times: int) -> None:
        record = data.draw(st.sampled_from(self.left))
        assert [self.detector.result(record, 500, self.now) for _ in range(times)] == [None] * times

    @precondition(lambda self: self.statuses)
    @rule(data=st.data())
    def is_condemned(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.statuses)))
        self.detector.condemn(name, self.now)
        self.detected(name)

    @rule(intervals=st.integers(1, 3))
    def time_passes(self, intervals: int) -> None:
        for _ in range(intervals):
            self.now += 10
            self.detector.sweep(self.now)
            for name, since in list(self.away.items()):
                if self.now - since >= min(15.0 * self.times[name], 40.0):
                    self.returns(name)
            for name in self.statuses:
                if name in self.back and name not in self.away and self.now - self.back[name] >= 10:
                    self.times[name] = max(0, self.times[name] - 1)

    def allowed(self) -> int:
        count, percent = len(self.statuses), self.policy.max_ejection_percent
        return max(int(count > 1 and percent > 0), count * percent // 100)

    def detected(self, name: str) -> None:
        if name not in self.away and len(self.away) < self.allowed():
            self.away[name] = self.now
            times = self.times.get(name, 0)
            self.times[name] = times + 1 if 15.0 * times < 55.0 else times

    def returns(self, name: str) -> None:
        del self.away[name]
        self.back[name] = self.now
        for history in self.statuses[name]:
            history.clear()

    @invariant()
    def agrees_and_the_cap_holds(self) -> None:
        if hasattr(self, "detector"):
            assert away(self.detector) == set(self.away)
            assert self.detector.ejected == len(self.away) <= self.allowed()
            for name, record in self.detector.records.items():
                assert record.multiplier == self.times.get(name, 0)


TestDetecting = Detecting.TestCase
