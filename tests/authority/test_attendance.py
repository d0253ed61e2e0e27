"""An authority says that it is there: to inboxes only, and a flood of questions costs no signature each."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import cast

import pytest

from busmesh.authority import attendance
from busmesh.authority.attendance import BURST, Attendance
from busmesh.authority.founding import found
from busmesh.authority.keys import Keys
from busmesh.bus.bus import Bus
from busmesh.errors import BusUnavailable
from busmesh.identity.store import Home
from busmesh.names import SpiffeId, Subjects
from busmesh.operator.attendance import read_presences

SUBJECTS = Subjects("local")
INBOX = f"{SUBJECTS.role_inbox('operator', 'ann')}.ab12.cd34".encode()


class FakeBus:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.down = False

    def publish(self, subject: str, payload: bytes) -> None:
        if self.down:
            raise BusUnavailable("not connected")
        self.sent.append((subject, payload))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "authority")
    found(home, "local", "ada", time.time())
    return home


def made(home: Home) -> tuple[Attendance, FakeBus, Keys]:
    keys, bus = Keys(home, SpiffeId("local", authority="here"), time.time(), Random(1)), FakeBus()
    return Attendance(cast(Bus, bus), SUBJECTS, keys), bus, keys


def ask(asked: Attendance, reply: bytes = INBOX) -> None:
    asked.on_question(SUBJECTS.attendance.encode(), reply, b"", b"")


def test_the_answer_proves_who_is_there(home: Home) -> None:
    asked, bus, keys = made(home)
    ask(asked)
    [(subject, payload)] = bus.sent
    assert subject == INBOX.decode()
    [there] = read_presences([payload], keys.verifier, time.time()).authorities
    assert (there.name, there.presence.issues, there.presence.trust) == ("here", True, 1)
    assert there.told == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize(
    "reply",
    [b"", b"_INBOX.x", b"busmesh.local.policy.revision", b"busmesh.local.inbox.a b", INBOX + b"." * 300],
)
def test_nothing_is_sent_elsewhere_than_to_an_inbox(home: Home, reply: bytes) -> None:
    asked, bus, _ = made(home)
    ask(asked, reply)
    assert (bus.sent, asked.ignored) == ([], 1)


def test_a_flood_is_answered_up_to_a_bound_and_signed_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance.time, "monotonic", lambda: 1000.0)
    asked, bus, _ = made(home)
    for _ in range(BURST + 50):
        ask(asked)
    assert (asked.answered, asked.ignored) == (BURST, 50)
    assert len({payload for _, payload in bus.sent}) == 1
    monkeypatch.setattr(attendance.time, "monotonic", lambda: 1001.0)
    ask(asked)
    assert len({payload for _, payload in bus.sent}) == 2


def test_a_bus_that_is_away_is_nothing_to_fail_over(home: Home) -> None:
    asked, bus, _ = made(home)
    bus.down = True
    ask(asked)
    assert asked.ignored == 1
