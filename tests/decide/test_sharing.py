from __future__ import annotations

import pytest

from busmesh.decide.share import NEWCOMER, Share
from busmesh.decide.sharereport import Entry, Report
from busmesh.decide.sharing import GONE_S, IDLE_S, QUIET_PERIOD_S, SETTLE_S, STALE_S, Sharing

KEY, OTHER = b"\1" * 8, b"\2" * 8


def sharing(**options: int) -> Sharing:
    return Sharing(born=5, now=0.0, **options)


def heard(table: Sharing, *peers: str, now: float = 0.0, demand: float = 0.0) -> None:
    for number, peer in enumerate(peers):
        entries = {KEY: Entry(demand, number)} if demand else {}
        table.hear(peer, Report(1, int(now * 1000) + 1, entries), now)


def asked(table: Sharing, now: float, key: bytes = KEY, count: int = 1) -> Share:
    share = table.open(key, 100.0, 100.0, now)
    table.activate(share, now)
    for _ in range(count):
        share.offered()
    return share


def test_a_share_begins_with_the_equal_part_among_those_that_are_known() -> None:
    table = sharing()
    heard(table, "a", "b", "c")
    assert table.instances == 4
    assert asked(table, 1.0).bucket.rate == 25


def test_who_has_just_started_takes_little_whoever_is_there() -> None:
    table = sharing()
    assert asked(table, SETTLE_S / 2).bucket.rate == 100 * NEWCOMER
    heard(table, *(f"p{index}" for index in range(19)))
    assert asked(table, SETTLE_S / 2).bucket.rate == 5
    table.tick(SETTLE_S)
    table.begin(10.0)
    assert not table.settled(10.1)


def test_a_report_that_comes_late_or_twice_is_ignored() -> None:
    table = sharing()
    for born, sequence in [(1, 5), (1, 6), (1, 6), (1, 5), (0, 9), (2, 1)]:
        table.hear("a", Report(born, sequence, {}), 1.0)
    assert table.statistics()["ignored"] == 3


def test_more_peers_than_there_may_be_are_not_listened_to() -> None:
    table = sharing(max_peers=2)
    heard(table, "a", "b", "c", "d")
    assert table.statistics() == {"keys": 0, "peers": 2, "refused": 0, "ignored": 2}


def test_a_silent_peer_loses_its_share_and_is_then_forgotten() -> None:
    table = sharing()
    heard(table, "a", now=1.0, demand=300.0)
    share = asked(table, 1.0)

    def rate(now: float) -> float:
        for _ in range(300):
            share.offered()
        share.admitted += 5
        table.tick(now)
        return share.bucket.rate

    rates = [rate(1.0 + step / 10) for step in range(1, 10)]
    assert 0.5 <= STALE_S < 0.6
    assert max(rates[:5]) <= 70, "half of the limit and of what the peer seems to leave unused"
    assert min(rates[5:]) >= 100
    assert table.instances == 2
    table.tick(1.1 + GONE_S)
    assert table.instances == 1


def test_who_leaves_is_forgotten_at_once() -> None:
    table = sharing()
    heard(table, "a", "b")
    table.forget("a")
    table.forget("nobody")
    assert table.instances == 2


def test_only_keys_with_traffic_are_reported() -> None:
    table = sharing()
    asked(table, 1.0, count=10)
    idle = table.open(OTHER, 1.0, 1.0, 1.0)
    table.tick(1.1)
    report = table.report(1.1)
    assert report is not None
    assert (report.born, report.sequence, list(report.entries)) == (5, 1, [KEY])
    assert report.entries[KEY].demand > 20
    assert not idle.active
    table.tick(1.1 + IDLE_S)
    table.tick(1.3 + IDLE_S)
    assert table.statistics()["keys"] == 0


def test_a_share_is_reported_until_its_bucket_is_full_again() -> None:
    """A slow limit is refilled at the whole rate although the next request is long in coming."""
    table = sharing()
    heard(table, "a")
    share = table.open(KEY, 1.0, 60.0, 1.0)
    table.activate(share, 1.0)
    share.offered()
    share.bucket.take(1.0, 30)

    def active(until: float) -> bool:
        for step in range(11, int(until * 10)):
            if step % 10 == 0:
                heard(table, "a", now=step / 10)
            table.tick(step / 10)
        return share.active

    assert active(25.0)
    assert share.bucket.rate == pytest.approx(1.0)
    assert not active(70.0)
    assert (share.bucket.rate, share.bucket.burst) == (0.5, 30.0)


def test_an_instance_without_traffic_says_once_a_second_that_it_is_there() -> None:
    table = sharing()
    said = [step for step in range(31) if table.report(step / 10) is not None]
    assert said == [0, 10, 20, 30]
    assert QUIET_PERIOD_S == 1.0


def test_more_keys_than_there_may_be_keep_to_their_equal_part() -> None:
    table = sharing(max_keys=2)
    heard(table, "a", "b", "c", now=1.0)
    first, second, third = (asked(table, 1.0, bytes([number]) * 8) for number in range(3))
    assert [first.active, second.active, third.active] == [True, True, False]
    assert third.bucket.rate == 25
    assert table.refused == 1
    heard(table, "d", now=1.05)
    table.activate(third, 1.05)
    assert third.bucket.rate == 20
    second.offered()
    table.tick(1.1)
    for step in range(2, 25):
        second.offered()
        third.offered()
        first.bucket.take(1.0 + step / 10)  # never full
        table.tick(1.0 + step / 10)
    table.activate(third, 3.4)
    assert [first.active, second.active, third.active] == [False, True, True], "the idle one made room"


def test_a_key_that_is_opened_twice_is_shared_once() -> None:
    table = sharing()
    old, new = asked(table, 1.0), asked(table, 1.0)
    assert [old.active, new.active, table.statistics()["keys"]] == [False, True, 1]
    table.close(old, 1.0)
    assert table.statistics()["keys"] == 1
    table.close(new, 1.0)
    assert table.statistics()["keys"] == 0


@pytest.mark.parametrize("keys", [0, 129])
def test_a_table_has_as_many_keys_as_a_report_can_have(keys: int) -> None:
    with pytest.raises(ValueError, match="1 to 128"):
        sharing(max_keys=keys)
