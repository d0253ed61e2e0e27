"""Following the trust log on a real bus: live, afterwards, and when the bus has forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from busmesh.actors.supervisor import Supervisor
from busmesh.bus.bus import Bus
from busmesh.bus.options import BusOptions
from busmesh.bus.policylog import TrustLog
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.revocation import Revocation
from busmesh.identity.trust import TrustBundle
from busmesh.identity.trustlog import Taken, seal_bundle, seal_revocation
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId, Subjects
from busmesh.operator.trusting import publish_entry
from busmesh.trust.follower import TrustFollower
from busmesh.trust.store import TrustStore
from tests.support.bus import NatsServer

SUBJECTS = Subjects("local")


@pytest.fixture(scope="module")
def roots() -> tuple[CertificateAuthority, CertificateAuthority]:
    first, second = (CertificateAuthority.create("local", time.time()) for _ in range(2))
    return first, second


def revocation(number: int) -> Revocation:
    now = time.time()
    target = f"spiffe://local/ns/default/svc/orders/i/orders-{number}"
    return Revocation(target, 0, int(now * 1000), int((now + 3600) * 1000))


def revoked(ca: CertificateAuthority, number: int) -> bytes:
    made = revocation(number)
    ann = ca.issue_svid(SpiffeId("local", operator="ann"), time.time())
    return seal_revocation(ann, made, (made.at_ms + 0.5) / 1000)


@asynccontextmanager
async def connected(server: NatsServer, name: str) -> AsyncIterator[Bus]:
    bus = Bus(BusOptions((server.url,), name, SUBJECTS.inbox_prefix(name)))
    await bus.connect(patience=5)
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def following(
    server: NatsServer, name: str, bundle: TrustBundle, folder: Path
) -> AsyncIterator[tuple[TrustFollower, list[Taken]]]:
    async with connected(server, name) as bus:
        changes: list[Taken] = []
        store = TrustStore(folder)
        follower = TrustFollower(bus, SUBJECTS, Verifier(bundle), store, changes.append, Random(1))
        follower.load()
        supervisor = Supervisor(Random(1))
        supervisor.start(follower)
        await asyncio.sleep(0)
        await bus.round_trip()
        try:
            yield follower, changes
        finally:
            await supervisor.stop()


async def eventually(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not claim():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def test_live_later_and_from_disk(
    nats_server: NatsServer, tmp_path: Path, roots: tuple[CertificateAuthority, CertificateAuthority]
) -> None:
    old, new = roots
    both = TrustBundle("local", (old.certificate, new.certificate), 2)

    async def scene() -> None:
        async with (
            connected(nats_server, "operator") as bus,
            following(nats_server, "one", old.bundle, tmp_path / "one") as (one, changes),
        ):
            began = time.monotonic()
            await publish_entry(bus, SUBJECTS, revoked(old, 1))
            await eventually(lambda: len(one.state.verifier.revocations) == 1)
            assert time.monotonic() - began < 2.0
            await publish_entry(bus, SUBJECTS, seal_bundle(old, both, time.time()))
            await publish_entry(bus, SUBJECTS, b"junk")
            await eventually(lambda: one.state.verifier.bundle.version == 2)
            assert changes == [Taken.REVOCATION, Taken.BUNDLE]
            async with following(nats_server, "late", old.bundle, tmp_path / "late") as (late, _):
                await eventually(lambda: late.state.verifier.bundle.version == 2)
                assert late.state.verifier.revocations.digest == one.state.verifier.revocations.digest
                await eventually(lambda: late.passed_over == 1)
        again = TrustFollower(
            bus, SUBJECTS, Verifier(old.bundle), TrustStore(tmp_path / "one"), changes.append, Random(1)
        )
        again.load()
        assert again.statistics() == {"version": 2, "revocations": 1, "passed_over": 0}

    asyncio.run(scene())


def test_a_log_that_was_lost_is_given_back(
    nats_server: NatsServer, tmp_path: Path, roots: tuple[CertificateAuthority, CertificateAuthority]
) -> None:
    """By whoever holds what it lacks, without doubling it, and an older log changes nothing."""
    old, new = roots
    both = TrustBundle("local", (old.certificate, new.certificate), 2)
    alone = TrustBundle("local", (new.certificate,), 3)
    entries = [revoked(old, 1), seal_bundle(old, both, time.time()), seal_bundle(new, alone, time.time())]

    async def fill(count: int) -> None:
        async with connected(nats_server, "operator") as bus:
            for entry in entries[:count]:
                await publish_entry(bus, SUBJECTS, entry)

    async def scene() -> None:
        await fill(3)
        async with following(nats_server, "one", old.bundle, tmp_path / "one") as (one, _):
            await eventually(lambda: one.state.verifier.bundle.version == 3)
        nats_server.restart(keep_store=False)
        await fill(2)  # somebody replays the log as it was before the root was removed
        async with following(nats_server, "one", old.bundle, tmp_path / "one") as (one, _):
            assert one.state.verifier.bundle == alone
            async with connected(nats_server, "reader") as bus:
                log = TrustLog(bus, SUBJECTS)
                async with asyncio.timeout(10):
                    while len(await log.read(0)) < 3:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.05)
                assert {entry for _, entry in await log.read(0)} == set(entries)
            assert one.state.verifier.bundle == alone
            assert len(one.state.verifier.revocations) == 1
        async with following(nats_server, "late", old.bundle, tmp_path / "late") as (late, _):
            await eventually(lambda: late.state.verifier.bundle == alone)
            assert len(late.state.verifier.revocations) == 1

    asyncio.run(scene())


def test_hearsay_makes_it_read_and_a_liar_not_more_than_once_a_second(
    nats_server: NatsServer, tmp_path: Path, roots: tuple[CertificateAuthority, CertificateAuthority]
) -> None:
    async def scene() -> None:
        async with following(nats_server, "one", roots[0].bundle, tmp_path / "one") as (one, _):
            taken = one.mailbox.statistics()["taken"]
            for _ in range(50):
                one.heard_of(99, "f" * 16)
            await asyncio.sleep(0.05)
            assert one.mailbox.statistics()["taken"] - taken == 1
            one.heard_of(1, "")
            assert one.state.verifier.bundle.version == 1

    asyncio.run(scene())
