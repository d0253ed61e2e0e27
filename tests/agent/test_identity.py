"""Renewal over days in virtual time: what an absent authority does to a member, and who hears of it when."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from busmesh.agent import identity as module
from busmesh.agent.expiry import register_identity
from busmesh.agent.identity import TICK_S, Enroller, Ordered, Renewals, TrustChanged
from busmesh.bus.bus import Bus
from busmesh.bus.messages import Message
from busmesh.bus.options import BusOptions
from busmesh.errors import BusUnavailable, IdentityError, NotFound
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.drill import seal_drill
from busmesh.identity.holder import Identity
from busmesh.identity.profile import CLOCK_SKEW_S
from busmesh.identity.renew import answer_renewal
from busmesh.identity.revocation import Revocation
from busmesh.identity.store import AgentHome
from busmesh.identity.ticket import JoinTicket
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.telemetry.metrics import Registry

NOW = 1_900_000_000.0
DAY_S, HOUR_S = 86400.0, 3600.0
ORDERS = SpiffeId.workload("local", ServiceName("orders"), "orders-0")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - NOW


class Authority:
    """Stands in for bus and authority: answers renewals, or is away."""

    connected = True
    options = BusOptions(("nats://nowhere",), "orders-0", "busmesh.local.inbox.orders-0")

    def __init__(self, clock: Clock, lifetime_s: float) -> None:
        self.clock = clock
        self.lifetime_s = lifetime_s
        self.ca = CertificateAuthority.create("local", NOW)
        self.verifier = Verifier(self.ca.bundle)
        self.away = False
        self.asked = 0

    async def connect(self, *, patience: float | None = None) -> None:
        """Stand, as ever."""

    async def request(self, subject: str, payload: bytes, *, timeout: float) -> Message:
        self.asked += 1
        if self.away:
            raise BusUnavailable("nobody answers", code="BM3007")
        own = self.ca.issue_svid(SpiffeId("local", authority="one"), self.clock.now)
        answer = answer_renewal(
            payload, self.ca, own, self.verifier, self.clock.now, lifetime_s=self.lifetime_s
        )
        return Message(subject, answer.reply, {})


class Member:
    """A member with its renewals, driven by the clock."""

    def __init__(self, folder: Path, clock: Clock, lifetime_s: float) -> None:
        self.clock = clock
        self.authority = Authority(clock, lifetime_s)
        ca = self.authority.ca
        self.identity = Identity(ca.issue_svid(ORDERS, NOW, lifetime_s=lifetime_s), ca.bundle)
        self.events: list[tuple[float, str]] = []
        self.renewed: list[float] = []
        self._peer = Verifier(ca.bundle)
        bus = cast("Bus", self.authority)  # all of a bus that is used here
        self.actor = Renewals(
            bus,
            self.identity,
            Enroller(bus, Subjects("local"), ORDERS, AgentHome(folder), self._ticket),
            renewed=lambda: self.renewed.append(clock.now - NOW),
            warn=lambda kind, message, facts: self.events.append((clock.now - NOW, kind)),
            rng=Random(3),
        )

    def _ticket(self) -> JoinTicket:
        raise NotFound("no join token", code="BM4501")

    def live(self, seconds: float, *, step: float, each: Callable[[], Any] = lambda: None) -> None:
        async def run() -> None:
            until = self.clock.now + seconds
            while self.clock.now < until:
                self.clock.now += step
                await self.actor.tick()
                each()

        asyncio.run(run())

    def tell(self, message: TrustChanged | Ordered) -> None:
        asyncio.run(self.actor.receive(message))

    def kinds(self) -> list[str]:
        return [kind for _, kind in self.events]

    def believed(self) -> bool:
        """Say whether a peer takes its certificate now."""
        try:
            self._peer.certificate(self.identity.svid.der, self.clock.now)
        except IdentityError:
            return False
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_day_of_renewals(tmp_path: Path, clock: Clock) -> None:
    member = Member(tmp_path, clock, HOUR_S)
    member.live(DAY_S, step=5, each=lambda: member.believed() or pytest.fail("a gap"))
    gaps = [late - early for early, late in zip([0.0, *member.renewed], member.renewed, strict=False)]
    assert len(gaps) in range(43, 54)
    assert all(0.9 * HOUR_S / 2 <= gap <= 1.1 * HOUR_S / 2 + 5 for gap in gaps)
    assert member.events == []


def test_an_authority_that_is_away_for_hours_hurts_nobody(tmp_path: Path, clock: Clock) -> None:
    """With SVIDs of a day it is away from just before renewal for ten hours: believed at every moment."""
    member = Member(tmp_path, clock, DAY_S)
    serial = member.identity.svid.certificate.serial_number
    member.live(10 * HOUR_S, step=60)
    member.authority.away = True
    believed: list[bool] = []
    member.live(10 * HOUR_S, step=10, each=lambda: believed.append(member.believed()))
    assert all(believed)
    assert member.identity.svid.certificate.serial_number == serial
    assert member.kinds() == ["identity.renewal-missed", "identity.svid-expires"]
    (missed, _), (late, _) = member.events
    assert missed < 0.55 * DAY_S + 120
    assert late == pytest.approx(0.75 * DAY_S, abs=20), "six hours before the end"
    asked = member.authority.asked
    assert asked < 10 * HOUR_S / 30 + 10, "it does not hammer an absent authority"
    member.authority.away = False
    member.live(60, step=1)
    assert member.identity.svid.certificate.serial_number != serial
    assert member.actor.failures == 0
    member.live(HOUR_S, step=10, each=lambda: believed.append(member.believed()))
    assert all(believed)
    assert len(member.events) == 2


def test_an_svid_that_nobody_could_renew_ends(tmp_path: Path, clock: Clock) -> None:
    member = Member(tmp_path, clock, HOUR_S)
    member.authority.away = True
    member.live(HOUR_S + CLOCK_SKEW_S - 1, step=1)
    assert member.believed()
    member.live(3, step=1)
    assert not member.believed()


def test_a_root_that_will_end_is_said_long_before(tmp_path: Path, clock: Clock) -> None:
    member = Member(tmp_path, clock, 7 * DAY_S)
    member.authority.ca = ca = CertificateAuthority.create("local", NOW, lifetime_s=45 * DAY_S)
    member.authority.verifier = Verifier(ca.bundle)
    member.identity.verifier.trust(ca.bundle)
    member.identity.svid = ca.issue_svid(ORDERS, NOW, lifetime_s=7 * DAY_S)
    member.live(44.5 * DAY_S, step=600)
    said = [round(at / DAY_S) for at, kind in member.events if kind == "identity.root-expires"]
    assert said == [15, 38, 44]


def test_a_drill_renews_at_once_and_once(tmp_path: Path, clock: Clock) -> None:
    member = Member(tmp_path, clock, HOUR_S)
    ann = member.authority.ca.issue_svid(SpiffeId("local", operator="ann"), NOW)
    order = seal_drill(ann, 4.0, NOW)
    member.tell(Ordered(order))
    member.live(5, step=0.5)
    assert len(member.renewed) == 1
    assert member.kinds() == ["identity.drill"]
    member.tell(Ordered(order))
    member.tell(Ordered(b"junk"))
    member.tell(
        Ordered(seal_drill(CertificateAuthority.create("local", NOW).issue_svid(ann.id, NOW), 0, NOW))
    )
    member.live(10, step=0.5)
    assert len(member.renewed) == 1
    assert member.kinds() == ["identity.drill"]


def test_a_flood_of_orders_leaves_room_for_what_counts(tmp_path: Path, clock: Clock) -> None:
    member = Member(tmp_path, clock, HOUR_S)
    for _ in range(100):
        member.actor.on_order(b"", b"", b"junk", b"")
    assert member.actor.mailbox.statistics()["waiting"] == 1
    assert member.actor.mailbox.tell(TrustChanged())


def test_another_root_that_issues_brings_a_new_svid_soon(tmp_path: Path, clock: Clock) -> None:
    member = Member(tmp_path, clock, HOUR_S)
    authority, old = member.authority, member.authority.ca
    following = CertificateAuthority.create("local", NOW)
    switched = TrustBundle("local", (following.certificate, old.certificate), 2)
    member.identity.verifier.trust(switched)
    member.tell(TrustChanged())
    member.live(6, step=0.5)
    assert member.renewed, "the authority has not heard of the switch"
    assert member.identity.outdated
    first = len(member.renewed)
    authority.ca = following
    authority.verifier = Verifier(switched)
    member.live(20, step=0.5)
    assert len(member.renewed) == first + 1
    assert not member.identity.outdated


def test_who_was_revoked_waits_for_a_person(tmp_path: Path, clock: Clock) -> None:
    member = Member(tmp_path, clock, HOUR_S)
    member.identity.verifier.revocations.add(
        Revocation(str(ORDERS), 0, int(NOW * 1000), int((NOW + DAY_S) * 1000)), NOW
    )
    member.live(HOUR_S / 2, step=5)
    member.live(HOUR_S / 5, step=5)
    assert member.authority.asked == 0
    assert member.kinds() == ["identity.revoked"]


def test_how_long_it_lasts_is_a_metric(tmp_path: Path) -> None:
    member = Member(tmp_path, Clock(), HOUR_S)
    registry = Registry({"service": "orders"})
    member.identity.svid = member.authority.ca.issue_svid(ORDERS, time.time(), lifetime_s=HOUR_S)
    register_identity(registry, member.identity, lambda: member.actor.renewals)
    text = registry.prometheus()
    found = {
        what: float(re.search(rf'busmesh_identity_seconds_left{{[^}}]*what="{what}"[^}}]*}} (\S+)', text)[1])  # type: ignore[index]
        for what in ("svid", "root")
    }
    assert found["svid"] == pytest.approx(HOUR_S, abs=30)
    root = member.authority.ca.certificate.not_valid_after_utc.timestamp()
    assert found["root"] == pytest.approx(root - time.time(), abs=30)
    assert "busmesh_identity_trust_version" in text
    assert "busmesh_identity_revocations" in text


def test_the_last_look_before_a_renewal_is_when_it_is_due(tmp_path: Path, clock: Clock) -> None:
    member = Member(tmp_path, clock, 10.0)
    waits = list[float]()
    while not member.renewed:
        asyncio.run(member.actor.tick())
        wait = member.actor.interval or 0.0
        waits.append(wait)
        clock.now += wait
    assert waits[0] == TICK_S
    assert min(waits) < TICK_S
    assert 4.5 <= member.renewed[0] <= 5.5 + 0.02
