"""What an authority learns from announcements, and what it costs to lie to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

import pytest

from busmesh.authority.founding import found
from busmesh.authority.hearing import BURST, Hearing
from busmesh.authority.register import Register
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.signed import seal_signed
from busmesh.identity.store import Home
from busmesh.identity.svid import Svid, new_key
from busmesh.identity.verify import Verifier
from busmesh.members.announcement import PURPOSE, Announcement, State, encode
from busmesh.names import ServiceName, SpiffeId, Subjects

SUBJECTS = Subjects("local")


class Stage:
    """A hearing with the root that it believes."""

    def __init__(self, home: Home) -> None:
        found(home, "local", "ada", time.time())
        self.ca = home.authority("local")
        self.register = Register(home, SUBJECTS)
        self.hearing = Hearing(self.register, Verifier(home.trust("local")))

    def svid(self, service: str, instance: str, ca: CertificateAuthority | None = None) -> Svid:
        key = new_key()
        who = SpiffeId.workload("local", ServiceName(service), instance)
        return Svid.of((ca or self.ca).issue(who, key.public_key(), time.time()), key)

    def hear(self, svid: Svid, service: str, instance: str) -> None:
        """Deliver what ``svid`` announces of an instance, on that instance's subject."""
        said = Announcement(
            namespace="default",
            service=service,
            instance=instance,
            incarnation=1,
            sequence=1,
            interval=1.0,
            state=State.HEALTHY,
        )
        subject = SUBJECTS.member(ServiceName(service), instance).encode()
        envelope = seal_signed(svid, PURPOSE, encode(said), time.time())
        self.hearing.on_message(subject, b"", envelope, b"")
        asyncio.run(self._work())

    async def _work(self) -> None:
        while self.hearing.mailbox.statistics()["waiting"]:
            await self.hearing.receive(await self.hearing.mailbox._next())  # type: ignore[arg-type]  # no question


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(Home(tmp_path / "home"))


def test_a_name_that_is_announced_is_taken(stage: Stage) -> None:
    stage.hear(stage.svid("orders", "orders-0"), "orders", "orders-0")
    assert stage.register.owner("orders-0") == "orders"
    other = SpiffeId.workload("local", ServiceName("payments"), "orders-0")
    assert not stage.register.claim(other, time.time() + 60)


def test_what_is_known_costs_no_signature(stage: Stage) -> None:
    svid = stage.svid("orders", "orders-0")
    for _ in range(3):
        stage.hear(svid, "orders", "orders-0")
    assert stage.hearing.mailbox.taken == 1


def test_nobody_speaks_for_another(stage: Stage, tmp_path: Path) -> None:
    stage.hear(stage.svid("payments", "payments-0"), "orders", "orders-0")
    stranger = CertificateAuthority.create("local", time.time())
    stage.hear(stage.svid("orders", "orders-0", stranger), "orders", "orders-0")
    assert stage.register.owner("orders-0") == ""
    assert stage.hearing.refused == 2


def test_two_services_with_one_name_are_told_of_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.hear(stage.svid("orders", "one"), "orders", "one")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            stage.hear(stage.svid("payments", "one"), "payments", "one")
    assert stage.register.owner("one") == "orders", "who came first"
    assert caplog.text.count("two services have an instance named one") == 1
    assert stage.hearing.doubles == {"one"}


def test_a_flood_of_names_costs_a_bounded_number_of_signatures(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    monkeypatch.setattr("busmesh.authority.hearing.open_signed", lambda *args, **more: looked.append(args))
    monkeypatch.setattr("busmesh.authority.hearing.time.monotonic", lambda: stage.hearing._bucket._at)

    async def flood() -> None:
        for _ in range(int(BURST) + 100):
            with contextlib.suppress(AttributeError):  # what the stand-in finds is no envelope
                await stage.hearing.receive(b"x")

    asyncio.run(flood())
    assert len(looked) == BURST
