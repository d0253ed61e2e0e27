"""What is said of what was found, as tables: ok, warning or failed, and what to do."""

from __future__ import annotations

import dataclasses
import time

import pytest

from busmesh.bus.serverfacts import ServerFacts
from busmesh.errors import Denied, IdentityError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.verify import Verified, Verifier
from busmesh.members.announcement import Announcement, State
from busmesh.members.presence import Presence
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.attendance import Attended, Attending
from busmesh.operator.diagnosis import agents, authority, bus, home
from busmesh.operator.diagnosis.authority import Reading
from busmesh.operator.diagnosis.verdict import Check, Verdict, broken
from busmesh.operator.history import History, Passed
from busmesh.operator.rollcall import RollCall
from busmesh.operator.wording import lasting
from tests.operator.fakes import MESH
from tests.operator.test_status import HISTORY, NOW, member

DAY_S = 86400.0
OK, WARNING, FAILED = Verdict.OK, Verdict.WARNING, Verdict.FAILED


def verdicts(checks: list[Check]) -> list[Verdict]:
    for check in checks:
        assert check.verdict is OK or check.hint, f"{check.text}: and now?"
    return [check.verdict for check in checks]


# -- the home -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "verdict"), [(3652.0, OK), (31.0, OK), (29.0, WARNING), (0.5, WARNING), (-0.1, FAILED)]
)
def test_roots(days: float, verdict: Verdict) -> None:
    now = time.time()
    ca = CertificateAuthority.create(MESH, now - 100 * DAY_S, lifetime_s=(100 + days) * DAY_S)
    check = home.check_roots(ca.bundle, now)
    assert check.verdict is verdict
    assert verdict is OK or check.hint == "busmesh identity rotate"


def test_a_root_that_has_ended_and_does_not_issue_is_in_nobodys_way(ca: CertificateAuthority) -> None:
    now = time.time()
    old = CertificateAuthority.create(MESH, now - 100 * DAY_S, lifetime_s=99 * DAY_S)
    bundle = dataclasses.replace(ca.bundle, roots=(ca.certificate, old.certificate))
    assert home.check_roots(bundle, now).verdict is WARNING


@pytest.mark.parametrize(
    ("days", "refusal", "verdict"),
    [
        (1, None, OK),
        (80, None, WARNING),
        (91, None, FAILED),
        (1, IdentityError("it was revoked", code="BM4009"), FAILED),
    ],
)
def test_operators(
    ca: CertificateAuthority, days: float, refusal: IdentityError | None, verdict: Verdict
) -> None:
    now = time.time()
    svid = ca.issue_svid(SpiffeId(MESH, operator="ann"), now, lifetime_s=90 * DAY_S)
    check = home.check_operator("ann", svid, refusal, now + days * DAY_S)
    assert (check.verdict, check.code) == (verdict, refusal.code if refusal else "")


@pytest.mark.parametrize(
    ("left", "verdict"), [(None, OK), (30 * DAY_S, OK), (6 * DAY_S, WARNING), (-1.0, FAILED)]
)
def test_logins(left: float | None, verdict: Verdict) -> None:
    expires = None if left is None else NOW + left
    assert home.check_login("operator ann", expires, NOW).verdict is verdict


# -- the bus ------------------------------------------------------------------------------------------

LOCAL = ServerFacts("127.0.0.1:4222", asks_for_login=True, encrypted=False)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (LOCAL, [OK, OK, OK]),
        (dataclasses.replace(LOCAL, asks_for_login=False), [OK, WARNING, OK]),
        (dataclasses.replace(LOCAL, address="bus.example.org:4222"), [OK, OK, WARNING]),
        (dataclasses.replace(LOCAL, address="[::1]:4222"), [OK, OK, OK]),
        (ServerFacts("bus:4222", True, True, NOW + 300 * DAY_S), [OK, OK, OK]),
        (ServerFacts("bus:4222", True, True, NOW + 3 * DAY_S), [OK, OK, WARNING]),
        (ServerFacts("bus:4222", True, True, None), [OK, OK, OK]),
    ],
)
def test_the_server(facts: ServerFacts, said: list[Verdict]) -> None:
    assert verdicts(bus.check_server(facts, 0.001, NOW)) == said


def test_what_stands_in_the_way_keeps_its_code_and_its_hint() -> None:
    error = Denied("the bus refused the login", code="BM3002", hint="name the home")
    assert broken("bus", error) == Check("bus", FAILED, error.message, "name the home", "BM3002")
    assert broken("bus", Denied("no"), "ask").hint == "ask"


# -- logs and authority -------------------------------------------------------------------------------


def test_entries_that_count_for_nothing_are_worth_a_look() -> None:
    assert bus.check_policy_log(HISTORY).verdict is OK
    passed = dataclasses.replace(HISTORY, passed=(Passed(4, "it is signed by nobody"),))
    check = bus.check_policy_log(passed)
    assert check.verdict is WARNING
    assert "it is signed by nobody" in check.text


def attending(name: str, *, issues: bool = True, trust: int = 1, told: float = NOW) -> Attending:
    return Attending(name, Presence(issues=issues, trust=trust), told)


@pytest.mark.parametrize(
    ("attended", "said"),
    [
        (Attended(), [FAILED]),
        (Attended((attending("a"),)), [OK]),
        (Attended((attending("a"), attending("b"))), [OK]),
        (Attended((attending("a"), attending("b", issues=False))), [OK, WARNING]),
        (Attended((attending("b", issues=False),)), [FAILED]),
        (Attended((attending("a", trust=0),)), [OK, WARNING]),
        (Attended(dropped=1), [FAILED]),
        (Attended(dropped=1, astray=1), [FAILED]),
        (Attended((attending("a"),), dropped=1), [OK]),
    ],
)
def test_authorities(ca: CertificateAuthority, attended: Attended, said: list[Verdict]) -> None:
    assert verdicts(authority.check_authorities(attended, ca.bundle)) == said


@pytest.mark.parametrize(
    ("told", "off"),
    [
        (NOW, 0.0),
        (NOW - 1.0, 0.0),  # an agent answers with what it signed up to a second ago
        (NOW - 1.5, -0.5),
        (NOW + 0.5, 0.5),
        (NOW - 11.0, -10.0),
    ],
)
def test_by_how_much_a_clock_is_off_at_least(told: float, off: float) -> None:
    assert Reading("orders-0", told, 1.0).off(NOW) == pytest.approx(off)


@pytest.mark.parametrize(
    ("readings", "astray", "said"),
    [
        ([], 0, []),
        ([Reading("a", NOW - 1, 1.0)], 0, [OK]),
        ([Reading("a", NOW, 1.0), Reading("b", NOW + 5, 1.0)], 0, [WARNING]),
        ([Reading("a", NOW - 8, 1.0)], 0, [WARNING]),
        ([Reading("a", NOW, 1.0)], 2, [FAILED]),
        ([], 1, [FAILED]),
    ],
)
def test_clocks(readings: list[Reading], astray: int, said: list[Verdict]) -> None:
    assert verdicts(authority.check_clocks(readings, astray, NOW)) == said


# -- agents and policies ------------------------------------------------------------------------------


def roll(*members: Announcement, dropped: int = 0, astray: int = 0) -> RollCall:
    return RollCall(members, dropped, {}, {}, astray)


def agent(instance: str = "a", **fields: object) -> Announcement:
    given = {"software": "1.0", "trust": 1, **fields}
    return member(3, instance=instance).model_copy(update=given)


@pytest.mark.parametrize(
    ("called", "said"),
    [
        (roll(), [WARNING]),
        (roll(dropped=2), [FAILED]),
        (roll(dropped=2, astray=2), [WARNING]),
        (roll(agent()), [OK, OK, OK]),
        (roll(agent(), dropped=1), [WARNING, OK, OK, OK]),
        (roll(agent(state=State.UNHEALTHY), agent("b")), [FAILED, OK, OK]),
        (roll(agent(state=State.STARTING), agent("b", state=State.DRAINING)), [WARNING, WARNING, OK, OK]),
        (roll(agent(workers=(True, False))), [OK, WARNING, OK, OK]),
        (roll(agent(trust=0)), [OK, OK, WARNING, OK]),
        (roll(agent(software="0.9"), agent("b")), [OK, OK, WARNING]),
    ],
)
def test_agents(ca: CertificateAuthority, called: RollCall, said: list[Verdict]) -> None:
    assert verdicts(agents.check_agents(called, ca.bundle, "1.0", NOW)) == said


def test_an_svid_that_was_not_renewed(ca: CertificateAuthority) -> None:
    issued = time.time()
    svid = ca.issue_svid(SpiffeId.workload(MESH, ServiceName("orders"), "a"), issued)
    shown: Verified = Verifier(ca.bundle).certificate(svid.der, issued)
    found = agent()
    called = RollCall((found,), 0, {(found.name, "a"): shown})
    for age, verdict in ((1800, OK), (2800, WARNING)):
        checks = agents.check_agents(called, ca.bundle, "1.0", issued + age)
        assert [check.verdict for check in checks if "SVID" in check.text] == [verdict]


@pytest.mark.parametrize(
    ("members", "history", "now", "said"),
    [
        ([], HISTORY, NOW, []),
        ([member(3)], HISTORY, NOW, [OK]),
        ([member(0)], History(), NOW, [OK]),
        ([member(3), member(2, instance="b")], HISTORY, NOW, [FAILED]),
        ([member(3), member(2, instance="b")], HISTORY, NOW - 98, [WARNING]),
        ([member(2, refused=3), member(3, instance="b")], HISTORY, NOW, [FAILED]),
        ([member(2, refused=3), member(1, instance="b")], HISTORY, NOW, [FAILED, FAILED]),
        ([member(3), member(2, instance="b")], None, NOW, [FAILED]),
        ([member(2), member(2, instance="b")], None, NOW, [OK]),
    ],
)
def test_policies(
    members: list[Announcement], history: History | None, now: float, said: list[Verdict]
) -> None:
    assert verdicts(agents.check_policies(members, history, now)) == said


def test_of_many_agents_some_are_named_and_the_others_counted() -> None:
    members = [member(2, refused=3, instance=f"i{number}") for number in range(10)]
    [check] = agents.check_policies(members, HISTORY, NOW)
    assert check.text.startswith("i0, i1, i2, i3 and 6 more refused a revision: BM1205")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90 * DAY_S, "90 days"), (3 * 3600.0, "3 hours"), (150.0, "2 minutes"), (30.0, "30 s"), (-1.0, "0 s")],
)
def test_how_long_something_lasts(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
