"""The accounts of a locked bus: what each takes from the other, and who cannot write to the logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from busmesh.bus.accounts import MAX_DISK, BusAccounts
from busmesh.bus.bus import Bus
from busmesh.bus.jwt import Permissions, User, claims_of, user_jwt
from busmesh.bus.login import Credentials, Login
from busmesh.bus.nkeys import KeyPair, Role
from busmesh.bus.options import BusOptions
from busmesh.bus.permissions import (
    agent_permissions,
    authority_permissions,
    newcomer_permissions,
    observer_permissions,
    operator_permissions,
    shared_logs,
    writer_permissions,
)
from busmesh.bus.policylog import LogUnavailable, PolicyLog, TrustLog
from busmesh.bus.serverconfig import Security
from busmesh.errors import Denied, UsageError
from busmesh.names import ServiceName, Subjects
from tests.bus.rig import Inbox, until
from tests.support.bus import NatsServer

SUBJECTS = Subjects()
LOGS = (SUBJECTS.revision, SUBJECTS.trust)
READING = [
    f"$JS.API.STREAM.{verb}.{stream}"
    for stream in (SUBJECTS.policy_stream, SUBJECTS.trust_stream)
    for verb in ("INFO", "MSG.GET")
]
#: The same as it is asked in the account of the mesh.
ASKED = [f"busmesh.local.logs.{subject.removeprefix('$JS.API.')}" for subject in READING]
#: What somebody in the account of the mesh may do.
IN_THE_MESH: dict[str, Permissions] = {
    "agent": agent_permissions(SUBJECTS, ServiceName("orders"), "orders-0"),
    "newcomer": newcomer_permissions(SUBJECTS, "0123"),
    "observer": observer_permissions(SUBJECTS, "board"),
    "operator": operator_permissions(SUBJECTS, "ann"),
    "authority": authority_permissions(SUBJECTS, "here"),
}


# -- what is written ---------------------------------------------------------------------------------------


def claims(accounts: BusAccounts, key: KeyPair) -> dict[str, Any]:
    found: dict[str, Any] = claims_of(accounts.server_claims("local")[1][key.public])["nats"]
    return found


def test_the_account_of_the_logs_takes_nothing_from_anybody() -> None:
    accounts = BusAccounts.generate()
    logs = claims(accounts, accounts.logs)
    assert logs["imports"] == []
    assert {(each["type"], each["subject"]) for each in logs["exports"]} == {
        *(("service", subject) for subject in READING),
        *(("stream", subject) for subject in LOGS),
    }


def test_the_account_of_the_mesh_offers_nothing_and_takes_what_the_logs_offer() -> None:
    accounts = BusAccounts.generate()
    mesh, logs = claims(accounts, accounts.account), claims(accounts, accounts.logs)
    assert mesh["exports"] == []
    imported = {(each["type"], each["subject"], each["account"]) for each in mesh["imports"]}
    assert imported == {(each["type"], each["subject"], accounts.logs.public) for each in logs["exports"]}
    asked = {each["subject"]: each["local_subject"] for each in mesh["imports"] if each["type"] == "service"}
    assert asked == dict(zip(READING, ASKED, strict=True))


def test_the_logs_alone_have_jetstream() -> None:
    accounts = BusAccounts.generate()
    assert claims(accounts, accounts.logs)["limits"]["streams"] == 2
    assert claims(accounts, accounts.logs)["limits"]["disk_storage"] == MAX_DISK
    for key in (accounts.account, accounts.system):
        assert not {"disk_storage", "mem_storage", "streams"} & claims(accounts, key)["limits"].keys()


def test_each_signing_key_signs_for_one_account() -> None:
    accounts = BusAccounts.generate()
    assert claims(accounts, accounts.account)["signing_keys"] == [accounts.signing.public]
    assert claims(accounts, accounts.logs)["signing_keys"] == [accounts.logs_signing.public]
    assert len(set(accounts.seeds().values())) == 6


def test_no_subject_by_which_a_log_is_written_to_can_be_asked_from_the_mesh() -> None:
    shared = shared_logs(SUBJECTS)
    assert set(shared.services) == set(READING)
    assert not set(shared.services) & set(LOGS)


@pytest.mark.parametrize("role", IN_THE_MESH)
def test_nobody_in_the_mesh_is_granted_a_subject_of_writing(role: str) -> None:
    granted = IN_THE_MESH[role].publish
    assert not set(granted) & set(LOGS)
    assert not [subject for subject in granted if subject.startswith("$")]
    assert {subject for subject in granted if ".logs." in subject} <= set(ASKED)


def test_who_writes_to_the_logs_does_nothing_else_with_that_login() -> None:
    granted = writer_permissions(SUBJECTS, "operator", "ann")
    making = [f"$JS.API.STREAM.CREATE.{name}" for name in (SUBJECTS.policy_stream, SUBJECTS.trust_stream)]
    assert set(granted.publish) == {*LOGS, *READING, *making}
    assert set(granted.subscribe) == {*LOGS, f"{SUBJECTS.role_inbox('operator', 'ann')}.>"}


def test_seeds_come_back_as_they_were() -> None:
    accounts = BusAccounts.generate()
    assert BusAccounts.from_seeds(accounts.seeds()) == accounts


@pytest.mark.parametrize("missing", BusAccounts.generate().seeds())
def test_keys_that_lack_one_are_refused_by_its_name(missing: str) -> None:
    seeds = BusAccounts.generate().seeds()
    del seeds[missing]
    with pytest.raises(UsageError, match=f"it lacks the {missing} key"):
        BusAccounts.from_seeds(seeds)


def test_a_login_file_holds_both_logins_and_other_tools_read_the_first() -> None:
    accounts = BusAccounts.generate()
    made = accounts.credentials(
        "ann", IN_THE_MESH["operator"], writing=writer_permissions(SUBJECTS, "operator", "ann")
    )
    text = made.reveal()
    assert Credentials.parse(text) == made
    assert made.writing is not None
    assert made.writing.key == made.key
    assert [claims_of(jwt)["nats"]["issuer_account"] for jwt in (made.jwt, made.writing.jwt)] == [
        accounts.account.public,
        accounts.logs.public,
    ]
    # The tools of NATS take the first block that is fenced by dashes for the JWT and the second for the seed.
    fenced = [line for line in text.splitlines() if line and not line.startswith("-")]
    assert fenced[:2] == [made.jwt, made.key.reveal()]
    plain = accounts.credentials("board", IN_THE_MESH["observer"])
    assert plain.writing is None
    assert Credentials.parse(plain.reveal()) == plain


# -- what a server makes of it -----------------------------------------------------------------------------


class Place:
    """A locked server, and logins to it."""

    def __init__(self, server: NatsServer, accounts: BusAccounts) -> None:
        self.server, self.accounts = server, accounts

    @asynccontextmanager
    async def login(self, credentials: Credentials, inbox: str) -> AsyncIterator[Bus]:
        bus = Bus(BusOptions((self.server.url,), "test", inbox, login=Login(credentials)))
        try:
            await bus.connect(patience=5)
            yield bus
        finally:
            await bus.close()

    def mesh(self, role: str) -> AbstractAsyncContextManager[Bus]:
        made = self.accounts.credentials(role, IN_THE_MESH[role])
        inbox = made.inbox_prefix(SUBJECTS.root)
        assert inbox is not None
        return self.login(made, inbox)

    def writer(self) -> AbstractAsyncContextManager[Bus]:
        made = self.accounts.credentials(
            "ann", IN_THE_MESH["operator"], writing=writer_permissions(SUBJECTS, "operator", "ann")
        )
        assert made.writing is not None
        return self.login(made.writing, SUBJECTS.role_inbox("operator", "ann"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    accounts = BusAccounts.generate()
    config = "\n".join(Security("local", accounts).lines(tmp_path / "bus"))
    with NatsServer(tmp_path / "bus", config=config) as server:
        yield Place(server, accounts)


async def filled(writer: Bus) -> dict[str, PolicyLog]:
    """Make both logs, with an entry each."""
    logs = {SUBJECTS.revision: PolicyLog(writer, SUBJECTS), SUBJECTS.trust: TrustLog(writer, SUBJECTS)}
    for log in logs.values():
        await log.ensure()
        await log.append(b"entry", 1)
    return logs


def test_the_mesh_reads_both_logs_and_hears_entries_live(place: Place) -> None:
    async def main() -> None:
        async with place.writer() as writer, place.mesh("agent") as agent, place.mesh("observer") as observer:
            live = {subject: Inbox() for subject in LOGS}
            for subject, inbox in live.items():
                await agent.subscribe(subject, inbox)
            await agent.round_trip()
            await filled(writer)
            for bus in (agent, observer):
                for log in (PolicyLog(bus, SUBJECTS), TrustLog(bus, SUBJECTS)):
                    assert await log.last() == 1
                    assert await log.read(0) == [(1, b"entry")]
            await until(lambda: all(inbox.payloads == [b"entry"] for inbox in live.values()))

    asyncio.run(main())


@pytest.mark.parametrize("role", ["agent", "observer", "operator"])
@pytest.mark.parametrize("target", LOGS)
def test_an_answer_of_jetstream_sent_to_the_subject_of_a_log_stays_in_the_mesh(
    place: Place, role: str, target: str
) -> None:
    async def main() -> None:
        async with place.writer() as writer, place.mesh("agent") as witness, place.mesh(role) as thief:
            logs = await filled(writer)
            heard = Inbox()
            await witness.subscribe(target, heard)
            await witness.round_trip()
            for subject in ASKED:
                thief.publish(subject, b'{"seq": 1}', reply=target)
            await until(lambda: len(heard.payloads) == len(ASKED))  # so the server did as it was told
            assert [await log.last() for log in logs.values()] == [1, 1]
            await logs[target].append(b"next", 2)

    asyncio.run(main())


@pytest.mark.parametrize("role", ["agent", "observer", "operator"])
def test_an_answer_sent_on_to_another_question_reaches_no_log(place: Place, role: str) -> None:
    async def main() -> None:
        async with place.writer() as writer, place.mesh(role) as thief:
            logs = await filled(writer)
            for subject in ASKED:
                for through in (*ASKED, *READING, "$JS.API.STREAM.CREATE.MINE", "$JS.ACK.x.1", "_R_.x"):
                    thief.publish(subject, b'{"seq": 1}', reply=through)
            assert (await thief.request(ASKED[0], timeout=2)).payload
            assert [await log.last() for log in logs.values()] == [1, 1]

    asyncio.run(main())


@pytest.mark.parametrize("role", IN_THE_MESH)
@pytest.mark.parametrize("target", LOGS)
def test_the_servers_own_reports_reach_no_log(place: Place, role: str, target: str) -> None:
    """A header asks the server to report on the way of a message, to a subject that the header names."""

    async def main() -> None:
        async with place.writer() as writer, place.mesh(role) as thief:
            logs = await filled(writer)
            for subject in IN_THE_MESH[role].publish:
                filled_in = subject.replace("*", "x").replace(">", "x")
                thief.publish(filled_in, b'{"seq": 1}', headers={"Nats-Trace-Dest": target})
                thief.publish(filled_in, b'{"seq": 1}', reply=target)
            await thief.round_trip()
            assert [await log.last() for log in logs.values()] == [1, 1]
            with pytest.raises(Denied):
                await thief.request(target, b"junk", timeout=2)
            assert [await log.last() for log in logs.values()] == [1, 1]

    asyncio.run(main())


def test_nobody_in_the_mesh_has_a_say_on_what_became_of_an_entry(place: Place) -> None:
    """Who appends waits for JetStream's word at a subject that no one in the mesh can publish to."""

    async def main() -> None:
        async with place.writer() as writer, place.mesh("agent") as agent:
            replies: list[str] = []

            def lie(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
                replies.append(reply.decode())
                agent.publish(f"{reply.decode()}.orders-0", b'{"stream": "x", "seq": 9}')

            await agent.subscribe(SUBJECTS.revision, lie)
            await agent.round_trip()
            logs = await filled(writer)
            await until(lambda: bool(replies))
            await logs[SUBJECTS.revision].append(b"next", 2)

    asyncio.run(main())


def test_a_login_to_one_account_is_none_to_the_other(place: Place) -> None:
    async def main() -> None:
        key = KeyPair.generate(Role.USER)
        permissions = writer_permissions(SUBJECTS, "operator", "ann")
        jwt = place.accounts.login("thief", key.raw_public, permissions)
        async with place.login(Credentials(key, jwt), SUBJECTS.role_inbox("operator", "ann")) as thief:
            with pytest.raises(LogUnavailable):
                await PolicyLog(thief, SUBJECTS).ensure()
        user = User("thief", key.public, permissions)
        forged = user_jwt(place.accounts.signing, place.accounts.logs.public, user, time.time())
        with pytest.raises(Denied, match="BM3002"):
            async with place.login(Credentials(key, forged), SUBJECTS.role_inbox("operator", "ann")):
                pass

    asyncio.run(main())
