"""The member table believes the newest word of the instance itself, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import RemoteProtocolError
from busmesh.members import table as tables
from busmesh.members.announcement import Announcement, State, decode, encode
from busmesh.members.table import MISSES, MemberTable
from busmesh.names import ServiceName, SpiffeId

ORDERS = ServiceName("orders")


def said(
    instance: str = "orders-0", incarnation: int = 1, sequence: int = 1, **fields: object
) -> Announcement:
    values = {"state": State.HEALTHY, "interval": 1.0, **fields}
    return Announcement.model_validate(
        {
            "namespace": "default",
            "service": "orders",
            "instance": instance,
            "incarnation": incarnation,
            "sequence": sequence,
            **values,
        }
    )


def by(instance: str = "orders-0", service: str = "orders") -> SpiffeId:
    return SpiffeId.workload("local", ServiceName(service), instance)


def states(table: MemberTable) -> dict[str, State]:
    return {m.announcement.instance: m.announcement.state for m in table.of(ORDERS)}


@pytest.mark.parametrize("signer", [by("orders-1"), by(service="web"), SpiffeId("local", operator="root")])
def test_only_the_instance_itself_is_believed(signer: SpiffeId) -> None:
    table = MemberTable()
    assert not table.apply(said(), signer, now=0.0)
    assert states(table) == {}
    assert table.statistics()["rejected"] == 1


@pytest.mark.parametrize(("incarnation", "sequence"), [(1, 1), (1, 4), (1, 5), (0, 9)])
def test_what_is_not_newer_changes_nothing(incarnation: int, sequence: int) -> None:
    table = MemberTable()
    assert table.apply(said(sequence=5), by(), now=0.0)
    stale = said(incarnation=incarnation, sequence=sequence, state=State.DRAINING)
    assert not table.apply(stale, by(), now=1.0)
    assert states(table) == {"orders-0": State.HEALTHY}
    assert table.statistics()["stale"] == 1


def test_a_heartbeat_is_no_change_and_keeps_the_member() -> None:
    table = MemberTable()
    assert table.apply(said(), by(), now=0.0)
    assert not table.apply(said(sequence=2, active=7), by(), now=4.0)
    assert table.expire(4.0 + MISSES) == []
    assert [gone.instance for gone in table.expire(4.1 + MISSES)] == ["orders-0"]
    assert states(table) == {}


def test_a_good_bye_is_not_undone_by_an_older_word() -> None:
    table = MemberTable()
    table.apply(said(sequence=1), by(), now=0.0)
    assert table.apply(said(sequence=3, state=State.LEFT), by(), now=1.0)
    assert not table.apply(said(sequence=2), by(), now=1.1)
    assert states(table) == {"orders-0": State.LEFT}
    assert table.apply(said(incarnation=2, sequence=1), by(), now=2.0)
    assert states(table) == {"orders-0": State.HEALTHY}


def test_lost_until_it_announces_itself_again_and_an_outage_is_excused() -> None:
    table = MemberTable()
    table.apply(said(), by(), now=0.0)
    table.lost(ORDERS, "orders-0", now=1.0)
    assert states(table) == {"orders-0": State.LEFT}
    table.apply(said(sequence=2), by(), now=1.5)
    assert states(table) == {"orders-0": State.HEALTHY}
    table.excuse(now=100.0)
    assert table.expire(100.0 + MISSES) == []


def test_a_flood_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_PER_SERVICE", 3)
    table = MemberTable()
    taken = [table.apply(said(f"orders-{n}"), by(f"orders-{n}"), now=0.0) for n in range(5)]
    assert taken == [True, True, True, False, False]


@given(st.binary(max_size=300))
def test_hostile_bytes_are_refused_in_one_way(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(body)


def test_what_is_encoded_is_read_back() -> None:
    announcement = said(labels={"version": "v1"}, weight=7, active=3, revision=4, digest="ab")
    assert decode(encode(announcement)) == announcement
