"""An HTTP/1.1 application as fast as Python gets: ``python -m benchmarks.pyserver PORT``.

It takes uploads, drops them and answers how many bytes they had, which nginx cannot do; and it stands in for
nginx where that is not installed: ``GET /<n>`` brings ``n`` bytes.
"""

from __future__ import annotations

import asyncio
import sys
from functools import lru_cache
from typing import cast

import httptools
import uvloop

_CHUNK = b"x" * 2**18
_LARGEST_CACHED = 2**20


def head(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % size


@lru_cache(maxsize=64)
def small_response(size: int) -> bytes:
    """Return the whole response of so many bytes."""
    return head(size) + b"x" * size


def size_of(path: bytes) -> int | None:
    """Return the number of bytes that a path asks for; None for a path that is no number."""
    name = path.partition(b"?")[0].removeprefix(b"/")
    return int(name) if name.isdigit() and len(name) < 12 else None


class Server(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._path = b"/"
        self._received = 0
        self._to_send = 0
        self._transport: asyncio.WriteTransport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own are no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            assert self._transport is not None
            self._transport.close()

    def on_message_begin(self) -> None:
        self._received = 0

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_body(self, body: bytes) -> None:
        self._received += len(body)

    def on_message_complete(self) -> None:
        assert self._transport is not None
        if self._parser.get_method() in (b"PUT", b"POST"):
            answer = b"%d\n" % self._received
            self._transport.write(head(len(answer)) + answer)
        elif (size := size_of(self._path)) is None:
            self._transport.write(head(2) + b"ok")
        elif size <= _LARGEST_CACHED:
            self._transport.write(small_response(size))
        else:
            self._transport.write(head(size))
            self._to_send = size
            self._send_on()

    def _send_on(self) -> None:
        """Write until the transport holds enough; the rest follows when it has drained."""
        assert self._transport is not None
        while self._to_send and not self._paused:
            part = _CHUNK[: self._to_send]
            self._to_send -= len(part)
            self._transport.write(part)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._to_send = 0


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
