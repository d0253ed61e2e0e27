"""Shared evidence: a quorum ejects, fewer never do, and never more than the cap."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.ejection import ejectable
from busmesh.decide.evidence import Evidence, EvidencePolicy, Reporter, opinion, quorum, votes
from busmesh.decide.report import MAX_SEEN, Report, Seen, merged, parse_report
from busmesh.errors import RemoteProtocolError
from busmesh.names import ServiceName

WEB, SHOP = ServiceName("web"), ServiceName("checkout", "shop")
POLICY = EvidencePolicy()
GOOD, BAD, AWAY, LITTLE = Seen(100, 2, False), Seen(10, 5, False), Seen(0, 0, True), Seen(4, 4, False)
INSTANCES = [f"orders-{number}" for number in range(4)]


def evidence(policy: EvidencePolicy = POLICY, capacity: int = 100) -> Evidence:
    return Evidence(policy, capacity)


def tell(
    of: Evidence, views: list[Seen], service: ServiceName = WEB, now: float = 0.0, first: int = 0
) -> None:
    """One reporter for each view, on the first instance."""
    for number, view in enumerate(views, start=first):
        of.heard(Reporter(service, f"{service.name}-{number}"), {INSTANCES[0]: view}, now)


# -- opinions and votes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (GOOD, False),
        (BAD, True),
        (AWAY, True),
        (LITTLE, None),
        (Seen(1, 1, False), None),
        (Seen(1, 0, False), False),
        (Seen(4, 1, False), False),
        (Seen(0, 0, False), None),
        (Seen(10, 4, False), False),
        (Seen(5, 5, False), True),
    ],
)
def test_what_a_reporter_thinks(seen: Seen, expected: bool | None) -> None:
    assert opinion(seen, POLICY) is expected


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ([], (0, 0)),
        ([(WEB, True)], (1, 1)),
        ([(WEB, True), (WEB, False), (SHOP, True)], (2, 3)),
        ([(WEB, True)] * 20, (5, 5)),
        ([(WEB, True)] * 5 + [(WEB, False)] * 15 + [(SHOP, True)], (2.25, 6)),
    ],
)
def test_a_service_has_at_most_five_votes(
    opinions: list[tuple[ServiceName, bool]], expected: tuple[float, float]
) -> None:
    assert votes(opinions, 5) == pytest.approx(expected)


@pytest.mark.parametrize(("total", "expected"), [(0, 2), (2, 2), (4, 2), (5, 2.5), (10, 5)])
def test_the_quorum_is_half_of_them_and_two_at_least(total: float, expected: float) -> None:
    assert quorum(total, POLICY) == expected


def test_no_policy_lets_one_reporter_suffice() -> None:
    with pytest.raises(ValueError, match="never suffices"):
        EvidencePolicy(minimum_reporters=1)


# -- verdicts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "ejected"),
    [
        ([BAD], False),
        ([AWAY], False),
        ([BAD, LITTLE], False),
        ([BAD, AWAY], True),
        ([BAD, BAD, GOOD, GOOD], True),
        ([BAD, BAD, GOOD, GOOD, GOOD], False),
        ([BAD, BAD, LITTLE, LITTLE, LITTLE], True),
    ],
)
def test_who_has_an_opinion_has_a_vote(views: list[Seen], ejected: bool) -> None:
    of = evidence()
    tell(of, views)
    assert of.judge(1, INSTANCES, 1.0) == (frozenset(INSTANCES[:1]) if ejected else frozenset())


def test_a_reporter_that_repeats_itself_still_has_one_vote() -> None:
    of = evidence()
    for number in range(50):
        of.heard(Reporter(WEB, "web-0"), {INSTANCES[0]: AWAY}, float(number))
    assert of.judge(4, INSTANCES, 50.0) == frozenset()


def test_what_was_said_long_ago_counts_no_more() -> None:
    of = evidence()
    tell(of, [BAD, BAD], now=0.0)
    assert of.judge(1, INSTANCES, 15.0) == {INSTANCES[0]}
    assert of.judge(1, INSTANCES, 15.1) == frozenset()
    tell(of, [BAD, BAD], now=20.0)
    of.forget(Reporter(WEB, "web-0"))
    assert of.judge(1, INSTANCES, 20.0) == frozenset()


def test_a_newer_report_replaces_the_last() -> None:
    of = evidence()
    tell(of, [BAD, BAD])
    tell(of, [GOOD], now=1.0)
    assert of.judge(1, INSTANCES, 1.0) == frozenset()
    assert repr(of) == "<Evidence reporters=2 condemned=[]>"


def test_instances_that_nobody_knows_take_no_place() -> None:
    of = evidence()
    for name in ("web-0", "web-1"):
        of.heard(Reporter(WEB, name), {"made-up": BAD, INSTANCES[2]: BAD}, 0.0)
    assert of.judge(1, INSTANCES, 0.0) == {INSTANCES[2]}


def test_of_more_than_may_go_the_worst_go_and_stay_gone() -> None:
    of = evidence(replace(POLICY, quorum_percent=20))
    for number in range(4):
        views = {INSTANCES[0]: BAD if number < 2 else GOOD, INSTANCES[1]: BAD if number < 3 else GOOD}
        of.heard(Reporter(WEB, f"web-{number}"), views, 0.0)
    assert of.judge(1, INSTANCES, 0.0) == {INSTANCES[1]}
    of.heard(Reporter(WEB, "web-2"), {INSTANCES[0]: BAD, INSTANCES[1]: GOOD}, 1.0)
    of.heard(Reporter(WEB, "web-3"), {INSTANCES[0]: BAD, INSTANCES[1]: GOOD}, 1.0)
    assert of.judge(1, INSTANCES, 1.0) == {INSTANCES[1]}, "no swap while both are guilty"


def test_agents_that_heard_the_same_decide_the_same() -> None:
    one, other = evidence(), evidence()
    reports = [(Reporter(WEB, f"web-{n}"), dict.fromkeys(INSTANCES, BAD)) for n in range(3)]
    for of, order in ((one, reports), (other, reports[::-1])):
        for reporter, views in order:
            of.heard(reporter, dict(sorted(views.items(), reverse=of is other)), 0.0)
    assert one.judge(2, INSTANCES, 0.0) == other.judge(2, INSTANCES[::-1], 0.0)


def test_a_flood_of_one_services_reporters_displaces_only_itself() -> None:
    of = evidence(capacity=10)
    tell(of, [GOOD] * 3, SHOP)
    tell(of, [BAD] * 500, WEB)
    assert repr(of).startswith("<Evidence reporters=10 ")
    tell(of, [GOOD], ServiceName("late"), now=1.0)
    # web has five votes, the others four: a flood is a majority at most, and 495 of it were for nothing.
    assert of.judge(1, INSTANCES, 1.0) == {INSTANCES[0]}
    tell(of, [GOOD] * 2, ServiceName("late"), now=1.0, first=1)
    assert of.judge(1, INSTANCES, 1.0) == frozenset()


views = st.builds(
    lambda calls, failures, ejected: Seen(calls, min(calls, failures), ejected),
    st.integers(0, 50),
    st.integers(0, 50),
    st.booleans(),
)
services = st.sampled_from([WEB, SHOP, ServiceName("batch")])


@given(
    honest=st.lists(services, min_size=1, max_size=20),
    liars=st.lists(st.tuples(services, st.dictionaries(st.sampled_from(INSTANCES), views)), max_size=20),
    percent=st.integers(1, 100),
    at_most=st.integers(1, 6),
)
def test_fewer_liars_than_the_quorum_eject_nothing(
    honest: list[ServiceName],
    liars: list[tuple[ServiceName, dict[str, Seen]]],
    percent: int,
    at_most: int,
) -> None:
    """The honest see every instance serve well; the liars say whatever they like."""
    policy = EvidencePolicy(quorum_percent=percent, maximum_votes_per_service=at_most)
    everybody = honest + [service for service, _ in liars]
    total = sum(min(everybody.count(service), at_most) for service in set(everybody))
    honest_only = sum(min(honest.count(service), at_most) for service in set(honest))
    # The quorum counts those with an opinion: at least the honest ones, whatever the liars do.
    bound = quorum(min(total, honest_only), policy)
    liars = liars[: max(0, int(bound - 1e-6))]
    of = Evidence(policy, 100)
    for number, service in enumerate(honest):
        of.heard(Reporter(service, f"h-{number}"), dict.fromkeys(INSTANCES, GOOD), 0.0)
    for number, (service, lies) in enumerate(liars):
        of.heard(Reporter(service, f"l-{number}"), lies, 0.0)
    if len(liars) < bound:
        assert of.judge(len(INSTANCES), INSTANCES, 0.0) == frozenset()


@given(
    reports=st.lists(
        st.tuples(services, st.integers(0, 9), st.dictionaries(st.sampled_from(INSTANCES), views))
    ),
    percent=st.integers(0, 100),
    count=st.integers(0, 4),
)
def test_the_cap_is_never_exceeded(
    reports: list[tuple[ServiceName, int, dict[str, Seen]]], percent: int, count: int
) -> None:
    of = evidence()
    for number, (service, instance, seen) in enumerate(reports):
        of.heard(Reporter(service, f"i-{instance}"), seen, number / 10)
        condemned = of.judge(ejectable(count, percent), INSTANCES[:count], number / 10)
        assert condemned == of.condemned
        assert condemned <= set(INSTANCES[:count])
        assert len(condemned) <= ejectable(count, percent)


@given(reports=st.lists(st.dictionaries(st.sampled_from(INSTANCES), views), max_size=30))
def test_one_reporter_never_ejects(reports: list[dict[str, Seen]]) -> None:
    of = evidence(replace(POLICY, quorum_percent=1, minimum_volume=1))
    for number, seen in enumerate(reports):
        of.heard(Reporter(WEB, "web-0"), seen, float(number))
        assert of.judge(4, INSTANCES, float(number)) == frozenset()


# -- on the wire -----------------------------------------------------------------------------------


@given(st.dictionaries(st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True), views, max_size=20))
def test_a_report_comes_back_as_it_went(seen: dict[str, Seen]) -> None:
    report = Report(SHOP, seen)
    assert parse_report(json.loads(json.dumps(report.to_plain()))) == report


def test_what_several_detectors_saw_is_added_up() -> None:
    one, other = {"a": Seen(5, 1, False), "b": GOOD}, {"a": Seen(7, 2, True)}
    assert merged([one, other]) == {"a": Seen(12, 3, True), "b": GOOD}
    assert merged([]) == {}


FINE = Report(WEB, {"orders-0": BAD}).to_plain()


@pytest.mark.parametrize(
    ("plain", "code"),
    [
        (None, "BM5201"),
        ([], "BM5201"),
        ({}, "BM5201"),
        ({**FINE, "v": 2}, "BM5201"),
        ({**FINE, "seen": []}, "BM5202"),
        ({**FINE, "seen": {f"i{n}": [0, 0, 0] for n in range(MAX_SEEN + 1)}}, "BM5202"),
        ({**FINE, "service": "a.*"}, "BM5203"),
        ({**FINE, "service": 1}, "BM5203"),
        ({**FINE, "namespace": ""}, "BM5203"),
        ({**FINE, "seen": {"a.b": [1, 0, 0]}}, "BM5203"),
        ({**FINE, "seen": {1: [1, 0, 0]}}, "BM5203"),
        ({**FINE, "seen": {"a": [1, 2, 0]}}, "BM5203"),
        ({**FINE, "seen": {"a": [-1, -1, 0]}}, "BM5203"),
        ({**FINE, "seen": {"a": [2**40, 0, 0]}}, "BM5203"),
        ({**FINE, "seen": {"a": [1, 0, 2]}}, "BM5203"),
        ({**FINE, "seen": {"a": [1.0, 0, 0]}}, "BM5203"),
        ({**FINE, "seen": {"a": [1, 0]}}, "BM5203"),
        ({**FINE, "seen": {"a": "100"}}, "BM5203"),
    ],
)
def test_what_is_no_report_is_refused(plain: object, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_report(plain)
    assert caught.value.code == code
