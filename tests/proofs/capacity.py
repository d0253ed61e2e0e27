"""An application that can do so much and no more: 20 requests at a time, 20 ms for each, a thousand a second.

``python -m tests.proofs.capacity`` prints one JSON ready line. What comes beyond that waits in its own queue,
as in a server with twenty threads.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httptools
import uvloop

AT_A_TIME = 20
SECONDS = 0.02
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class _Connection(asyncio.Protocol):
    def __init__(self, places: asyncio.Semaphore, tasks: set[asyncio.Task[None]]) -> None:
        self._places, self._tasks = places, tasks
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        task = asyncio.get_running_loop().create_task(self._work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        async with self._places:
            await asyncio.sleep(SECONDS)
        self._transport.write(_ANSWER)


async def _main() -> None:
    places, tasks = asyncio.Semaphore(AT_A_TIME), set[asyncio.Task[None]]()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(places, tasks), "127.0.0.1", 0, backlog=512)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"event": "ready", "url": f"http://127.0.0.1:{port}"}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
