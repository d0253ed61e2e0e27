"""``busmesh up`` and ``busmesh authority run`` as processes: joined, stopped, killed, in each other's way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from busmesh.bus.bus import Bus
from busmesh.bus.login import Credentials, Login
from busmesh.bus.nkeys import KeyPair, Role
from busmesh.bus.options import BusOptions
from busmesh.errors import BusUnavailable, Denied
from busmesh.identity.enrol import Enrolment, Membership
from busmesh.identity.jointoken import JoinToken
from busmesh.identity.renew import Renewal
from busmesh.identity.store import Home, read_join_ticket
from busmesh.identity.svid import Svid, new_key
from busmesh.identity.ticket import JoinTicket
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier
from busmesh.names import ServiceName, SpiffeId, Subjects
from tests.support.bus import NatsServer
from tests.support.ports import free_port
from tests.support.processes import Process

Start = Callable[..., Process]
SUBJECTS = Subjects("local")
ORDERS = SpiffeId.workload("local", ServiceName("orders"), "orders-0")


def join(bus_url: str, ticket: JoinTicket, *, patience: float = 10.0) -> tuple[Svid, TrustBundle]:
    """Enrol over the bus, renew at once, return the result; wait ``patience`` seconds for an authority."""
    key = KeyPair.generate(Role.USER)

    def bus_of(inbox: str, credentials: Credentials | None) -> Bus:
        return Bus(BusOptions((bus_url,), "newcomer", inbox, login=Login(credentials)))

    async def ask(bus: Bus, subject: str, question: Callable[[], Enrolment | Renewal]) -> tuple[Any, bytes]:
        await bus.connect(patience=patience)
        async with asyncio.timeout(patience):
            while True:
                with contextlib.suppress(BusUnavailable):
                    asked = question()
                    return asked, (await bus.request(subject, asked.request(), timeout=2)).payload
                await asyncio.sleep(0.05)

    async def main() -> tuple[Svid, TrustBundle]:
        newcomer = bus_of(SUBJECTS.role_inbox("join", ticket.token.id), ticket.credentials)
        member = bus_of(SUBJECTS.inbox_prefix("orders-0"), None)
        try:
            enrolment, answer = await ask(
                newcomer,
                SUBJECTS.enrol,
                lambda: Enrolment(ticket.token, ORDERS, new_key(), time.time(), bus_key=key),
            )
            svid, bundle, login = enrolment.finish(answer, time.time())
            assert member.options.login is not None
            member.options.login.use(Credentials(key, login))
            renewal, answer = await ask(member, SUBJECTS.renew, lambda: Renewal(svid, new_key(), time.time()))
            renewed: Membership = renewal.finish(answer, Verifier(bundle), time.time())
            return renewed.svid, renewed.bundle
        finally:
            await newcomer.close()
            await member.close()

    return asyncio.run(main())


def processes_about(path: Path) -> dict[int, str]:
    """Return the processes that name ``path`` in their command line, and the guards of those."""
    commands = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    about = {pid: command for pid, command in commands.items() if str(path) in command}
    guards = {
        pid: command
        for pid, command in commands.items()
        if any(command.endswith(f"busmesh-guard {served} ") for served in about)
    }
    return about | guards


def wait_until(holds: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")


def test_up_says_where_everything_is_and_lets_a_newcomer_in(busmesh: Start, busmesh_home: Path) -> None:
    up = busmesh("up", "--port", "0")
    ready = up.ready()
    assert ready == {
        "event": "ready",
        "bus": ready["bus"],
        "mesh": "local",
        "home": str(busmesh_home),
        "join_token_file": str(busmesh_home / "join-token"),
    }
    assert len(up.stdout) == 1
    svid, bundle = join(ready["bus"], read_join_ticket(Path(ready["join_token_file"])))
    assert svid.id == ORDERS
    assert bundle == Home(busmesh_home).trust("local")
    assert Home(busmesh_home).context().bus == ready["bus"]


def test_who_has_no_login_or_a_wrong_token_is_not_let_onto_the_bus(
    busmesh: Start, busmesh_home: Path
) -> None:
    ready = busmesh("up", "--port", "0").ready()
    ticket = Home(busmesh_home).join_ticket()
    guessed = replace(ticket, token=JoinToken("local", ticket.token.id, bytes(32)))
    for wrong in (JoinTicket(ticket.token), guessed):
        with pytest.raises(Denied) as caught:
            join(ready["bus"], wrong)
        assert caught.value.code == "BM3002"
        assert "--join" in caught.value.hint


def test_svids_live_as_long_as_was_asked_for(busmesh: Start, busmesh_home: Path) -> None:
    ready = busmesh("up", "--port", "0", "--svid-lifetime", "2m").ready()
    svid, _ = join(ready["bus"], Home(busmesh_home).join_ticket())
    assert 110 < svid.not_after - time.time() <= 120


def test_every_file_is_0600_and_every_folder_0700(busmesh: Start, tmp_path: Path) -> None:
    home = tmp_path / "made" / "anew"
    before = os.umask(0o022)
    try:
        busmesh("up", "--port", "0", home=home).ready()
    finally:
        os.umask(before)
    paths = [home, *home.rglob("*")]
    assert len(paths) > 12
    # What nats-server itself writes lies in folders that nobody else can enter.
    own = [path for path in paths if path.suffix != ".ports" and "jetstream" not in path.parts]
    wrong = {
        str(p): oct(p.stat().st_mode) for p in own if stat.S_IMODE(p.stat().st_mode) not in (0o600, 0o700)
    }
    assert wrong == {}


def test_everything_is_kept_for_the_next_up(busmesh: Start, busmesh_home: Path) -> None:
    first = busmesh("up", "--port", "0")
    ready = first.ready()
    token = Home(busmesh_home).join_ticket()
    _, bundle = join(ready["bus"], token)
    operators = Home(busmesh_home).operators()
    assert first.terminate() == 0
    second = busmesh("up", "--port", ready["bus"].rpartition(":")[2]).ready()
    assert second["bus"] == ready["bus"]
    _, again = join(second["bus"], token)
    assert again == bundle
    assert Home(busmesh_home).operators() == operators


def test_the_context_follows_the_bus(busmesh: Start, busmesh_home: Path) -> None:
    urls = []
    for _ in range(2):
        up = busmesh("up", "--port", "0")
        urls.append(up.ready()["bus"])
        assert Home(busmesh_home).context().bus == urls[-1]
        assert up.terminate() == 0
    assert urls[0] != urls[1]


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_0_and_leaves_nothing_behind(
    busmesh: Start, busmesh_home: Path, number: int
) -> None:
    up = busmesh("up", "--port", "0")
    up.ready()
    assert len(processes_about(busmesh_home)) == 2  # the server and its guard
    up.signal(number)
    assert up.wait() == 0
    assert processes_about(busmesh_home) == {}


@needs_proc
def test_killed_it_leaves_nothing_behind_and_the_next_up_starts(busmesh: Start, busmesh_home: Path) -> None:
    up = busmesh("up", "--port", "0")
    port = up.ready()["bus"].rpartition(":")[2]
    up.kill()
    ready = busmesh("up", "--port", port).ready()
    join(ready["bus"], Home(busmesh_home).join_ticket())
    up = busmesh("up", "--port", "0", home=busmesh_home.with_name("other"))
    up.ready()
    up.kill()
    wait_until(lambda: not processes_about(busmesh_home.with_name("other")))


@needs_proc
def test_a_second_signal_ends_it_at_once(busmesh: Start, busmesh_home: Path) -> None:
    up = busmesh("up", "--port", "0")
    up.ready()
    server = next(pid for pid, command in processes_about(busmesh_home).items() if "nats-server" in command)
    os.kill(server, signal.SIGSTOP)  # so that the first one takes its time
    os.kill(server, 0)
    up.signal(signal.SIGTERM)
    wait_until(lambda: "SIGTERM: stopping" in up.stderr)
    began = time.monotonic()
    up.signal(signal.SIGTERM)
    assert up.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 4  # a patient stop gives the server 5 s
    os.kill(server, signal.SIGCONT)
    wait_until(lambda: not processes_about(busmesh_home))


def test_the_bus_comes_back_when_it_dies(busmesh: Start, busmesh_home: Path) -> None:
    ready = busmesh("up", "--port", "0").ready()
    ports = next((busmesh_home / "bus").glob("nats-server_*.ports"))
    os.kill(int(ports.stem.removeprefix("nats-server_")), signal.SIGKILL)
    svid, _ = join(ready["bus"], Home(busmesh_home).join_ticket(), patience=20)
    assert svid.id == ORDERS


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_taken_port_is_named(busmesh: Start, taken_port: int) -> None:
    up = busmesh("up", "--port", str(taken_port))
    assert up.wait() == 1
    assert f"error: BM3202 port {taken_port} of 127.0.0.1 cannot be had: " in up.stderr
    assert "  -> choose another with --port" in up.stderr
    assert up.stdout == []


def test_a_second_up_on_the_same_port_says_how_to_go_on(
    busmesh: Start, busmesh_home: Path, tmp_path: Path
) -> None:
    url = busmesh("up", "--port", "0").ready()["bus"]
    second = busmesh("up", "--port", url.rpartition(":")[2], home=tmp_path / "other")
    assert second.wait() == 1
    assert "error: BM3203 a NATS server answers at port" in second.stderr
    assert f"  -> use it: busmesh authority run --bus {url}\n" in second.stderr
    assert "--port 0" in second.stderr
    join(url, Home(busmesh_home).join_ticket())


def test_a_second_up_in_the_same_home_is_refused(busmesh: Start, busmesh_home: Path) -> None:
    url = busmesh("up", "--port", "0").ready()["bus"]
    second = busmesh("up", "--port", "0")
    assert second.wait() == 1
    assert "error: BM3205 another bus uses" in second.stderr
    assert Home(busmesh_home).context().bus == url


def test_a_home_of_another_mesh_is_refused(busmesh: Start) -> None:
    first = busmesh("up", "--port", "0")
    first.ready()
    first.terminate()
    second = busmesh("up", "--port", "0", "--mesh", "other")
    assert second.wait() == 2
    assert "error: BM4601" in second.stderr


def test_a_home_that_others_can_read_is_refused(busmesh: Start, busmesh_home: Path) -> None:
    busmesh_home.chmod(0o755)
    up = busmesh("up", "--port", "0")
    assert up.wait() == 4
    assert f"  -> chmod 700 {busmesh_home}\n" in up.stderr


# -- authority run ---------------------------------------------------------------------------------


def test_the_authority_alone_founds_a_mesh_on_a_bus_of_yours(
    busmesh: Start, busmesh_home: Path, nats_server: NatsServer
) -> None:
    authority = busmesh("authority", "run", "--bus", nats_server.url, "--operator", "ada")
    ready = authority.ready()
    assert (ready["event"], ready["mesh"], ready["bus"]) == ("ready", "local", nats_server.url)
    home = Home(busmesh_home)
    assert home.operators() == ["ada"]
    assert (home.context().bus, home.context().mesh) == (nats_server.url, "local")
    join(nats_server.url, read_join_ticket(Path(ready["join_token_file"])))
    assert authority.terminate() == 0


def test_the_authority_takes_a_root_from_elsewhere_or_makes_none(
    busmesh: Start, busmesh_home: Path, nats_server: NatsServer
) -> None:
    authority = busmesh("authority", "run", "--bus", nats_server.url, "--no-create")
    assert authority.wait() == 6
    assert "root.key does not exist" in authority.stderr
    assert [*busmesh_home.iterdir()] == []


def test_the_authority_waits_for_a_bus_and_can_be_stopped_meanwhile(busmesh: Start) -> None:
    authority = busmesh("authority", "run", "--bus", f"nats://127.0.0.1:{free_port()}")
    wait_until(lambda: "no answer from the bus" in authority.stderr)
    assert authority.terminate() == 0
    assert authority.stdout == []


def test_sighup_reads_grants_again_and_ends_nothing(
    busmesh: Start, busmesh_home: Path, nats_server: NatsServer
) -> None:
    authority = busmesh("authority", "run", "--bus", nats_server.url)
    authority.ready()
    authority.signal(signal.SIGHUP)
    join(nats_server.url, Home(busmesh_home).join_ticket())
    assert authority.running


def test_a_refused_login_is_4(busmesh: Start, tmp_path: Path) -> None:
    with NatsServer(tmp_path / "locked", config="authorization { token: secret }") as server:
        authority = busmesh("authority", "run", "--bus", server.url)
        assert authority.wait() == 4
        assert "error: BM3002" in authority.stderr


def test_no_secret_is_logged(busmesh: Start, busmesh_home: Path, nats_server: NatsServer) -> None:
    url = nats_server.url.replace("nats://", "nats://ada:hunter2@")
    authority = busmesh("authority", "run", "--bus", url, "--log-level", "debug")
    ready = authority.ready()
    join(nats_server.url, Home(busmesh_home).join_ticket())
    authority.terminate()
    said = authority.stderr + "\n".join(authority.stdout)
    assert ready["bus"] == nats_server.url.replace("nats://", "nats://***@")
    assert "enrol: granted to spiffe://local/ns/default/svc/orders/i/orders-0" in said
    assert "hunter2" not in said
    assert Home(busmesh_home).join_token().reveal().rpartition(".")[2] not in said
