"""The logins that were signed: who is hit by a revocation, what is forgotten, and the file of them."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.authority import logins as module
from busmesh.authority.logins import NEVER, Issued, Logins, joined, newcomer, newcomers, observer, shut_out
from busmesh.bus.accounts import BusAccounts
from busmesh.bus.jwt import Permissions
from busmesh.bus.nkeys import KeyPair, Role
from busmesh.identity.jointoken import Grant, JoinToken
from busmesh.identity.profile import CLOCK_SKEW_S
from busmesh.identity.revocation import Revocation, Revocations

NOW = 1_000_000.0
ORDERS, SHOPPER = (f"spiffe://local/ns/default/svc/{name}" for name in ("orders", "shopper"))
ONE, TWO = f"{ORDERS}/i/orders-0", f"{ORDERS}/i/orders-1"
ANN = "spiffe://local/operator/ann"


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logins(tmp_path: Path, clock: Clock) -> Logins:
    return Logins(tmp_path / "ca" / "logins", clock)


def issued(key: str, holder: str = ONE, *, serial: int = 1, at: float = NOW, life: float = 3600) -> Issued:
    return Issued(key, holder, serial, int(at), int(at + life))


def revoked(*revocations: tuple[str, int], at: float = NOW) -> Revocations:
    held = Revocations()
    for target, serial in revocations:
        assert held.add(Revocation(target, serial, int(at * 1000), int((NOW + 10**6) * 1000)), NOW)
    return held


@pytest.mark.parametrize(
    ("revocations", "hit"),
    [
        ((), set()),
        (((ONE, 0),), {"a", "b"}),
        (((ONE, 2),), {"b"}),
        ((("", 3),), {"c"}),
        (((ORDERS, 0),), {"a", "b", "c"}),
        (((ANN, 0),), {"d"}),
        (((SHOPPER, 0), (ONE, 7)), set()),
        (((TWO, 0), (ANN, 0)), {"c", "d"}),
    ],
)
def test_who_is_hit(logins: Logins, revocations: tuple[tuple[str, int], ...], hit: set[str]) -> None:
    for one in (issued("a"), issued("b", serial=2), issued("c", TWO, serial=3), issued("d", ANN, serial=4)):
        logins.add(one)
    assert {one.key for one in logins.hit(revoked(*revocations))} == hit


@pytest.mark.parametrize(("later", "hit"), [(-100, True), (CLOCK_SKEW_S, True), (CLOCK_SKEW_S + 1, False)])
def test_what_was_signed_later_counts(logins: Logins, later: float, hit: bool) -> None:
    logins.add(issued("a", at=NOW + later))
    assert bool([*logins.hit(revoked((ONE, 0)))]) is hit


def test_a_newcomer_goes_with_its_token(logins: Logins) -> None:
    for one in (
        issued("a", newcomer("t1")),
        issued("b", newcomer("t2")),
        issued("c"),
        issued("d", observer("x")),
    ):
        logins.add(one)
    assert {one.key for one in logins.without_token(["t2"])} == {"a"}
    assert [*logins.without_token(["t1", "t2"])] == []


def test_what_is_told_ends_when_the_login_does() -> None:
    lasting = Issued("b", newcomer("t"), 0, int(NOW), NEVER)
    over = issued("c", at=NOW - 10_000)
    assert shut_out([issued("a"), lasting, over], NOW) == {"a": NOW + 3600 + 60, "b": NEVER}


_LISTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 20), max_size=8)


@given(_LISTS, _LISTS, st.integers(0, 20))
def test_several_that_tell_the_bus_end_with_the_same(
    one: dict[str, int], two: dict[str, int], now: int
) -> None:
    one, two = ({key: until for key, until in each.items() if now < until} for each in (one, two))
    first, second = (
        joined(joined({}, one, now, 99), two, now, 99),
        joined(joined({}, two, now, 99), one, now, 99),
    )
    assert first == second == joined(first, one, now, 99)
    assert all(first[key] >= until for each in (one, two) for key, until in each.items())


@given(_LISTS, _LISTS, st.integers(0, 20), st.integers(1, 8))
def test_what_has_ended_is_left_out_and_there_is_a_bound(
    told: dict[str, int], wanted: dict[str, int], now: int, limit: int
) -> None:
    wanted = {key: until for key, until in wanted.items() if now < until}
    found = joined(told, wanted, now, limit)
    assert len(found) <= limit
    assert all(now < until for until in found.values())
    everything = joined(told, wanted, now, 99)
    left_out = [until for key, until in everything.items() if key not in found]
    assert not left_out or max(left_out) <= min(found.values())


def test_it_is_kept_over_a_restart_for_its_owner_alone(logins: Logins, tmp_path: Path, clock: Clock) -> None:
    logins.add(issued("a"))
    logins.add(Issued("b", newcomer("t"), 0, int(NOW), NEVER))
    file = tmp_path / "ca" / "logins"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = Logins(file, clock)
    assert again.follow()
    assert set(again) == set(logins)


def test_what_a_command_adds_is_seen_and_a_broken_line_spoils_no_other(logins: Logins, clock: Clock) -> None:
    logins.add(issued("a"))
    assert not logins.follow(), "its own is no news"
    with logins._file.open("ab") as file:
        file.write(b'\n["b","spiffe://cut off')  # by a crash
        file.write(b'\n{"b": 1}\n[1,2,3,4,5]\n["b","x","zz",1,2]\n' + b"[" * 100_000 + b"\n\xff")
    Logins(logins._file, clock).add(issued("c", TWO))
    assert logins.follow()
    assert {one.key for one in logins} == {"a", "c"}
    assert not logins.follow()


def test_what_has_ended_is_forgotten_also_on_disk(
    logins: Logins, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_LINES", 10)
    for number in range(100):
        logins.add(issued(f"old-{number}", f"{ORDERS}/i/orders-{number}"))
    logins.add(Issued("new", newcomer("t"), 0, int(NOW), NEVER))
    logins.follow()
    logins.tidy()
    assert len(logins) == 101, "nothing has ended yet"
    size = logins._file.stat().st_size
    clock.now += 3600 + 59
    logins.tidy()
    assert len(logins) == 101, "the server's clock may be behind"
    clock.now += 62
    logins.tidy()
    assert [one.key for one in logins] == ["new"]
    assert logins._file.stat().st_size < size / 50
    other = Logins(logins._file, clock)
    other.add(issued("c", TWO, at=clock.now))
    assert logins.follow(), "it follows the file that it has replaced"
    assert {one.key for one in logins} == {"new", "c"}


def test_a_holder_has_room_for_some_and_what_was_taken_back_does_not_count(
    logins: Logins, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PER_HOLDER", 3)
    for key in "abc":
        assert logins.room(ONE)
        logins.add(issued(key))
    assert not logins.room(ONE)
    assert logins.room(TWO), "a thief of one takes nothing from the other"
    assert logins.room(ONE, {"b"})
    clock.now += 3600 + 61
    assert logins.room(ONE)


def test_there_is_a_bound_for_all(logins: Logins, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 5)
    for number in range(5):
        logins.add(issued(f"k{number}", f"{ORDERS}/i/orders-{number}"))
    assert not logins.room(ANN)
    clock.now += 3600 + 130
    assert logins.room(ANN)


def test_what_is_remembered_is_what_the_login_says() -> None:
    accounts, key = BusAccounts.generate(), KeyPair.generate(Role.USER)
    jwt = accounts.login("x", key.raw_public, Permissions((), ()), expires=2e9)
    made = Issued.of(jwt, ONE, 255)
    assert (made.key, made.holder, made.serial, made.until) == (key.public, ONE, 255, 2_000_000_000)
    assert Issued.parse(made.line().strip()) == made
    assert Issued.of(accounts.login("x", key.raw_public, Permissions((), ())), ONE).until == NEVER


def _add(file: str, number: int) -> None:
    logins = Logins(Path(file), Clock())
    for count in range(50):
        logins.append(issued(f"{number}-{count}", f"{ORDERS}/i/orders-{number}"))


def test_nothing_is_lost_while_it_is_replaced(
    logins: Logins, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands add lines while the authority writes the file anew, again and again."""
    monkeypatch.setattr(module, "SPARE_LINES", -10_000)
    logins.add(issued("own"))
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(str(logins._file), number)) for number in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        logins.tidy()
    logins.follow()
    assert {one.key for one in logins} == {"own", *(f"{n}-{count}" for n in range(2) for count in range(50))}


@pytest.mark.parametrize(("expires", "until"), [(None, NEVER), (NOW + 60.5, int(NOW) + 60)])
def test_a_newcomers_login_is_known_by_its_token(expires: float | None, until: int) -> None:
    token = JoinToken.generate("local")
    made = newcomers(Grant(token, expires=expires), NOW)
    assert (made.key, made.holder, made.until) == (token.bus_key().public, newcomer(token.id), until)


def test_who_else_has_a_login_for_a_key(logins: Logins, clock: Clock) -> None:
    logins.add(issued("a", ONE))
    assert logins.another("a", TWO) == ONE
    assert logins.another("a", ONE) == ""
    assert logins.another("b", TWO) == ""
    again = Logins(logins._file, clock)
    assert again.follow()
    assert again.another("a", TWO) == ONE, "over a restart as well"
    clock.now += 7200
    assert logins.another("a", TWO) == "", "until it has ended"
