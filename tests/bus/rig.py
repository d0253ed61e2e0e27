"""What the tests of the bus stand on: a raw client that obeys nobody, a proxy that may stall."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from busmesh.bus.bus import Bus
from busmesh.bus.options import BusOptions
from tests.support.bus import NatsServer


def options(url: str, **fields: Any) -> BusOptions:
    given: dict[str, Any] = {"servers": (url,), "name": "test", "inbox_prefix": "busmesh.local.inbox.test"}
    return BusOptions(**(given | fields))


@asynccontextmanager
async def connected(url: str, *, seed: int = 0, **fields: Any) -> AsyncIterator[Bus]:
    """A bus that is connected, and closed at the end, whatever state it is in then."""
    bus = Bus(options(url, **fields), Random(seed))
    await bus.connect(patience=5)
    try:
        yield bus
    finally:
        await bus.close()


async def until(condition: Callable[[], Any], within: float = 5.0) -> float:
    """Return the seconds until ``condition`` holds; fail if it does not ``within`` so many."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"not within {within} s"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def congest(bus: Bus) -> None:
    """Publish to a server that does not read until the bus says that it is congested."""
    while not bus.congested:
        bus.publish("filler", b"x" * 1_000_000)
        await asyncio.sleep(0)


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes, bytes, bytes]] = []

    def __call__(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self.messages.append((subject, reply, payload, headers))

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload, _ in self.messages]


class RawClient:
    """Speaks the NATS protocol byte by byte, so that it can say what no library lets one say."""

    def __init__(self, server: NatsServer, **login: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        self._stream = self._socket.makefile("rb")
        self.info = json.loads(self._stream.readline()[5:])
        connect = {"verbose": False, "headers": True, "no_responders": True, **login}
        self.send(b"CONNECT %b\r\n" % json.dumps(connect).encode())
        self.round_trip()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"") -> None:
        self.send(b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload))

    def publish_with_headers(
        self, subject: bytes, block: bytes, payload: bytes = b"", reply: bytes = b""
    ) -> None:
        """Publish with a header block as it is, well-formed or not."""
        size = len(block) + len(payload)
        self.send(b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, len(block), size, block, payload))

    def round_trip(self) -> None:
        """Return when the server has processed all that was sent; fail if it disliked any of it."""
        self.send(b"PING\r\n")
        answer = self._stream.readline()
        assert answer == b"PONG\r\n", answer

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Proxy:
    """A TCP proxy in front of the bus that can stop forwarding without closing anything: a half-open link."""

    def __init__(self, server: NatsServer) -> None:
        self._port = server.port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        self.open = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stall(self) -> None:
        """Forward nothing any more, in neither direction, on connections old and new."""
        self._flowing.clear()

    def drop(self) -> None:
        """Cut all connections; what was held back is lost."""
        for task in list(self._tasks):
            task.cancel()

    def heal(self) -> None:
        """Forward again: what was held back, and what comes on new connections."""
        self._flowing.set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        self.open += 1
        try:
            await self._flowing.wait()
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, inner_writer))
                    both.create_task(self._pump(inner_reader, writer))
            finally:
                inner_writer.transport.abort()
        except* (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(65536)
            await self._flowing.wait()
            if not data:
                raise EOFError
            writer.write(data)
            await writer.drain()
