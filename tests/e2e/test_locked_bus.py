"""A stolen login on a locked bus is good for its own instance; all else the server refuses, and says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from busmesh.bus.bus import Bus
from busmesh.bus.jwt import claims_of
from busmesh.bus.login import Credentials, Login
from busmesh.bus.options import BusOptions
from busmesh.errors import Denied
from busmesh.identity.store import Home, operator_login, read_join_ticket
from busmesh.names import Subjects
from tests.e2e.test_split import VIRTUAL_SERVICE
from tests.support.bus import NatsServer
from tests.support.client import Caller, Result, at_rate
from tests.support.mesh import Instance, Mesh, eventually

ROOT = "busmesh.local"
STREAM = "BUSMESH_local_POLICY"
TRUST_STREAM = "BUSMESH_local_TRUST"

#: What an agent of orders called orders-0 has no business with: publishing ...
FOREIGN_PUBLISHES = [
    # ... as another instance of its own service, or of another one
    f"{ROOT}.member.default.orders.orders-1",
    f"{ROOT}.member.default.shopper.shopper-0",
    f"{ROOT}.member.default.shopper.orders-0",
    f"{ROOT}.policy.ack.default.shopper.shopper-0",
    f"{ROOT}.policy.dryreport.default.shopper.shopper-0",
    f"{ROOT}.limits.default.orders.orders-1",
    f"{ROOT}.limits.default.shopper.orders-0",
    f"{ROOT}.evidence.default.orders.shopper-0",
    f"{ROOT}.telemetry.metrics.default.shopper.shopper-0",
    f"{ROOT}.telemetry.access.default.orders.orders-1",
    # ... answers in another's place, or that the bus says nobody took
    f"{ROOT}.reply.shopper-0.0.orders-1",
    f"{ROOT}.reply.shopper-0.0._17",
    f"{ROOT}.reply.shopper-0.1.orders-1",
    f"{ROOT}.reply.shopper-0.1._17",
    f"{ROOT}.reply.shopper-0.0._17.orders-1",
    f"{ROOT}.inbox.shopper-0.0123456789abcdef.0123456789abcdef.orders-1",
    f"{ROOT}.inbox._operator-root.busmesh-1.0123456789abcdef.0123456789abcdef",
    f"{ROOT}.gone.orders-1.1.1",
    f"{ROOT}.inbox.shopper-0.0123456789abcdef",
    f"{ROOT}.inbox._authority-here.0123456789abcdef",
    # ... as operator, authority or newcomer
    f"{ROOT}.policy.revision",
    f"{ROOT}.policy.dryrun",
    f"{ROOT}.trust.drill",
    f"{ROOT}.trust.entry",
    f"{ROOT}.roll",
    f"{ROOT}.authority.enrol",
    f"{ROOT}.authority.attendance",
    # ... to JetStream, its key-value buckets and the server itself
    f"$JS.API.STREAM.INFO.{STREAM}",
    f"$JS.API.STREAM.MSG.GET.{STREAM}",
    f"$JS.API.STREAM.DELETE.{STREAM}",
    f"$JS.API.STREAM.PURGE.{STREAM}",
    f"$JS.API.STREAM.UPDATE.{STREAM}",
    f"$JS.API.STREAM.CREATE.{STREAM}",
    f"$JS.API.STREAM.MSG.DELETE.{STREAM}",
    f"$JS.API.STREAM.SNAPSHOT.{STREAM}",
    f"$JS.API.STREAM.RESTORE.{STREAM}",
    f"$JS.API.CONSUMER.CREATE.{STREAM}",
    f"$JS.API.DIRECT.GET.{STREAM}",
    f"$JS.API.STREAM.CREATE.{TRUST_STREAM}",
    f"$JS.API.STREAM.DELETE.{TRUST_STREAM}",
    f"$JS.API.STREAM.PURGE.{TRUST_STREAM}",
    f"$JS.API.STREAM.UPDATE.{TRUST_STREAM}",
    f"$JS.API.STREAM.MSG.DELETE.{TRUST_STREAM}",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.CREATE.KV_mine",
    "$JS.API.STREAM.INFO.KV_other",
    "$JS.API.STREAM.MSG.GET.KV_other",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.NAMES",
    "$JS.API.INFO",
    "$KV.other.key",
    "$SYS.REQ.SERVER.PING",
    "anything.else",
    # ... in another mesh on the same server
    "busmesh.other.member.default.orders.orders-0",
]

#: ... and hearing.
FOREIGN_SUBSCRIPTIONS = [
    ">",
    "*",
    f"{ROOT}.>",
    f"{ROOT}.*.>",
    f"{ROOT}.relay.shopper-0",
    f"{ROOT}.relay.orders-1",
    f"{ROOT}.relay.*",
    f"{ROOT}.relay.shopper-0.1",
    f"{ROOT}.reply.shopper-0.1.*",
    f"{ROOT}.reply.shopper-0.>",
    f"{ROOT}.reply.*.*.orders-0",
    f"{ROOT}.session.shopper-0",
    f"{ROOT}.gone.shopper-0.*",
    f"{ROOT}.inbox.shopper-0.>",
    f"{ROOT}.inbox.>",
    f"{ROOT}.who.default.shopper",
    f"{ROOT}.limits.default.shopper.*",
    f"{ROOT}.telemetry.>",
    f"{ROOT}.policy.ack.*.*.*",
    f"{ROOT}.policy.dryreport.*.*.*",
    f"{ROOT}.authority.enrol",
    f"{ROOT}.authority.renew",
    f"{ROOT}.authority.attendance",
    "_INBOX.>",
    "$JS.API.>",
    "$JS.EVENT.>",
    "$KV.>",
    "$SYS.>",
]

#: What it needs, all of which it may.
OWN_PUBLISHES = [
    f"{ROOT}.member.default.orders.orders-0",
    f"{ROOT}.policy.ack.default.orders.orders-0",
    f"{ROOT}.policy.dryreport.default.orders.orders-0",
    f"{ROOT}.limits.default.orders.orders-0",
    f"{ROOT}.evidence.default.inventory.orders-0",
    f"{ROOT}.telemetry.metrics.default.orders.orders-0",
    f"{ROOT}.who.default.inventory",
    f"{ROOT}.relay.shopper-0",
    f"{ROOT}.session.shopper-0",
    f"{ROOT}.reply.shopper-0.0.orders-0",
    f"{ROOT}.reply.shopper-0.1.orders-0",
    f"{ROOT}.reply.shopper-0.0._17.orders-0",
    f"{ROOT}.inbox.shopper-0.0123456789abcdef.0123456789abcdef.orders-0",
    f"{ROOT}.inbox._operator-root.busmesh-1.0123456789abcdef.0123456789abcdef.orders-0",
    f"{ROOT}.relay.shopper-0.1",
    f"{ROOT}.authority.renew",
    f"{ROOT}.logs.STREAM.INFO.{STREAM}",
    f"{ROOT}.logs.STREAM.MSG.GET.{STREAM}",
    f"{ROOT}.logs.STREAM.INFO.{TRUST_STREAM}",
    f"{ROOT}.logs.STREAM.MSG.GET.{TRUST_STREAM}",
]
OWN_SUBSCRIPTIONS = [
    f"{ROOT}.inbox.orders-0.>",
    f"{ROOT}.reply.orders-0.0.*",
    f"{ROOT}.reply.orders-0.1.*",
    f"{ROOT}.relay.orders-0.1",
    f"{ROOT}.relay.orders-0",
    f"{ROOT}.session.orders-0",
    f"{ROOT}.gone.orders-0.*",
    f"{ROOT}.who.default.orders",
    f"{ROOT}.member.default.inventory.*",
    f"{ROOT}.member.default.orders.orders-0",
    f"{ROOT}.limits.default.orders.*",
    f"{ROOT}.evidence.default.inventory.*",
    f"{ROOT}.roll",
    f"{ROOT}.policy.revision",
    f"{ROOT}.policy.dryrun",
    f"{ROOT}.trust.entry",
    f"{ROOT}.trust.drill",
]


@dataclass
class Stage:
    """A mesh on a locked bus, and what was stolen of it."""

    mesh: Mesh
    server: NatsServer
    orders: Instance
    shopper: Instance
    stolen: Path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("locked")
    with NatsServer(folder / "bus") as server, Mesh(folder, server, locked=True) as mesh:
        orders = mesh.instance("orders", "orders-0")
        shopper = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        mesh.publish(VIRTUAL_SERVICE, options=("--allow-dangling",))
        mesh.run("identity", "revoke", "spiffe://local/ns/default/svc/orders/i/orders-9")
        stolen = folder / "stolen.creds"
        shutil.copy(mesh.home / "agents" / "orders-0" / "bus.creds", stolen)
        yield Stage(mesh, server, orders, shopper, stolen)


@dataclass
class Rogue:
    """A client by nats-py that keeps what the server says to it. nats-py tells it in small letters."""

    client: Client = field(default_factory=Client)
    errors: list[str] = field(default_factory=list)

    async def heard(self, error: Exception) -> None:
        self.errors.append(str(error).lower())

    async def connect(self, url: str, creds: Path) -> None:
        login = Login(Credentials.parse(await asyncio.to_thread(creds.read_text)))
        await self.client.connect(
            url, error_cb=self.heard, allow_reconnect=False, connect_timeout=5, **login.arguments()
        )

    def denials(self, verb: str) -> set[str]:
        begin = f"permissions violation for {verb} to "
        return {text.partition(begin)[2].split('"')[1] for text in self.errors if begin in text}


@contextlib.asynccontextmanager
async def rogue(url: str, creds: Path) -> AsyncIterator[Rogue]:
    made = Rogue()
    await made.connect(url, creds)
    try:
        yield made
    finally:
        with contextlib.suppress(Error, OSError):
            await made.client.close()


async def settled(client: Client) -> None:
    """Return when the server has answered everything that was sent so far, and its words were heard."""
    for _ in range(2):
        await client.flush(5)
        await asyncio.sleep(0)


def works(stage: Stage) -> bool:
    return client_gets(stage.shopper)


def client_gets(client: Instance) -> bool:
    caller = Caller(client.outbound, "orders")
    try:
        return caller.call("/")[0] == 200
    finally:
        caller.close()


def test_what_is_not_its_own_is_denied(stage: Stage) -> None:
    async def attack() -> tuple[set[str], set[str]]:
        async with rogue(stage.server.url, stage.stolen) as made:
            for subject in FOREIGN_PUBLISHES:
                await made.client.publish(subject, b"junk")
            for subject in FOREIGN_SUBSCRIPTIONS:
                await made.client.subscribe(subject)
            await settled(made.client)
            return made.denials("publish"), made.denials("subscription")

    published, subscribed = asyncio.run(attack())
    assert published == {subject.lower() for subject in FOREIGN_PUBLISHES}
    assert subscribed == {subject.lower() for subject in FOREIGN_SUBSCRIPTIONS}
    assert works(stage)
    assert stage.shopper.page("/policies")["revision"] == 1


# -- both logs ------------------------------------------------------------------------------------------

LOGS = {f"{ROOT}.policy.revision": STREAM, f"{ROOT}.trust.entry": TRUST_STREAM}
READING = [f"STREAM.{verb}.{stream}" for verb in ("INFO", "MSG.GET") for stream in LOGS.values()]


@pytest.fixture
def thieves(stage: Stage, tmp_path: Path) -> dict[str, Path]:
    """Return a stolen login of each role that may not write to the logs, an operator's half one included."""
    observer, newcomer, operator = (tmp_path / f"{who}.creds" for who in ("observer", "newcomer", "operator"))
    stage.mesh.run("bus", "login", "thief", "--file", str(observer), bus=False)
    ticket = read_join_ticket(stage.mesh.home / "join-token")
    assert ticket.credentials is not None
    newcomer.write_text(ticket.credentials.reveal())
    held = operator_login(Home(stage.mesh.home))
    assert held is not None
    operator.write_text(Credentials(held.key, held.jwt).reveal())
    return {"agent": stage.stolen, "observer": observer, "newcomer": newcomer, "operator": operator}


def granted(creds: Path) -> list[str]:
    """Return a subject for each that a login may publish to."""
    nats = claims_of(Credentials.parse(creds.read_text()).jwt)["nats"]
    return [subject.replace("*", "x").replace(">", "x") for subject in nats["pub"]["allow"]]


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("role", ["agent", "observer", "newcomer", "operator"])
def test_no_stolen_login_gets_anything_into_a_log(
    stage: Stage, thieves: dict[str, Path], role: str, log: str
) -> None:
    """Whatever it may publish, by each reply subject and header that has the server publish."""
    creds, before = thieves[role], streams(stage.server)
    assert set(before) == set(LOGS.values()), "the logs are there"
    may = granted(creds)
    asking = [subject for subject in may if subject.endswith(tuple(READING))]
    question = json.dumps({"seq": 1}).encode()

    async def attack() -> tuple[int, Rogue]:
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        async with rogue(stage.server.url, stage.stolen) as witness, rogue(stage.server.url, creds) as thief:
            await witness.client.subscribe(log, cb=hear)
            await settled(witness.client)
            for subject in may:
                await thief.client.publish(subject, question, reply=log)
                await thief.client.publish(subject, question, headers={"Nats-Trace-Dest": log})
                for through in (*asking, "$JS.API.STREAM.CREATE.MINE", "_R_.x", "$JS.ACK.x"):
                    await thief.client.publish(subject, question, reply=through)
            await thief.client.publish(log, b"junk")
            await settled(thief.client)
            for _ in range(500):
                if sum(b"io.nats.jetstream.api" in message.data for message in heard) >= len(asking):
                    break
                await asyncio.sleep(0.01)
            return sum(b"io.nats.jetstream.api" in message.data for message in heard), thief

    answered, thief = asyncio.run(attack())
    if role == "newcomer":
        assert answered == 0
    else:
        assert answered == len(READING), (
            "JetStream answered at the subject of the log, and not in its account"
        )
    assert log in thief.denials("publish")
    assert streams(stage.server) == before
    assert "for nothing" not in stage.mesh.run("policy", "history").stderr


def test_what_an_agent_needs_is_not_denied(stage: Stage) -> None:
    async def use() -> list[str]:
        async with rogue(stage.server.url, stage.stolen) as made:
            for subject in OWN_PUBLISHES:
                await made.client.publish(subject, b"junk")
            for subject in OWN_SUBSCRIPTIONS:
                await made.client.subscribe(subject)
            await settled(made.client)
            return made.errors

    assert asyncio.run(use()) == []


def test_the_agents_themselves_were_denied_nothing(stage: Stage) -> None:
    assert works(stage)
    for process in (stage.orders.agent, stage.shopper.agent, stage.mesh.authority):
        assert "BM3004" not in process.stderr


def test_a_larger_message_and_more_subscriptions_than_are_granted_end_the_connection(stage: Stage) -> None:
    async def ended(frames: Callable[[Client], bytes]) -> bool:
        async with rogue(stage.server.url, stage.stolen) as made:
            # nats-py would not send the former and is slow at the latter, so they go to its transport.
            assert made.client._transport is not None
            made.client._transport.write(frames(made.client))
            for _ in range(500):
                if made.client.is_closed:
                    return True
                await asyncio.sleep(0.01)
            return False

    def too_large(client: Client) -> bytes:
        return f"PUB {OWN_PUBLISHES[0]} {client.max_payload + 1}\r\n".encode()

    def too_many(client: Client) -> bytes:
        return b"".join(b"SUB busmesh.local.inbox.orders-0.%d %d\r\n" % (n, n) for n in range(1, 10_050))

    assert asyncio.run(ended(too_large))
    assert "maximum payload exceeded" in stage.server.log
    assert asyncio.run(ended(too_many))
    assert "maximum subscriptions exceeded" in stage.server.log
    assert works(stage)


def test_a_denial_says_whose_login_which_subject_and_what_to_do(stage: Stage) -> None:
    async def ask() -> tuple[Denied, float]:
        inbox = Subjects().inbox_prefix("orders-0")
        login = Login(Credentials.parse(stage.stolen.read_text()))
        bus = Bus(BusOptions((stage.server.url,), "rogue", inbox, login=login))
        await bus.connect(patience=5)
        begin = time.monotonic()
        try:
            with pytest.raises(Denied) as caught:
                await bus.request(f"$JS.API.STREAM.DELETE.{STREAM}", timeout=5)
            return caught.value, time.monotonic() - begin
        finally:
            await bus.close()

    denied, seconds = asyncio.run(ask())
    assert denied.code == "BM3004"
    assert "spiffe://local/ns/default/svc/orders/i/orders-0" in denied.message
    assert f"$JS.API.STREAM.DELETE.{STREAM}" in denied.message
    assert "--creds" in denied.hint
    assert seconds < 1, "a timeout says nothing; the server said it at once"


def test_a_newcomers_login_can_ask_to_be_enrolled_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    ticket = read_join_ticket(stage.mesh.home / "join-token")
    assert ticket.credentials is not None
    creds = tmp_path / "join.creds"
    creds.write_text(ticket.credentials.reveal())
    own = f"{Subjects().role_inbox('join', ticket.token.id)}.1"
    publishes = [s for s in (*FOREIGN_PUBLISHES, *OWN_PUBLISHES) if not s.endswith("authority.enrol")]
    subscriptions = [*FOREIGN_SUBSCRIPTIONS, *OWN_SUBSCRIPTIONS]

    async def attack() -> Rogue:
        async with rogue(stage.server.url, creds) as made:
            await made.client.subscribe(own)
            await made.client.publish(f"{ROOT}.authority.enrol", b"junk", reply=own)
            for subject in publishes:
                await made.client.publish(subject, b"junk")
            await settled(made.client)
            # Its four subscriptions would be used up by the first of them.
            for begin in range(0, len(subscriptions), 3):
                async with rogue(stage.server.url, creds) as other:
                    for subject in subscriptions[begin : begin + 3]:
                        await other.client.subscribe(subject)
                    await settled(other.client)
                    made.errors += other.errors
            return made

    made = asyncio.run(attack())
    assert made.denials("publish") == {subject.lower() for subject in publishes}
    assert made.denials("subscription") == {subject.lower() for subject in subscriptions}


def test_a_newcomer_joins_with_nothing_but_its_token(stage: Stage, tmp_path: Path) -> None:
    token, home = tmp_path / "join-token", tmp_path / "elsewhere"
    shutil.copy(stage.mesh.home / "join-token", token)
    addresses = ("--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstreams", "orders")
    process = stage.mesh._process(
        *(
            "agent",
            "run",
            "--service",
            "visitor",
            "--instance",
            "visitor-0",
            "--join",
            str(token),
            *addresses,
        ),
        home=home,
    )
    caller = Caller(process.ready()["outbound"], "orders")
    assert caller.call("/")[0] == 200
    caller.close()
    assert process.terminate() == 0


def test_nobody_gets_the_name_that_another_service_has(stage: Stage, tmp_path: Path) -> None:
    addresses = ("--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--bus", stage.server.url)
    token = str(stage.mesh.home / "join-token")
    process = stage.mesh._process(
        *("agent", "run", "--service", "thief", "--instance", "orders-0", "--join", token, *addresses),
        home=tmp_path / "thief",
    )
    eventually(lambda: "another service has an instance of this name" in process.stderr, "it is refused")
    assert works(stage)


async def come_back(url: str, creds: str) -> None:
    login = Login(Credentials.parse(creds))
    bus = Bus(BusOptions((url,), "rogue", Subjects().inbox_prefix("orders-0"), login=login))
    try:
        await bus.connect(patience=5)
    finally:
        await bus.close()


LIFETIME_S = 8


async def load_while_logins_end(client: Instance, seconds: float) -> list[Result]:
    return await at_rate(client.outbound, "orders", rate=100.0, count=int(seconds * 100))


def expires(mesh: Mesh, instance: str) -> float:
    held = Credentials.parse((mesh.home / "agents" / instance / "bus.creds").read_text())
    assert held.expires is not None
    return held.expires


def test_logins_are_renewed_under_load_and_an_expired_one_is_refused(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    lifetime = ("--svid-lifetime", f"{LIFETIME_S}s")
    with Mesh(tmp_path, nats_server, locked=True, authority=lifetime) as mesh:
        instances = [mesh.instance("orders", f"orders-{number}") for number in range(2)]
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        names = [*(instance.name for instance in instances), client.name]
        before = {name: expires(mesh, name) for name in names}
        stolen = tmp_path / "stolen.creds"
        shutil.copy(mesh.home / "agents" / "orders-0" / "bus.creds", stolen)

        async def held_open() -> tuple[list[Result], Rogue]:
            async with rogue(nats_server.url, stolen) as made:
                results = await load_while_logins_end(client, 2.5 * LIFETIME_S)
                assert made.client.is_closed, "the server cuts off who stays after the end"
                return results, made

        results, _ = asyncio.run(held_open())
        assert [result for result in results if result.status != 200] == []
        assert {result.by for result in results} == {"orders-0", "orders-1"}
        for name in names:
            assert expires(mesh, name) >= before[name] + LIFETIME_S, f"{name} renewed twice at least"

        with pytest.raises(Denied, match="BM3002"):
            asyncio.run(come_back(nats_server.url, stolen.read_text()))


def test_who_was_away_when_its_login_ended_joins_anew(tmp_path: Path, nats_server: NatsServer) -> None:
    """The authority is away until SVIDs and logins have ended, so that the bus lets nobody in."""
    lifetime = ("--svid-lifetime", f"{LIFETIME_S}s")
    with Mesh(tmp_path, nats_server, locked=True, authority=lifetime) as mesh:
        orders = mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        assert mesh.authority.terminate() == 0
        ended = max(expires(mesh, name) for name in (orders.name, client.name))
        eventually(lambda: time.time() > ended + 1, "the logins have ended", timeout=2 * LIFETIME_S)
        mesh.start_authority()
        eventually(lambda: client_gets(client), "both are back", timeout=20)
        for name in (orders.name, client.name):
            assert expires(mesh, name) > ended


def test_trust_is_rotated_drilled_and_revoked_on_a_locked_bus(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        orders = mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        before = expires(mesh, orders.name)
        for command in (
            ("drill",),
            ("rotate",),
            ("revoke", "spiffe://local/ns/default/svc/orders/i/orders-0"),
        ):
            done = mesh.run("identity", *command)
            assert "BM3004" not in done.stderr
        assert client.page("/certs")["trust"]["version"] == 4
        assert expires(mesh, orders.name) >= before
        caller = Caller(client.outbound, "orders")
        assert caller.call("/")[0] != 200
        caller.close()
        for process in (orders.agent, client.agent, mesh.authority):
            assert "BM3004" not in process.stderr


def streams(bus: NatsServer) -> dict[str, int]:
    """Return how many entries each stream of the mesh has."""
    found = {}
    for account in bus.monitor("jsz?accounts=true&streams=true").get("account_details", []):
        for stream in account.get("stream_detail", []):
            found[stream["name"]] = stream["state"]["messages"]
    return found


def test_policies_and_revocations_are_both_kept_and_given_back_by_the_authority(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        mesh.instance("orders", "orders-0")
        mesh.publish(VIRTUAL_SERVICE, options=("--allow-dangling",))
        done = mesh.run("identity", "revoke", "spiffe://local/ns/default/svc/orders/i/orders-9")
        assert "maximum number of streams" not in done.stderr
        assert streams(nats_server) == {STREAM: 1, TRUST_STREAM: 1}
        nats_server.restart(keep_store=False)
        eventually(lambda: streams(nats_server) == {STREAM: 1, TRUST_STREAM: 1}, "both are back", timeout=40)
