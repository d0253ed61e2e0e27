"""Bodies of any size through a real mesh: equal at the other end, bounded in memory, never cut in silence."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import pytest
from websockets.asyncio.client import connect

from tests.support.bars import bar, times
from tests.support.bus import NatsServer
from tests.support.memory import MIB, Growth
from tests.support.mesh import Instance, Mesh, eventually
from tests.support.processes import Process
from tests.support.streamer import pattern


@dataclass
class Store:
    """A service that streams, its agent, and the agent of who calls it."""

    app: str
    process: Process
    instance: Instance
    client: Instance

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.client.outbound, timeout=50)

    def socket(self, request: str) -> socket.socket:
        host, port = self.client.outbound.split(":")
        sock = socket.create_connection((host, int(port)))
        sock.sendall(f"{request}\r\nHost: store\r\n\r\n".encode())
        return sock

    def counts(self) -> dict[str, int]:
        """What is under way, and what is open, at both agents."""
        found: dict[str, int] = {}
        for agent in (self.client, self.instance):
            statistics = agent.page("/members")["statistics"]
            for part in ("outbound", "inbound"):
                for name, count in statistics.get(part, {}).items():
                    if name in ("active", "in_flight", "streams", "waiting"):
                        found[f"{agent.name} {part} {name}"] = count
            found[f"{agent.name} subscriptions"] = agent.page("/config")["bus"]["subscriptions"]
            found[f"{agent.name} tasks"] = round(agent.metric("busmesh_tasks"))
        assert len(found) == 14, "what is counted has another name now"
        return found

    def at_rest(self) -> dict[str, int]:
        """Return the counts once nothing of the start is under way: each handshake is a task."""
        looks = [self.counts()]
        while len(looks) < 5 or len({str(look) for look in looks[-5:]}) > 1:
            time.sleep(0.05)
            looks.append(self.counts())
        return looks[-1]

    def growth(self) -> Growth:
        """Watch the memory of both agents from now on."""
        return Growth(self.client.agent.pid, self.instance.agent.pid)


@pytest.fixture
def store(tmp_path: Path, nats_server: NatsServer) -> Iterator[Store]:
    with (
        Mesh(tmp_path, nats_server, locked=True) as mesh,
        Process.python("tests.support.streamer", directory=tmp_path, name="streamer") as app,
    ):
        url = app.ready()["url"]
        instance = mesh.agent("store", "store-0", application=url)
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "store")
        yield Store(url, app, instance, client)


def download(store: Store, size: int, options: str = "") -> bytes:
    with closing(store.connection()) as connection:
        connection.request("GET", f"/bytes?n={size}{options}", headers={"Host": "store"})
        return connection.getresponse().read()


def upload(store: Store, body: bytes, *, chunked: bool = False, path: str = "/sha256") -> bytes:
    with closing(store.connection()) as connection:
        pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000)) if chunked else body
        connection.request("POST", path, body=pieces, headers={"Host": "store"}, encode_chunked=chunked)
        return connection.getresponse().read()


def test_bodies_of_ten_mib_are_equal_at_the_other_end_and_nothing_is_left(store: Store) -> None:
    before = store.at_rest()
    body = os.urandom(10 * MIB)
    said = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
    wanted = hashlib.sha256(pattern(10 * MIB)).digest()
    for turn in range(times(4, 100)):
        assert json.loads(upload(store, body, chunked=turn % 2 == 1)) == said
        got = download(store, 10 * MIB, "&chunked=1" if turn % 2 else "")
        assert hashlib.sha256(got).digest() == wanted
    eventually(lambda: store.counts() == before, "nothing is under way any more")


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 262_144, 300_000, 1_100_000])
def test_sizes_at_which_something_changes(store: Store, size: int) -> None:
    body = pattern(size)
    for chunked in (False, True):
        assert json.loads(upload(store, body, chunked=chunked))["sha256"] == hashlib.sha256(body).hexdigest()
        assert upload(store, body, chunked=chunked, path="/echo") == body
    assert download(store, size) == body
    assert download(store, size, "&chunked=1") == body


def test_a_large_stream_each_way_needs_no_memory(store: Store, tmp_path: Path) -> None:
    """Agents that have carried nothing yet are compared with the largest moment of all that follows."""
    size = times(256, 1024) * MIB
    growth = store.growth()
    with closing(store.connection()) as connection:
        connection.request("GET", f"/bytes?n={size}", headers={"Host": "store"})
        answer = connection.getresponse()
        left = size
        while piece := answer.read(MIB):
            left -= len(piece)
        assert left == 0
    sparse = tmp_path / "large"
    with sparse.open("wb") as file:
        file.truncate(size)
    with closing(store.connection()) as connection, sparse.open("rb") as file:
        connection.request(
            "POST", "/sha256", body=file, headers={"Host": "store", "Content-Length": str(size)}
        )
        assert json.loads(connection.getresponse().read())["size"] == size
    assert max(growth.most()) < 32 * MIB


@pytest.mark.parametrize("chunked", ["", "&chunked=1"])
@pytest.mark.parametrize("victim", ["client", "instance", "application"])
def test_an_end_in_the_middle_is_never_taken_for_the_whole(store: Store, victim: str, chunked: str) -> None:
    with closing(store.connection()) as connection:
        connection.request("GET", f"/bytes?n={200 * MIB}{chunked}&pause=0.001", headers={"Host": "store"})
        answer = connection.getresponse()
        answer.read(5 * MIB)
        victims = {
            "client": store.client.agent,
            "instance": store.instance.agent,
            "application": store.process,
        }
        victims[victim].kill()
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer.read()


def test_an_upload_whose_agent_dies_is_an_error(store: Store) -> None:
    def body() -> Iterator[bytes]:
        for number in range(2000):
            if number == 300:
                store.instance.agent.kill()
            yield pattern(65_536)
            time.sleep(0.001)

    with closing(store.connection()) as connection:
        try:
            connection.request("PUT", "/sha256", body=body(), headers={"Host": "store"}, encode_chunked=True)
        except ConnectionError:
            return  # the answer came and the connection was closed while the client still sent
        answer = connection.getresponse()
        assert answer.status == 503
        assert answer.getheader("x-busmesh-flags") == "UF"


def test_who_never_reads_holds_nobody_up(store: Store) -> None:
    download(store, MIB)
    growth = store.growth()
    stuck = [store.socket(f"GET /bytes?n={500 * MIB} HTTP/1.1") for _ in range(20)]
    time.sleep(1.0)
    took = []
    with closing(store.connection()) as connection:
        for _ in range(200):
            begin = time.perf_counter()
            connection.request("GET", "/now", headers={"Host": "store"})
            connection.getresponse().read()
            took.append(time.perf_counter() - begin)
    assert quantiles(took, n=100)[98] < bar(0.1)
    # Twenty windows, and what lies in twenty sockets' buffers.
    assert max(growth.most()) < 32 * MIB
    for sock in stuck:
        sock.close()
    eventually(lambda: sum(v for k, v in store.counts().items() if "streams" in k) == 0, "all have ended")


def test_events_arrive_one_by_one(store: Store) -> None:
    with closing(store.connection()) as connection:
        connection.request("GET", "/events?n=20&interval=0.05", headers={"Host": "store"})
        answer = connection.getresponse()
        late = [time.time() - float(line.split()[1]) for line in answer if line.startswith(b"data:")]
    assert len(late) == 20
    assert max(late) < bar(0.02), late


def test_the_work_for_a_client_that_goes_is_cancelled(store: Store) -> None:
    sock = store.socket("GET /hang?id=gone HTTP/1.1")
    eventually(lambda: "gone" in cancelled(store), "the application is at work")
    begin = time.time()
    sock.close()
    eventually(lambda: cancelled(store)["gone"] > 0, "the application has heard that nobody waits")
    assert cancelled(store)["gone"] - begin < bar(0.05)


def cancelled(store: Store) -> dict[str, float]:
    with urllib.request.urlopen(f"{store.app}/cancelled", timeout=5) as answer:
        found: dict[str, float] = json.load(answer)
    return found


def test_a_half_closed_client_gets_its_answer(store: Store) -> None:
    sock = store.socket("GET /bytes?n=20&pause=0.3 HTTP/1.1")
    sock.shutdown(socket.SHUT_WR)
    with closing(sock), sock.makefile("rb") as file:
        assert file.read().endswith(b"\r\n\r\n" + pattern(20))


def test_an_upload_that_nobody_wants_is_refused_before_it_comes(store: Store) -> None:
    """The application's 403 comes instead of its 100, so the client keeps the body."""
    sock = store.socket("POST /refuse HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1000000")
    with closing(sock), sock.makefile("rb") as file:
        assert file.readline() == b"HTTP/1.1 403 Forbidden\r\n"
    sock = store.socket("POST /sha256 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3")
    with closing(sock), sock.makefile("rb") as file:
        assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert file.readline() == b"\r\n"
        sock.sendall(b"abc")
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"


def test_both_ways_at_once(store: Store) -> None:
    """A piece comes back before the next one is sent: nobody waits for the whole."""
    sock = store.socket("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked")
    with closing(sock), sock.makefile("rb") as file:
        for number in range(20):
            sock.sendall(b"5\r\nno%03d\r\n" % number)
            if number == 0:
                while file.readline() != b"\r\n":
                    pass
            assert file.readline() == b"5\r\n"
            assert file.readline() == b"no%03d\r\n" % number
        sock.sendall(b"0\r\n\r\n")
        assert file.readline() == b"0\r\n"


def test_websocket_messages_of_any_size(store: Store) -> None:
    host, port = store.client.outbound.split(":")
    rng = random.Random(1)

    async def main() -> None:
        async with connect(
            "ws://store/ws", host=host, port=int(port), max_size=2 * MIB, proxy=None, compression=None
        ) as socket:
            for number in range(times(1000, 10_000)):
                size = MIB if number % 100 == 99 else rng.choice([1, 10, 125, 126, 1000, 65_535, 65_536])
                message = rng.randbytes(size)
                await socket.send(message)
                assert await socket.recv() == message, (number, size)
        assert socket.close_code == 1000

    before = store.at_rest()
    asyncio.run(main())
    eventually(lambda: store.counts() == before, "nothing is under way any more")


def test_a_websocket_of_an_instance_that_drains_is_told_to_go(store: Store) -> None:
    host, port = store.client.outbound.split(":")

    async def main() -> None:
        async with connect("ws://store/ws", host=host, port=int(port), proxy=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            store.instance.agent.signal(signal.SIGTERM)
            await asyncio.wait_for(socket.wait_closed(), 10)
        assert socket.close_code == 1001

    asyncio.run(main())
    assert store.instance.agent.wait() == 0


def test_many_at_once(store: Store) -> None:
    """Uploads, downloads and short requests beside each other, each with its own bytes."""

    def one(number: int) -> bool:
        body = random.Random(number).randbytes(200_000 + 1000 * number)
        if number % 3 == 0:
            return upload(store, body, chunked=number % 2 == 0, path="/echo") == body
        if number % 3 == 1:
            return download(store, len(body)) == pattern(len(body))
        return download(store, 0) == b""

    with ThreadPoolExecutor(30) as pool:
        assert all(pool.map(one, range(300)))
