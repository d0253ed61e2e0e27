"""When somebody hears of what will end, in virtual time."""

from __future__ import annotations

import pytest

from busmesh.identity.alarms import DAY_S, Alarms, late, threshold
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.trust import TrustBundle
from tests.identity.forge import MESH, NOW, svid


@pytest.mark.parametrize(
    ("days_left", "found"),
    [(400, None), (30.1, None), (30, 30), (7.1, 30), (7, 7), (1.1, 7), (1, 1), (0, 1), (-5, 1)],
)
def test_threshold(days_left: float, found: int | None) -> None:
    assert threshold(days_left * DAY_S) == found


@pytest.mark.parametrize(
    ("issued", "not_after", "now", "overdue"),
    [
        (0, 3600, 1800, False),
        (0, 3600, 2700, False),
        (0, 3600, 2701, True),
        (0, 10, 7.4, False),
        (0, 10, 8, True),
    ],
)
def test_late(issued: float, not_after: float, now: float, overdue: bool) -> None:
    assert late(issued, not_after, now) is overdue


def test_each_threshold_of_each_root_is_said_once() -> None:
    short = CertificateAuthority.create(MESH, NOW, lifetime_s=40 * DAY_S)
    long = CertificateAuthority.create(MESH, NOW)
    bundle = TrustBundle(MESH, (short.certificate, long.certificate))
    alarms = Alarms()
    said = [
        (day, days)
        for day in range(45)
        for root, days in alarms.due(bundle, NOW + day * DAY_S)
        if root == short.certificate
    ]
    assert said == [(10, 30), (33, 7), (39, 1)]
    assert alarms.due(bundle, NOW + 39 * DAY_S) == []


def test_a_late_svid_is_said_once_and_the_next_one_again() -> None:
    ca = CertificateAuthority.create(MESH, NOW)
    alarms, first = Alarms(), svid(ca, "orders")
    assert [alarms.newly_late(first, NOW + t) for t in (0, 1800, 2699, 2702, 3000, 3600)] == [
        *[False] * 3,
        True,
        *[False] * 2,
    ]
    second = svid(ca, "orders", NOW + 3000)
    assert not alarms.newly_late(second, NOW + 3001)
    assert alarms.newly_late(second, NOW + 3000 + 2702)
