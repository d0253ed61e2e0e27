"""The helpers that other tests trust: each claim of theirs, tried."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import nats
import pytest

from tests.support.bus import NatsServer
from tests.support.http import EchoApp
from tests.support.memory import MIB, Growth, peak, resident
from tests.support.ports import free_port
from tests.support.processes import Process, clean_environment


async def _stored(url: str) -> int:
    client = await nats.connect(url)
    info = await client.jetstream().account_info()
    await client.close()
    return info.streams


async def _store(url: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().add_stream(name="log", subjects=["log.>"])
    await client.close()


def test_the_bus_keeps_port_and_store_over_a_kill(nats_server: NatsServer) -> None:
    asyncio.run(_store(nats_server.url))
    url, pid = nats_server.url, nats_server.pid
    nats_server.kill()
    assert not nats_server.running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", nats_server.port), timeout=1)
    nats_server.restart()
    assert (nats_server.url, nats_server.pid != pid) == (url, True)
    assert asyncio.run(_stored(url)) == 1
    nats_server.restart(keep_store=False)
    assert asyncio.run(_stored(url)) == 0
    assert nats_server.monitor("varz")["server_name"] == "bus"


def test_a_frozen_bus_accepts_but_says_nothing(nats_server: NatsServer) -> None:
    nats_server.freeze()
    with socket.create_connection(("127.0.0.1", nats_server.port), timeout=1) as sock:
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        nats_server.thaw()
        sock.settimeout(5)
        assert sock.recv(5) == b"INFO "


def test_a_bus_that_cannot_start_says_why(tmp_path: Path, nats_server: NatsServer) -> None:
    with pytest.raises(RuntimeError, match="address already in use"):
        NatsServer(tmp_path / "second", port=nats_server.port).start()
    with pytest.raises(RuntimeError, match="Parse error"):
        NatsServer(tmp_path / "wrong", config="cluster {").start()


def test_two_buses_form_a_cluster(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    one = f"cluster {{ name: c, listen: 127.0.0.1:{first} }}"
    two = f"cluster {{ name: c, listen: 127.0.0.1:{second}, routes: [nats://127.0.0.1:{first}] }}"
    with (
        NatsServer(tmp_path / "a", config=one, jetstream=False) as a,
        NatsServer(tmp_path / "b", config=two, jetstream=False) as b,
    ):
        asyncio.run(_crosses(a.url, b.url))


async def _crosses(here: str, there: str) -> None:
    near, far = await nats.connect(here), await nats.connect(there)
    answered = asyncio.Event()

    async def answer(message: object) -> None:
        answered.set()

    await far.subscribe("q", cb=answer)
    await far.flush()
    while not answered.is_set():  # routes form after both servers are ready
        await near.publish("q")
        await asyncio.sleep(0.01)
    await near.close()
    await far.close()


def _ask(app: EchoApp, method: str, target: str, **options: object) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=5)
    try:
        connection.request(method, target, **options)  # type: ignore[arg-type]  # passed through
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def _exchange(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()


def test_the_application_echoes_and_counts(echo_app: EchoApp) -> None:
    response, body = _ask(echo_app, "POST", "/a?b=1", body=b"hello", headers={"X-Id": "7"})
    echo = json.loads(body)
    assert (response.status, echo["method"], echo["path"], echo["body_length"]) == (200, "POST", "/a?b=1", 5)
    assert ["X-Id", "7"] in echo["headers"]
    _ask(echo_app, "GET", "/healthz")
    assert [(r.method, r.header("x-id"), r.body_length) for r in echo_app.received] == [("POST", "7", 5)]
    assert echo_app.received[0].body_sha256 == echo["body_sha256"]


def test_the_application_does_what_the_query_says(echo_app: EchoApp) -> None:
    response, body = _ask(echo_app, "GET", "/?status=503&size=100000&chunked=1&close=1")
    assert (response.status, len(body), response.headers["connection"]) == (503, 100_000, "close")
    response, body = _ask(echo_app, "HEAD", "/?size=10")
    assert (response.headers["content-length"], body) == ("10", b"")
    with pytest.raises(http.client.RemoteDisconnected):
        _ask(echo_app, "GET", "/?drop=1")


def test_the_application_reads_chunks(echo_app: EchoApp) -> None:
    _, body = _ask(echo_app, "POST", "/", body=iter([b"ab", b"c" * 70_000]), encode_chunked=True)
    assert json.loads(body)["body_length"] == 70_002


def test_the_application_counts_what_it_cannot_read(echo_app: EchoApp) -> None:
    assert _ask(echo_app, "BREW", "/")[0].status == 501
    with socket.create_connection(("127.0.0.1", echo_app.port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.1 no more\r\n\r\n")
        assert client.recv(1)
    assert (echo_app.count, echo_app.misread) == (0, 2)


def test_the_application_dies_and_returns(echo_app: EchoApp) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", echo_app.port, timeout=5)
    for _ in range(2):
        _exchange(connection)
    assert echo_app.connections == 1
    echo_app.stop()
    with pytest.raises(ConnectionError):
        _exchange(connection)
    connection.close()
    echo_app.start()
    assert _ask(echo_app, "GET", "/")[0].status == 200
    assert echo_app.count == 3


def test_a_frozen_application_reads_but_does_not_answer(echo_app: EchoApp) -> None:
    echo_app.freeze()
    connection = http.client.HTTPConnection("127.0.0.1", echo_app.port, timeout=0.2)
    connection.request("GET", "/")
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert echo_app.count == 1
    echo_app.healthy = False
    echo_app.thaw()
    assert _ask(echo_app, "GET", "/healthz")[0].status == 503


CHILD = """
import json, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("not json")
print("log line", file=sys.stderr, flush=True)
print(json.dumps({"event": "ready", "child": child.pid}), flush=True)
signal.pause()
"""


def test_a_process_is_ready_ends_and_takes_its_children_along(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", CHILD], directory=tmp_path, name="child") as process:
        child = process.ready()["child"]
        assert process.terminate() == 3
        assert "log line" in process.stderr
        watch = os.pidfd_open(child)  # the child outlives its parent, until the context ends
        assert select.select([watch], [], [], 0)[0] == []
    assert select.select([watch], [], [], 5)[0] == [watch]
    os.close(watch)


SWOLLEN = """
import json
taken = b"x" * (64 * 1024 * 1024)
del taken
print(json.dumps({"event": "ready"}), flush=True)
input()
taken = b"x" * (96 * 1024 * 1024)
del taken
print(json.dumps({"event": "swollen"}), flush=True)
input()
"""


def test_memory_that_was_held_for_a_moment_is_seen() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SWOLLEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        assert peak(process.pid) > 63 * MIB
        growth = Growth(process.pid)
        assert growth.most()[0] < 8 * MIB, "what was held before does not count"
        process.stdin.write("\n")
        process.stdin.flush()
        assert "swollen" in process.stdout.readline()
        assert resident(process.pid) < 64 * MIB
        assert 95 * MIB < growth.most()[0] < 104 * MIB
        process.stdin.write("\n")


def test_a_process_that_ends_without_a_word_fails_with_its_log(tmp_path: Path) -> None:
    with (
        Process([sys.executable, "-c", "raise SystemExit('no bus')"], directory=tmp_path) as process,
        pytest.raises(AssertionError, match=r"ended(.|\n)*no bus"),
    ):
        process.ready()


def test_a_test_never_sees_the_mesh_of_its_user(busmesh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:4222")
    monkeypatch.setenv("http_proxy", "http://elsewhere")
    assert not {"NATS_URL", "http_proxy", "BUSMESH_HOME"} & clean_environment().keys()
