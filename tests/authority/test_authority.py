"""The authority on a real bus: who gets in, who does not, and what a flood of junk does to the others."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from busmesh.actors.actor import Actor
from busmesh.authority import keys as keys_module
from busmesh.authority.authority import Authority
from busmesh.authority.founding import found
from busmesh.authority.keys import KeyKeeper, Keys
from busmesh.bus.bus import Bus
from busmesh.bus.options import BusOptions
from busmesh.errors import BusUnavailable, IdentityError, NotFound
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.enrol import Enrolment
from busmesh.identity.jointoken import Grant, JoinToken
from busmesh.identity.renew import Renewal
from busmesh.identity.store import Home
from busmesh.identity.svid import Svid, new_key
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier
from busmesh.names import ServiceName, SpiffeId, Subjects
from tests.support.bus import NatsServer

SUBJECTS = Subjects("local")
ORDERS = SpiffeId.workload("local", ServiceName("orders"), "orders-0")
PAYMENTS = SpiffeId.workload("local", ServiceName("payments"), "payments-0")
AUTHORITY = SpiffeId("local", authority="here")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "authority")
    found(home, "local", "ada", time.time())
    return home


@asynccontextmanager
async def connected(server: NatsServer, name: str) -> AsyncIterator[Bus]:
    bus = Bus(BusOptions((server.url,), name, SUBJECTS.inbox_prefix(name)))
    try:
        await bus.connect(patience=5)
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def running(
    server: NatsServer, home: Home, also: Sequence[Actor[Any]] = (), **options: object
) -> AsyncIterator[tuple[Authority, Bus]]:
    """An authority, and the bus of a newcomer."""
    async with connected(server, "authority") as own, connected(server, "newcomer") as bus:
        authority = Authority(own, home, "local", name="here", **options)  # type: ignore[arg-type]  # passed on
        for actor in also:
            authority.accompany(actor)
        await authority.start()
        await eventually(lambda: listens(server, SUBJECTS.enrol) and listens(server, SUBJECTS.renew))
        try:
            yield authority, bus
        finally:
            await authority.stop()


def listens(server: NatsServer, subject: str) -> bool:
    found = server.monitor(f"subsz?subs=1&test={subject}")
    return bool(found.get("subscriptions_list"))


async def enrol(bus: Bus, token: JoinToken, wanted: SpiffeId = ORDERS) -> tuple[Svid, TrustBundle]:
    enrolment = Enrolment(token, wanted, new_key(), time.time())
    answer = await bus.request(SUBJECTS.enrol, enrolment.request(), timeout=5)
    return enrolment.finish(answer.payload, time.time())[:2]


async def renew(bus: Bus, svid: Svid, verifier: Verifier) -> tuple[Svid, TrustBundle]:
    renewal = Renewal(svid, new_key(), time.time())
    answer = await bus.request(SUBJECTS.renew, renewal.request(), timeout=5)
    return renewal.finish(answer.payload, verifier, time.time())[:2]


async def eventually(holds: Callable[[], bool], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not holds():  # noqa: ASYNC110  # nobody tells of it
            await asyncio.sleep(0.01)


def test_a_newcomer_with_the_token_gets_in_and_stays(nats_server: NatsServer, home: Home) -> None:
    async def main() -> None:
        async with running(nats_server, home, lifetime_s=600) as (authority, bus):
            svid, bundle = await enrol(bus, home.join_token())
            assert svid.id == ORDERS
            assert bundle == home.trust("local")
            assert 590 < svid.not_after - time.time() <= 600
            again, _ = await renew(bus, svid, Verifier(bundle))
            assert again.id == ORDERS
            assert again.fingerprint != svid.fingerprint
            assert authority.statistics() == {"enrol": {"granted": 1}, "renew": {"granted": 1}}

    asyncio.run(main())


def test_the_wrong_token_is_denied(nats_server: NatsServer, home: Home) -> None:
    async def main() -> None:
        right = home.join_token()
        async with running(nats_server, home) as (authority, bus):
            for wrong in (JoinToken.generate("local"), JoinToken("local", right.id, bytes(32))):
                with pytest.raises(IdentityError) as caught:
                    await enrol(bus, wrong)
                assert caught.value.code == "BM4203"
            assert authority.enrolments.statistics() == {"denied": 2}
            await enrol(bus, right)

    asyncio.run(main())


def test_a_token_opens_only_what_its_grant_says(nats_server: NatsServer, home: Home) -> None:
    async def main() -> None:
        token = JoinToken.generate("local")
        home.save_grant(Grant(token, service="orders"))
        async with running(nats_server, home) as (authority, bus):
            await enrol(bus, token, ORDERS)
            with pytest.raises(IdentityError, match="not for this service"):
                await enrol(bus, token, PAYMENTS)
            assert authority.enrolments.statistics() == {"granted": 1, "forbidden": 1}

    asyncio.run(main())


def test_a_recorded_request_is_not_answered_twice(nats_server: NatsServer, home: Home) -> None:
    async def main() -> None:
        async with running(nats_server, home) as (authority, bus):
            enrolment = Enrolment(home.join_token(), ORDERS, new_key(), time.time())
            recorded = enrolment.request()
            for _ in range(3):
                answer = await bus.request(SUBJECTS.enrol, recorded, timeout=5)
            with pytest.raises(IdentityError, match="arrived twice"):
                enrolment.finish(answer.payload, time.time())
            assert authority.enrolments.statistics() == {"granted": 1, "replayed": 2}

    asyncio.run(main())


def test_an_svid_of_another_mesh_is_not_renewed(nats_server: NatsServer, home: Home) -> None:
    async def main() -> None:
        stranger = CertificateAuthority.create("local", time.time()).issue_svid(ORDERS, time.time())
        async with running(nats_server, home) as (authority, bus):
            with pytest.raises(IdentityError) as caught:
                await renew(bus, stranger, Verifier(home.trust("local")))
            assert caught.value.code == "BM4203"
            assert authority.renewals.statistics() == {"denied": 1}

    asyncio.run(main())


def test_a_flood_of_junk_does_not_keep_a_newcomer_out(nats_server: NatsServer, home: Home) -> None:
    """Junk proves nothing, so it costs one MAC at most and takes no tokens from who holds one."""

    async def main() -> None:
        junk = [os.urandom(200) for _ in range(10)]
        stranger = Enrolment(JoinToken.generate("local"), ORDERS, new_key(), time.time()).request()
        inbox = f"{SUBJECTS.inbox_prefix('attacker')}.x"
        async with (
            running(nats_server, home) as (authority, bus),
            connected(nats_server, "attacker") as attacker,
        ):

            async def flood() -> None:
                while True:
                    for payload in (*junk, stranger):
                        attacker.publish(SUBJECTS.enrol, payload, inbox)
                        attacker.publish(SUBJECTS.renew, payload, inbox)
                    await asyncio.sleep(0.005)

            flooding = asyncio.create_task(flood())
            token = home.join_token()
            for _ in range(20):
                svid, bundle = await enrol(bus, token)
                await renew(bus, svid, Verifier(bundle))
            flooding.cancel()
            counts = authority.enrolments.statistics()
            assert counts["granted"] == 20
            assert counts["denied"] > 100
            assert "limited" not in counts

    asyncio.run(main())


def test_holders_of_a_token_cannot_overrun_the_authority(nats_server: NatsServer, home: Home) -> None:
    async def main() -> None:
        async with running(nats_server, home, rate=5) as (authority, bus):
            inbox = f"{SUBJECTS.inbox_prefix('greedy')}.x"
            token = home.join_token()
            for _ in range(50):
                bus.publish(SUBJECTS.enrol, Enrolment(token, ORDERS, new_key(), time.time()).request(), inbox)
            await eventually(lambda: sum(authority.enrolments.statistics().values()) == 50)
            assert 10 <= authority.enrolments.statistics()["granted"] < 20

    asyncio.run(main())


def test_grants_and_roots_are_followed_while_it_runs(nats_server: NatsServer, home: Home) -> None:
    async def main() -> None:
        async with running(nats_server, home) as (authority, bus):
            old, new = home.join_token(), JoinToken.generate("local")
            home.save_grant(Grant(new))
            home.delete_grant(old.id)
            other = CertificateAuthority.create("local", time.time())
            home.save_trust(TrustBundle("local", (*home.trust("local").roots, other.certificate)))
            await authority.keeper.mailbox.ask(None, 5)
            _, bundle = await enrol(bus, new)
            assert len(bundle.roots) == 2
            with pytest.raises(IdentityError):
                await enrol(bus, old)

    asyncio.run(main())


def test_what_cannot_be_read_leaves_the_old_in_force(
    nats_server: NatsServer, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with running(nats_server, home) as (authority, bus):
            (home.path / "trust.crt").write_bytes(b"-----BEGIN NONSENSE-----")
            await authority.keeper.mailbox.ask(None, 5)
            await authority.keeper.mailbox.ask(None, 5)
            await enrol(bus, home.join_token())

    asyncio.run(main())
    said = [
        record.getMessage() for record in caplog.records if "goes on with what it has" in record.getMessage()
    ]
    assert len(said) == 1
    assert "trust.crt" in said[0]


def test_its_own_svid_is_renewed_at_half_of_its_life(home: Home) -> None:
    now = time.time()
    keys = Keys(home, AUTHORITY, now, Random(1))
    first = keys.svid
    assert first.id == AUTHORITY
    assert first.not_after == int(now + 3600)
    keys.renew_own(now + 1500)
    assert keys.svid is first
    keys.renew_own(now + 2100)
    assert keys.svid.not_after > now + 5600


def test_operators_are_renewed_while_it_runs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    first = home.operator("ada").fingerprint
    keeper = KeyKeeper(Keys(home, AUTHORITY, now, Random(1)))
    for later, renewed in ((7200, False), (50 * 86400, True)):
        monkeypatch.setattr(keys_module.time, "time", lambda later=later: now + later)
        asyncio.run(keeper.tick())
        assert (home.operator("ada").fingerprint != first) is renewed


def test_it_answers_again_after_the_bus_was_gone(nats_server: NatsServer, home: Home) -> None:
    async def main() -> None:
        async with running(nats_server, home) as (_, bus):
            await asyncio.to_thread(nats_server.restart, keep_store=False)
            async with asyncio.timeout(20):
                while True:
                    try:
                        svid, _ = await enrol(bus, home.join_token())
                    except BusUnavailable:
                        await asyncio.sleep(0.05)
                    else:
                        assert svid.id == ORDERS
                        return

    asyncio.run(main())


def test_further_actors_run_under_its_supervisor(nats_server: NatsServer, home: Home) -> None:
    class Keeper(Actor[str]):
        async def receive(self, message: str) -> str:
            return message.upper()

    async def main() -> None:
        keeper = Keeper("policy log")
        async with running(nats_server, home, also=[keeper]):
            assert await keeper.mailbox.ask("kept", 5) == "KEPT"

    asyncio.run(main())


def test_without_a_root_there_is_no_authority(tmp_path: Path) -> None:
    bus = Bus(BusOptions(("nats://127.0.0.1:1",), "x", SUBJECTS.inbox_prefix("x")))
    with pytest.raises(NotFound):
        Authority(bus, Home(tmp_path / "nothing"), "local")
