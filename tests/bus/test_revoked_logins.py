"""A server is told of its accounts anew: who was revoked is cut off in both, and others lose no message."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from busmesh.bus.accounts import BusAccounts
from busmesh.bus.bus import Bus
from busmesh.bus.jwt import claims_of
from busmesh.bus.permissions import UPDATE_ACCOUNT, account_lookup, accounts_permissions, writer_permissions
from busmesh.bus.serverconfig import Security
from busmesh.errors import Denied
from tests.bus.rig import Inbox, until
from tests.bus.test_accounts import IN_THE_MESH, SUBJECTS, Place, filled
from tests.support.bus import NatsServer

FAR = 4_000_000_000
MEMBER = "busmesh.local.member.default.orders.orders-0"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    accounts = BusAccounts.generate()
    config = "\n".join(Security("local", accounts).lines(tmp_path / "bus"))
    with NatsServer(tmp_path / "bus", config=config) as server:
        yield Place(server, accounts)


def system(place: Place) -> AbstractAsyncContextManager[Bus]:
    known = place.accounts.mesh_accounts("local", 1.0)
    login = place.accounts.system_credentials("system", accounts_permissions(SUBJECTS, "here", known))
    return place.login(login, SUBJECTS.role_inbox("authority", "here"))


async def tell(place: Place, bus: Bus, revoked: dict[str, int]) -> None:
    for claims in place.accounts.mesh_accounts("local", time.time(), revoked).values():
        answer = json.loads((await bus.request(UPDATE_ACCOUNT, claims.encode())).payload)
        assert answer["data"]["code"] == 200


def test_a_key_that_was_revoked_is_cut_off_in_both_accounts(place: Place) -> None:
    made, other = (
        place.accounts.credentials(
            "ann", IN_THE_MESH["operator"], writing=writer_permissions(SUBJECTS, "operator", "ann")
        )
        for _ in range(2)
    )
    assert made.writing is not None
    assert other.writing is not None
    inbox = SUBJECTS.role_inbox("operator", "ann")

    async def main() -> None:
        assert made.writing is not None
        assert other.writing is not None
        async with (
            place.login(made, inbox) as first,
            place.login(made.writing, inbox) as second,
            place.login(other, inbox) as third,
            place.login(other.writing, inbox) as fourth,
            system(place) as authority,
        ):
            await tell(place, authority, {made.key.public: FAR})
            await until(lambda: not first.connected and not second.connected)
            for bus in (third, fourth):
                await bus.round_trip()
                assert bus.statistics()["reconnects"] == 0
        for credentials in (made, made.writing):
            with pytest.raises(Denied):
                async with place.login(credentials, inbox):
                    pass
        async with place.login(other.writing, inbox):
            pass

    asyncio.run(main())


def test_others_lose_no_message_while_a_server_is_told(place: Place) -> None:
    async def main() -> None:
        async with place.writer() as writer, place.mesh("agent") as agent, system(place) as authority:
            told, heard = Inbox(), Inbox()
            await agent.subscribe(SUBJECTS.trust, told)
            await agent.subscribe(MEMBER, heard)
            await agent.round_trip()
            log = (await filled(writer))[SUBJECTS.trust]
            busy, sent, entries = True, 0, 1

            async def talk() -> None:
                nonlocal sent
                while busy:
                    agent.publish(MEMBER, b"%d" % sent)
                    sent += 1
                    await asyncio.sleep(0)

            async def append() -> None:
                nonlocal entries
                while busy:
                    entries += 1
                    await log.append(b"entry %d" % entries, entries)

            tasks = [asyncio.create_task(talk()), asyncio.create_task(append())]
            for number in range(20):
                await tell(place, authority, {"U" + "A" * 55: FAR + number})
                await asyncio.sleep(0.01)
            busy = False
            await asyncio.gather(*tasks)
            await until(lambda: (len(heard.payloads), len(told.payloads)) == (sent, entries))
            assert heard.payloads == [b"%d" % number for number in range(sent)]

    asyncio.run(main())


def test_who_may_tell_of_accounts_may_say_nothing_else(place: Place) -> None:
    async def main() -> None:
        async with system(place) as authority:
            for subject in ("$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.CLAIMS.LIST", MEMBER):
                with pytest.raises(Denied):
                    await authority.request(subject, b"{}")
            answer = await authority.request(account_lookup(place.accounts.account_id))
            assert claims_of(answer.payload.decode())["sub"] == place.accounts.account_id

    asyncio.run(main())


@pytest.mark.parametrize("role", IN_THE_MESH)
def test_nobody_in_the_mesh_may(place: Place, role: str) -> None:
    async def main() -> None:
        async with place.mesh(role) as bus:
            for subject in (UPDATE_ACCOUNT, account_lookup(place.accounts.account_id)):
                with pytest.raises(Denied):
                    await bus.request(subject, b"")

    asyncio.run(main())
