"""An HTTP/1.1 application as fast as Python gets: ``python -m benchmarks.pyserver PORT``.

It stands in for nginx where that is not installed.
"""

from __future__ import annotations

import asyncio
import sys
from functools import lru_cache
from typing import cast

import httptools
import uvloop


@lru_cache(maxsize=64)
def response_to(path: bytes) -> bytes:
    """Return the whole response; ``/<n>`` means a body of ``n`` bytes."""
    name = path.removeprefix(b"/")
    body = b"x" * int(name) if name.isdigit() and len(name) < 9 else b"ok"
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Server(asyncio.Protocol):
    """One keep-alive connection; bodies of requests are read and dropped."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._path = b"/"
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's own are no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            assert self._transport is not None
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_message_complete(self) -> None:
        assert self._transport is not None
        self._transport.write(response_to(self._path))


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
