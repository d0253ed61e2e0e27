"""Who was revoked is cut off from a locked bus and not let in again, and nobody else notices."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from busmesh.bus.jwt import claims_of
from busmesh.bus.login import Credentials
from busmesh.errors import Denied
from busmesh.identity.store import Home, read_join_ticket
from tests.e2e.test_locked_bus import come_back, rogue
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.client import Caller, at_rate
from tests.support.mesh import Instance, Mesh, eventually

SERVICE = "spiffe://local/ns/default/svc/orders"
VICTIM = f"{SERVICE}/i/orders-0"
#: From the moment that the command is given.
CUT_S = 2.0


def connections(bus: NatsServer) -> dict[str, list[int]]:
    """Return the numbers that the server has given to the connections of each login."""
    found: dict[str, list[int]] = {}
    for each in bus.monitor("connz?auth=1")["connections"]:
        if "jwt" in each:  # else it has not said yet whose it is
            found.setdefault(claims_of(each["jwt"])["name"], []).append(each["cid"])
    return found


def settled_connections(bus: NatsServer) -> dict[str, list[int]]:
    """Return the same when the authority has all of its own."""

    def authoritys() -> list[int]:
        return next((found for name, found in connections(bus).items() if name.startswith("authority ")), [])

    eventually(lambda: len(authoritys()) == 3, "the authority has told the bus of its accounts")
    return connections(bus)


def stolen(mesh: Mesh, instance: str) -> Path:
    """Return a copy of an instance's login."""
    copy = mesh.directory / f"stolen-{instance}.creds"
    shutil.copy(mesh.home / "agents" / instance / "bus.creds", copy)
    return copy


def let_in(bus: NatsServer, creds: Path) -> bool:
    try:
        asyncio.run(come_back(bus.url, creds.read_text()))
    except Denied:
        return False
    return True


@contextmanager
def held_open(bus: NatsServer, creds: Path) -> Iterator[list[float]]:
    """Keep a connection by a stolen login; yield where its end will stand, in monotonic seconds."""
    ended: list[float] = []
    stands, stop = threading.Event(), threading.Event()

    async def hold() -> None:
        async with rogue(bus.url, creds) as made:
            stands.set()
            while not stop.is_set():
                if made.client.is_closed:
                    ended.append(time.monotonic())
                    return
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert stands.wait(10)
        yield ended
    finally:
        stop.set()
        thread.join(10)


def test_who_was_revoked_is_cut_off_and_nobody_else(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        mesh.instance("orders", "orders-0")
        mesh.instance("orders", "orders-1")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        thief, other = stolen(mesh, "orders-0"), stolen(mesh, "orders-1")
        assert let_in(nats_server, thief)
        before = settled_connections(nats_server)
        assert VICTIM in before
        said: list[str] = []
        began: list[float] = []

        def revoke() -> None:
            began.append(time.monotonic())
            said.append(mesh.run("identity", "revoke", VICTIM, "--reason", "key leaked").stdout)

        async def load() -> list[int]:
            timer = threading.Timer(0.5, revoke)
            timer.start()
            statuses = []
            while timer.is_alive():
                statuses += await at_rate(client.outbound, "orders", rate=100, count=50)
            statuses += await at_rate(client.outbound, "orders", rate=100, count=100)
            return [result.status for result in statuses]

        with held_open(nats_server, thief) as ended:
            statuses = asyncio.run(load())
        assert set(statuses) == {200}
        assert "cut off from the bus, which refuses 1 login" in said[0]
        # The command itself takes a moment to start.
        assert ended
        assert ended[0] - began[0] < bar(CUT_S)
        after = connections(nats_server)
        assert VICTIM not in after
        del before[VICTIM]
        assert {name: after[name] for name in before} == before, "the very connections of before"
        assert not let_in(nats_server, thief)
        assert let_in(nats_server, other)

        # Neither the server nor the authority forgets it: each is alone here.
        assert mesh.authority.terminate() == 0
        nats_server.restart()
        assert not let_in(nats_server, thief)
        assert let_in(nats_server, other)
        nats_server.kill()
        shutil.rmtree(mesh.home / "bus" / "accounts")
        nats_server.start()
        assert let_in(nats_server, thief), "else the next proves nothing"
        mesh.start_authority()
        eventually(lambda: not let_in(nats_server, thief), "the authority has told the bus anew")
        assert let_in(nats_server, other)


def test_an_operator_is_cut_off(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        agent = mesh.agent("shopper", "shopper-0")
        mesh.run("identity", "issue", "zoe")
        creds = tmp_path / "zoe.creds"
        shutil.copy(mesh.home / "operator" / "zoe.creds", creds)
        assert let_in(nats_server, creds)
        with held_open(nats_server, creds) as ended:
            done = mesh.run("identity", "revoke", "spiffe://local/operator/zoe")
            eventually(lambda: bool(ended), "it is cut off", bar(CUT_S))
        assert "cut off from the bus, which refuses 1 login" in done.stdout
        assert not let_in(nats_server, creds)
        eventually(lambda: "zoe" not in Home(mesh.home).logins("operator"), "its login is not kept")
        assert mesh.run("identity", "show").returncode == 0, "another operator's login is shown"
        assert agent.page("/readyz")["ready"] is True


def test_a_newcomer_whose_token_is_taken_away(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        agent = mesh.agent("shopper", "shopper-0")
        ticket = read_join_ticket(mesh.home / "join-token")
        assert ticket.credentials is not None
        creds = tmp_path / "newcomer.creds"
        creds.write_text(ticket.credentials.reveal())
        before = settled_connections(nats_server)
        with held_open(nats_server, creds) as ended:
            mesh.run("identity", "token", "delete", ticket.token.id, bus=False)
            eventually(lambda: bool(ended), "it is cut off", bar(CUT_S))
        assert not let_in(nats_server, creds)
        after = connections(nats_server)
        assert after == before, "who has joined by it stays"
        assert agent.page("/readyz")["ready"] is True


def test_an_instance_that_was_revoked_joins_anew(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        first = mesh.agent("shopper", "shopper-0")
        serial = first.page("/certs")["serial"]
        mesh.run("identity", "revoke", serial)
        eventually(lambda: first.page("/readyz")["ready"] is False, "it knows")
        eventually(lambda: "bus" in first.page("/readyz")["awaited"], "it is cut off")
        held = Credentials.parse((mesh.home / "agents" / "shopper-0" / "bus.creds").read_text())
        first.agent.terminate()
        again = mesh.agent("shopper", "shopper-0")
        assert again.page("/certs")["serial"] != serial
        now = Credentials.parse((mesh.home / "agents" / "shopper-0" / "bus.creds").read_text())
        assert now.key.public != held.key.public
        assert again.page("/readyz")["ready"] is True


def test_without_an_authority_the_operator_hears_that_nobody_is_cut_off(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        mesh.instance("orders", "orders-0")
        thief = stolen(mesh, "orders-0")
        assert mesh.authority.terminate() == 0
        done = mesh.run("identity", "revoke", VICTIM, "--wait", "2s", check=False)
        assert done.returncode == 1
        assert "no authority answered" in done.stderr
        assert let_in(nats_server, thief)
        mesh.start_authority()
        eventually(lambda: not let_in(nats_server, thief), "the authority makes up for it", bar(CUT_S))
        assert VICTIM not in connections(nats_server)


def test_an_operator_that_revokes_itself_is_told_so(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        (name,) = Home(mesh.home).operators()
        own = f"spiffe://local/operator/{name}"
        done = mesh.run("identity", "revoke", own, check=False)
        assert f"revoked {own}" in done.stdout + done.stderr
        eventually(lambda: not Home(mesh.home).logins("operator"), "its login is not kept")
        refused = mesh.run("identity", "show", check=False)
        assert "BM3002" in refused.stderr
        mesh.run("identity", "issue", "next", bus=False)
        assert mesh.run("identity", "show").returncode == 0


def test_each_authority_takes_back_what_it_has_signed(tmp_path: Path, nats_server: NatsServer) -> None:
    second_home = tmp_path / "second"
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        first = mesh.authority
        mesh.instance("orders", "orders-1")
        shutil.copytree(mesh.home, second_home)
        assert first.terminate() == 0
        mesh.start_authority("--name", "second", home=second_home)
        mesh.instance("orders", "orders-0")
        mesh.start_authority("--name", "first")
        by_second, by_first = stolen(mesh, "orders-0"), stolen(mesh, "orders-1")
        done = mesh.run("identity", "revoke", SERVICE)
        assert "cut off from the bus" in done.stdout
        for creds in (by_first, by_second):
            eventually(lambda c=creds: not let_in(nats_server, c), "both are known", bar(CUT_S))  # type: ignore[misc]
        mesh.authority.terminate()
        mesh.start_authority("--name", "first")
        time.sleep(1)  # it has looked at what the bus knows, and taken nothing out
        assert not let_in(nats_server, by_first)
        assert not let_in(nats_server, by_second)


def test_an_open_bus_has_nobody_to_cut_off(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        mesh.instance("orders", "orders-0")
        done = mesh.run("identity", "revoke", VICTIM)
        assert "asks nobody for a login" in done.stdout


#: In 12 s: what changes is told once, and what lasts at 5, 15 and 35 s.
MOST_LINES = 8


def lines(instance: Instance) -> int:
    return instance.agent.stderr.count("\n")


@pytest.mark.parametrize("locked", [False, True], ids=["open", "locked"])
def test_a_revocation_is_no_reason_to_write_without_end(
    tmp_path: Path, nats_server: NatsServer, locked: bool
) -> None:
    with Mesh(tmp_path, nats_server, locked=locked) as mesh:
        loud = ("--log-level", "info")
        victim = mesh.instance("orders", "orders-0", "--upstreams", "shopper", *loud)
        client = mesh.instance("shopper", "shopper-0", "--upstreams", "orders", *loud)
        mesh.run("identity", "revoke", VICTIM)
        eventually(lambda: victim.page("/readyz")["ready"] is False, "it knows")
        before = {one.name: lines(one) for one in (victim, client)}
        until = time.monotonic() + 12
        while time.monotonic() < until:
            for one, upstream in ((victim, "shopper"), (client, "orders")):
                caller = Caller(one.outbound, upstream)
                assert caller.call("/")[0] in (503, 504)
                caller.close()
            time.sleep(0.5)
        said = {one.name: lines(one) - before[one.name] for one in (victim, client)}
        assert max(said.values()) <= MOST_LINES, (said, victim.agent.stderr, client.agent.stderr)


def test_who_calls_it_hears_why_nobody_answers(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")

        def said() -> str:
            caller = Caller(client.outbound, "orders")
            try:
                status, body, _ = caller.call("/")
                return f"{status} {body}"
            finally:
                caller.close()

        assert said().startswith("200")
        mesh.run("identity", "revoke", VICTIM)
        assert "revoked" in said()
        time.sleep(6)  # it has been forgotten by now, as it announces itself no more
        assert "orders-0 was revoked" in said()
