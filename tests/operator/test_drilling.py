"""How a drill is read from the roll calls: who is done, who is not, who is gone."""

from __future__ import annotations

import time

from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.verify import Verified, Verifier
from busmesh.members.announcement import Announcement, State
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.drilling import DrillProgress
from tests.operator.fakes import MESH

ORDERS = ServiceName("orders")


def shown(ca: CertificateAuthority, instance: str) -> Verified:
    svid = ca.issue_svid(SpiffeId.workload(MESH, ORDERS, instance), time.time())
    return Verifier(ca.bundle).certificate(svid.der, time.time())


def member(instance: str) -> Announcement:
    return Announcement(
        namespace="default",
        service="orders",
        instance=instance,
        incarnation=1,
        sequence=1,
        interval=1.0,
        state=State.HEALTHY,
    )


def test_progress(ca: CertificateAuthority) -> None:
    names = ("done", "late", "gone")
    before = {(ORDERS, name): shown(ca, name) for name in names}
    progress = DrillProgress(before, 100.0)
    assert not progress.note(member("done"), before[ORDERS, "done"], 100.1)
    assert not progress.note(member("late"), before[ORDERS, "late"], 100.1)
    fresh = shown(ca, "done")
    assert progress.note(member("done"), fresh, 101.5)
    assert progress.note(member("done"), shown(ca, "done"), 103.0), "the first one counts"
    assert progress.note(member("newcomer"), shown(ca, "newcomer"), 101.5), "it came with a new one"
    assert [key[1] for key in progress.lacking] == ["late", "gone"]
    rows = {row["instance"]: row for row in progress.rows()}
    assert [*rows] == sorted(names)
    assert {name: row["state"] for name, row in rows.items()} == {
        "done": "renewed",
        "late": "old SVID",
        "gone": "no answer",
    }
    assert (rows["done"]["serial"], rows["done"]["after_s"]) == (f"{fresh.serial:x}", 1.5)
    assert rows["late"]["after_s"] is None
    assert repr(progress) == "<DrillProgress 1 of 3>"
