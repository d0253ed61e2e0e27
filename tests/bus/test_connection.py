"""The connection outlives frozen servers, dead links, restarts, late starts and revoked logins."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from random import Random
from urllib.parse import urlparse

import pytest
from nats.aio.client import Server

from busmesh.bus.bus import Bus
from busmesh.bus.client import Client
from busmesh.errors import BusUnavailable, Denied, UsageError
from tests.bus.conftest import Run
from tests.bus.rig import Inbox, Proxy, RawClient, congest, connected, options, until
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.ports import free_port

#: A watchdog that is asleep when the server freezes still has to notice within this (goal R10).
NOTICED_S = 3.0


def test_a_frozen_server_is_noticed_and_used_again_when_it_goes_on(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        changes: list[bool] = []
        async with connected(nats_server.url) as bus:
            bus.on_connection(changes.append)
            await bus.subscribe("a", inbox)
            await bus.round_trip()
            nats_server.freeze()
            try:
                assert await until(lambda: not bus.connected) <= bar(NOTICED_S)
                with pytest.raises(BusUnavailable):
                    bus.publish("a", b"stale")
            finally:
                nats_server.thaw()
            assert await until(lambda: bus.connected, 5) < bar(3)
            bus.publish("a", b"fresh")
            await until(lambda: inbox.payloads == [b"fresh"])
            assert changes == [False, True]

    run(main())


def test_the_watchdog_notices_however_badly_the_freeze_is_timed(
    nats_server: NatsServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment is right after a round trip succeeded."""

    async def main() -> None:
        async with connected(nats_server.url) as bus:
            client = bus._client
            assert client is not None
            rtt, proven = client.rtt, asyncio.Event()

            async def watched(timeout: float) -> float:
                seconds = await rtt(timeout)
                proven.set()
                return seconds

            monkeypatch.setattr(client, "rtt", watched)
            await asyncio.wait_for(proven.wait(), 3)
            nats_server.freeze()
            try:
                assert await until(lambda: not bus.connected) <= bar(NOTICED_S)
            finally:
                nats_server.thaw()

    run(main())


def test_a_half_open_link_is_noticed_and_replaced(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with Proxy(nats_server) as proxy, connected(proxy.url) as bus:
            await bus.subscribe("a", inbox)
            await bus.round_trip()
            proxy.stall()
            assert await until(lambda: not bus.connected) <= bar(NOTICED_S)
            with pytest.raises(BusUnavailable):
                bus.publish("a", b"stale")
            proxy.heal()
            await until(lambda: bus.connected, 5)
            bus.publish("a", b"fresh")
            await until(lambda: inbox.payloads == [b"fresh"])

    run(main())


def test_connecting_to_a_server_that_hangs_piles_up_no_sockets(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with Proxy(nats_server) as proxy, connected(proxy.url) as bus:
            proxy.stall()
            await until(lambda: proxy.accepted >= 3, 15)
            sockets = [fd for fd in _sockets() if fd.endswith(f":{proxy.url.rpartition(':')[2]}")]
            assert len(sockets) <= 1
            proxy.heal()
            await until(lambda: bus.connected, 5)

    def _sockets() -> list[str]:
        found = []
        inodes = set()
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{fd}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes:
                host, _, port = words[2].partition(":")
                found.append(f"{host}:{int(port, 16)}")
        return found

    if not Path("/proc/self/net/tcp").exists():
        pytest.skip("counts sockets in /proc")
    run(main())


def test_after_a_kill_it_is_connected_again_within_a_second_ten_times_in_a_row(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe("a", inbox)
            for cycle in range(10):
                nats_server.kill()
                await until(lambda: not bus.connected)
                await asyncio.sleep(cycle % 3 * 0.1)  # the server comes back at another point of the back-off
                await asyncio.to_thread(nats_server.restart, keep_store=False)
                assert await until(lambda: bus.connected) <= bar(1.0)
                bus.publish("a", b"%d" % cycle)
                await until(lambda: inbox.payloads[-1:] == [b"%d" % cycle])  # noqa: B023 - awaited here
            assert bus.statistics()["reconnects"] == 10

    run(main())


def test_many_clients_do_not_return_at_one_instant(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        returned: list[float] = []
        async with contextlib.AsyncExitStack() as stack:
            buses = [await stack.enter_async_context(connected(nats_server.url, seed=n)) for n in range(20)]
            for bus in buses:
                bus.on_connection(lambda standing: returned.append(time.monotonic()) if standing else None)
            nats_server.kill()
            await until(lambda: not any(bus.connected for bus in buses))
            await asyncio.to_thread(nats_server.restart)
            began = time.monotonic()
            await until(lambda: all(bus.connected for bus in buses))
        assert max(returned) - began <= 1.0
        assert max(returned) - min(returned) > 0.1
        assert max(sum(t <= u < t + 0.02 for u in returned) for t in returned) <= 8

    run(main())


def test_the_next_try_waits_a_random_while_that_is_bounded() -> None:
    bus = Bus(options("nats://127.0.0.1:1"), Random(1))
    for tries in (0, 1, 2, 5, 50, 5000):
        servers = [Server(uri=urlparse("nats://one:1"), reconnects=tries)]
        delays = [bus._next_server(servers, {})[1] for _ in range(200)]
        assert 0.05 <= min(delays) < max(delays) <= 0.5
        assert max(delays) > 2 * min(delays)


def test_whatever_building_a_new_client_raises_it_is_tried_again(
    nats_server: NatsServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            client = bus._client
            assert client is not None
            connect_command = Client._connect_command
            raised: list[int] = []

            def unforeseen(self: Client) -> bytes:
                if len(raised) < 2:
                    raised.append(1)
                    raise ValueError("a seed file of another kind")
                return connect_command(self)

            monkeypatch.setattr(Client, "_connect_command", unforeseen)
            await client.close()  # as after a revoked login
            await until(lambda: bus.connected and bus._client is not client, 5)
            assert len(raised) == 2

    run(main())


def test_of_several_servers_the_one_tried_least_comes_next() -> None:
    bus = Bus(options("nats://127.0.0.1:1"), Random(1))
    servers = [Server(uri=urlparse(f"nats://server{n}:1"), reconnects=n) for n in (3, 1, 2)]
    assert bus._next_server(servers, {})[0] is servers[1]


def test_after_a_loss_another_server_comes_first_however_often_it_failed_in_the_past(
    tmp_path: Path, run: Run
) -> None:
    async def main() -> None:
        with NatsServer(tmp_path / "one") as one, NatsServer(tmp_path / "two") as two:
            bus = Bus(options(one.url, servers=(one.url, two.url)), Random(1))
            await bus.connect(patience=5)
            try:
                client = bus._client
                assert client is not None
                for server in client._server_pool:
                    server.reconnects = 3
                used = one if one.monitor("connz")["num_connections"] else two
                used.kill()
                await until(lambda: not bus.connected)
                await until(lambda: bus.connected)
                assert [server.reconnects for server in client._server_pool] == [0, 0]
                servers = [Server(uri=server.uri, reconnects=0) for server in client._server_pool]
                chosen, _ = bus._next_server(servers, {})
                assert chosen is not None
                assert chosen.uri.netloc in used.url
            finally:
                await bus.close()

    run(main())


def test_a_bus_that_starts_late_is_found_and_no_message_comes_twice(tmp_path: Path, run: Run) -> None:
    """One attempt to connect gives up after 3 s; what it leaves behind must not connect as well."""

    async def main() -> None:
        inbox = Inbox()
        server = NatsServer(tmp_path / "late", port=free_port())
        bus = Bus(options(server.url))
        await bus.subscribe("a", inbox)
        connecting = asyncio.create_task(bus.connect())
        try:
            await asyncio.sleep(0)
            began = time.monotonic()
            await until(lambda: time.monotonic() - began > 3.6)  # past the first attempt
            assert not bus.connected
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(connecting, 3)
            await until(lambda: time.monotonic() - began > 5.5)  # time enough for a stray client to come
            bus.publish("a", b"once")
            await bus.round_trip()
            assert inbox.payloads == [b"once"]
            assert server.monitor("connz")["num_connections"] == 1
        finally:
            await bus.close()
            server.kill()

    run(main())


def test_no_bus_is_told_within_the_patience_with_the_address_and_a_hint(run: Run) -> None:
    async def main() -> None:
        url = f"nats://127.0.0.1:{free_port()}"
        bus = Bus(options(url))
        began = time.monotonic()
        with pytest.raises(BusUnavailable, match="BM3001") as caught:
            await bus.connect(patience=0.5)
        assert time.monotonic() - began < bar(1)
        assert url in str(caught.value)
        assert "busmesh up" in caught.value.hint
        await bus.close()

    run(main())


@pytest.mark.parametrize(
    ("field", "content"),
    [("credentials", None), ("nkey", None), ("tls_ca", None), ("tls_ca", b"no certificate")],
)
def test_a_file_that_cannot_be_read_is_told_at_once(
    tmp_path: Path, run: Run, field: str, content: bytes | None
) -> None:
    """Nobody waits for ever for a bus because of a typing error."""
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)

    async def main() -> None:
        bus = Bus(options("nats://127.0.0.1:1", **{field: file}))
        with pytest.raises(UsageError, match="BM3008") as caught:
            await asyncio.wait_for(bus.connect(), 2)
        assert str(file) in str(caught.value)
        await bus.close()

    run(main())


def test_a_connect_that_is_cancelled_leaves_nothing_behind(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with Proxy(nats_server) as proxy:
            proxy.stall()
            bus = Bus(options(proxy.url))
            connecting = asyncio.create_task(bus.connect())
            await until(lambda: proxy.open == 1)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await bus.close()
            proxy.heal()
            await until(lambda: proxy.open == 0)

    run(main())


LOGIN = 'authorization {{ users: [ {{ user: me, password: "{0}" }} ] }}'


def _with_login(url: str, password: str = "right") -> str:
    return url.replace("nats://", f"nats://me:{password}@")


def test_a_wrong_login_is_told_at_once(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        with NatsServer(tmp_path / "bus", config=LOGIN.format("right")) as server:
            bus = Bus(options(_with_login(server.url, "wrong")))
            began = time.monotonic()
            with pytest.raises(Denied, match="BM3002"):
                await bus.connect(patience=5)
            assert time.monotonic() - began < bar(1)
            await bus.close()

    run(main())


def test_a_client_closed_for_good_is_built_anew_when_its_login_returns(tmp_path: Path, run: Run) -> None:
    """The server revokes the login while connected: nats-py closes and never tries again."""

    def reload(server: NatsServer, password: str) -> None:
        file = server.directory / "server.conf"
        file.write_text(
            file.read_text().replace('"right"', f'"{password}"').replace('"other"', f'"{password}"')
        )
        os.kill(server.pid, signal.SIGHUP)

    async def main() -> None:
        inbox = Inbox()
        with NatsServer(tmp_path / "bus", config=LOGIN.format("right")) as server:
            async with connected(_with_login(server.url)) as bus:
                await bus.subscribe("a", inbox)
                for _ in range(2):
                    first = bus._client
                    reload(server, "other")
                    await until(lambda: not bus.connected, 3)
                    inbox.messages.clear()
                    assert first is not None
                    await until(lambda: first.is_closed, 3)  # noqa: B023 - awaited here
                    assert not bus.connected
                    reload(server, "right")
                    await until(lambda: bus.connected, 5)
                    bus.publish("a", b"again")
                    await until(lambda: inbox.payloads == [b"again"])
                    assert server.monitor("connz")["num_connections"] == 1

    run(main())


def test_a_client_that_closed_without_a_word_is_built_anew(nats_server: NatsServer, run: Run) -> None:
    """nats-py closes like that if the server ends a connection in its first moment, over an expired login."""

    async def closed() -> None:
        async with connected(nats_server.url) as bus:
            for _ in range(2):
                before = bus.reconnects
                assert bus._client is not None
                await bus._client._close(Client.CLOSED, do_cbs=False)
                await until(lambda before=before: bus.connected and bus.reconnects > before)  # type: ignore[misc]
                await bus.round_trip()

    run(closed())


def test_a_server_that_ends_politely_and_one_in_lame_duck_mode_are_left(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            await asyncio.to_thread(nats_server.stop)
            await until(lambda: not bus.connected)
            await asyncio.to_thread(nats_server.start)
            assert await until(lambda: bus.connected) <= bar(1.0)

    run(main())


def test_round_trips_that_time_out_do_not_end_the_reading(nats_server: NatsServer, run: Run) -> None:
    """nats-py sets a future that has timed out, which ends its loops with an InvalidStateError."""

    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe("a", inbox)
            await bus.round_trip()
            nats_server.freeze()
            try:
                for _ in range(5):
                    with pytest.raises(BusUnavailable, match="BM3003"):
                        await bus.round_trip(timeout=0.05)
            finally:
                nats_server.thaw()
            assert await bus.round_trip(timeout=2) < 2
            bus.publish("a", b"still reading")
            await until(lambda: inbox.payloads == [b"still reading"])
            assert bus.statistics()["reconnects"] == 0

    run(main())


def test_a_watcher_that_raises_hinders_neither_the_others_nor_the_reconnect(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        heard: list[bool] = []

        def fails(standing: bool) -> None:
            raise ValueError("a bug")

        async with connected(nats_server.url) as bus:
            bus.on_connection(fails)
            bus.on_connection(heard.append)
            for _ in range(2):
                heard.clear()
                nats_server.kill()
                await until(lambda: not bus.connected)
                await asyncio.to_thread(nats_server.restart)
                await until(lambda: bus.connected)
                assert heard == [False, True]

    run(main())


def test_a_reconnect_that_dies_of_the_unforeseen_is_begun_anew(
    nats_server: NatsServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py's reconnect loop survives the errors that it knows; any other would end it in silence."""

    async def main() -> None:
        async with connected(nats_server.url) as bus:
            client = bus._client
            assert client is not None

            async def unforeseen(server: object) -> None:
                raise ValueError("Separator is found, but chunk is longer than limit")

            monkeypatch.setattr(client, "_connect_to_server", unforeseen)
            nats_server.kill()
            await until(lambda: not bus.connected)
            await asyncio.to_thread(nats_server.restart)
            await until(lambda: bus.connected, 5)

    run(main())


def test_close_ends_at_once_although_the_server_hangs_with_much_unsent(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        bus = Bus(options(nats_server.url))
        await bus.connect(patience=5)
        nats_server.freeze()
        try:
            for _ in range(16):
                bus.publish("a", b"x" * 1_000_000)
            await asyncio.sleep(0)
            began = time.monotonic()
            await bus.close()
            assert time.monotonic() - began < bar(1.5)
        finally:
            nats_server.thaw()

    run(main())


@pytest.mark.parametrize("state", ["never connected", "connected", "reconnecting"])
def test_close_leaves_no_task_and_no_connection(nats_server: NatsServer, run: Run, state: str) -> None:
    async def main() -> None:
        bus = Bus(options(nats_server.url))
        if state != "never connected":
            await bus.connect(patience=5)
            await bus.subscribe("a", Inbox())
        if state == "reconnecting":
            nats_server.kill()
            await until(lambda: not bus.connected)
        await bus.close()
        assert not bus.connected
        with pytest.raises(BusUnavailable):
            bus.publish("a", b"late")
        if state == "connected":
            await until(lambda: nats_server.monitor("connz")["num_connections"] == 0)
        await bus.close()  # twice does no harm

    run(main())


def test_what_was_published_before_the_close_is_sent(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as other:
            await other.subscribe("bye", inbox)
            await other.round_trip()
            async with connected(nats_server.url) as bus:
                bus.publish("bye", b"good-bye")
            await until(lambda: inbox.payloads == [b"good-bye"])

    run(main())


def test_congestion_ends_with_the_connection_that_was_congested(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            nats_server.freeze()
            try:
                await congest(bus)
                await until(lambda: not bus.connected, 4)
            finally:
                nats_server.thaw()
            await until(lambda: bus.connected, 5)
            assert not bus.congested
            assert bus.statistics()["congested"] is False

    run(main())


def test_congestion_ends_when_the_server_reads_again(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            nats_server.freeze()
            try:
                await congest(bus)
            finally:
                nats_server.thaw()
            await until(lambda: not bus.congested)
            assert bus.connected
            assert bus.reconnects == 0

    run(main())


def test_the_server_sees_no_client_that_it_must_close(nats_server: NatsServer, run: Run) -> None:
    """What the adapter writes is the protocol: pings are answered, nothing is refused."""

    async def main() -> None:
        async with connected(nats_server.url) as bus:
            with RawClient(nats_server):
                pass
            await bus.round_trip()
            assert bus.connected
        assert "parser error" not in nats_server.log.lower()

    run(main())
