"""The adapter against a server that a test plays itself, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from busmesh.bus.bus import Bus
from tests.bus.conftest import Run
from tests.bus.rig import Inbox, options, until

INFO = {"server_id": "x", "version": "2.15.1", "headers": True, "max_payload": 1048576, "proto": 1}


class FakeServer:
    """Greets, answers every PING, and otherwise says what the test lets it say."""

    def __init__(self) -> None:
        self.received = b""
        self.connections = 0
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def say(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._writer = writer
        try:
            writer.write(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
            while line := await reader.readline():
                self.received += line
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
        except OSError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[FakeServer, Bus]]:
    server = FakeServer()
    bus = Bus(options(await server.start()))
    try:
        await bus.connect(patience=5)
        yield server, bus
    finally:
        await bus.close()
        await server.stop()


@pytest.mark.parametrize(
    "line",
    [
        b"INFO",
        b"INFO {",
        b"INFO []",
        b"INFO null",
        b'INFO "text"',
        b"INFO " + b"[" * 60_000,
        b'INFO {"connect_urls": [1, 2]}',
        b'INFO {"connect_urls": ["[::1"]}',
        b'INFO {"connect_urls": 7}',
        b"INFO \xff\xff",
        b"NONSENSE",
        b"",
        b"+OK",
        b"-ERR 'Permissions Violation for Publish to \"\xff\"'",
        b"PONG",
        b"PONG\r\nPONG\r\nPONG",
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_server_that_writes_nonsense_is_not_believed_and_not_left(run: Run, line: bytes) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with pair() as (server, bus):
            await bus.subscribe("a", inbox)
            server.say(line + b"\r\nMSG a 2 1\r\nx\r\n")
            await until(lambda: inbox.payloads == [b"x"])
            await bus.round_trip()
            assert server.connections == 1

    run(main())


@pytest.mark.parametrize(
    "data",
    [
        b"MSG\x20\r\n",
        b"MSG a b 1\r\nx\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 99999999999\r\n",
        b"HMSG a 1 9 5\r\n",
        b"x" * 100_000,
    ],
    ids=repr,
)
def test_a_server_that_breaks_the_protocol_is_connected_to_again(run: Run, data: bytes) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with pair() as (server, bus):
            await bus.subscribe("a", inbox)
            server.say(data)
            await until(lambda: server.connections == 2)
            await until(lambda: bus.connected)
            server.say(b"MSG a 2 1\r\nx\r\n")
            await until(lambda: inbox.payloads == [b"x"])

    run(main())


def test_a_ping_of_the_server_is_answered(run: Run) -> None:
    async def main() -> None:
        async with pair() as (server, _):
            server.say(b"PING\r\n")
            await until(lambda: b"PONG\r\n" in server.received)

    run(main())


def test_what_comes_with_the_first_answer_is_not_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes behind the PONG of the handshake were read by the reader that we replace."""

    async def main() -> None:
        inbox = Inbox()
        server = FakeServer()
        url = await server.start()
        bus = Bus(options(url))
        await bus.subscribe("a", inbox)
        serve = server._serve

        async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            write = writer.write

            def more(data: bytes | bytearray | memoryview) -> None:
                write(data)
                if data == b"PONG\r\n":
                    write(b"PING\r\nMSG a 1 5\r\nearly\r\nMSG a 1 3\r\nla")

            monkeypatch.setattr(writer, "write", more)
            await serve(reader, writer)

        server._server.close()
        server._server = await asyncio.start_server(eager, "127.0.0.1", int(url.rpartition(":")[2]))
        try:
            await bus.connect(patience=5)
            await until(lambda: b"PONG\r\n" in server.received)
            # No subscription stood when those bytes came, so they went to nobody; the rest is in step.
            server.say(b"x\r\n")
            await until(lambda: bus.connected)
            assert bus.statistics()["handler_errors"] == 0
        finally:
            await bus.close()
            await server.stop()

    run(main())


def test_frames_of_one_turn_of_the_loop_leave_in_one_write(run: Run) -> None:
    async def main() -> None:
        async with pair() as (server, bus):
            client = bus._client
            assert client is not None
            transport = client._stream_transport()
            writes: list[bytes] = []

            class Recorder:
                def write(self, data: bytes) -> None:
                    writes.append(data)
                    transport.write(data)

                def __getattr__(self, name: str) -> object:
                    return getattr(transport, name)

            recorder = Recorder()
            client._stream_transport = lambda: recorder  # type: ignore[method-assign]  # watches the writes
            for number in range(100):
                bus.write(b"PUB a %d\r\n%b\r\n" % (1, b"%d" % (number % 10)))
            bus.publish("b", b"last")
            assert not writes
            await until(lambda: server.received.endswith(b"last\r\n"))
            assert len(writes) == 1

    run(main())
