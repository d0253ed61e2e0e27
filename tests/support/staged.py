"""Real applications that do as they are told, several in one process: slow, failing, or calling on.

``python -m tests.support.staged NAME=NEXT ...`` serves an application for each NAME on a port of its own,
prints one JSON ready line with their URLs, and notes each request with the time that ``time.monotonic``
shows, which on one machine is the same in every process. NEXT is ``HOST:PORT/SERVICE``: the application first
asks that service through that agent, in the trace context that it got, and answers with the status it hears.

Past the mesh, at its own URL: ``POST /stage?delay=S&serial=1&status=N&hang=1`` says what is to come of
further requests (serial: it works at one at a time), ``GET /stage`` tells what came so far.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import httpx2
import uvicorn
import uvloop

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
#: What an application passes on so that the mesh knows for which request it calls.
CONTEXT = ("traceparent", "tracestate")


class Staged:
    """One application."""

    def __init__(self, name: str, following: str) -> None:
        self.name = name
        self.address, _, self.service = following.partition("/")
        self.told: dict[str, float] = {}
        self.seen: list[dict[str, Any]] = []
        self.turn = asyncio.Lock()
        self.client = httpx2.AsyncClient(timeout=30, trust_env=False)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        if scope["path"] == "/stage":
            if scope["method"] == "POST":
                self.told = {name: float(value) for name, value in query.items()}
                self.seen.clear()
            await self._answer(send, 200, self.seen)
            return
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        note: dict[str, Any] = {"path": scope["path"], "headers": headers, "at": time.monotonic()}
        self.seen.append(note)
        work = asyncio.ensure_future(self._work(headers, note))
        gone = asyncio.ensure_future(self._gone(receive))
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            note["gone"] = time.monotonic()
            work.cancel()
            return
        gone.cancel()
        status = work.result()
        await self._answer(send, status, {"name": self.name, "at": note["at"]})

    async def _work(self, headers: dict[str, str], note: dict[str, Any]) -> int:
        delay = self.told.get("delay", 0.0)
        if self.told.get("serial"):
            async with self.turn:
                await asyncio.sleep(delay)
        elif delay:
            await asyncio.sleep(delay)
        if self.told.get("hang"):
            await asyncio.Event().wait()
        if self.address:
            passed = {name: headers[name] for name in CONTEXT if name in headers}
            answer = await self.client.get(
                f"http://{self.address}/", headers={"Host": self.service, **passed}
            )
            note["heard"] = time.monotonic()
            return int(answer.status_code)
        return int(self.told.get("status", 200))

    async def _gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _answer(self, send: Send, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def serve(listening: dict[str, socket.socket], following: dict[str, str]) -> None:
    async with asyncio.TaskGroup() as group:
        for name, made in listening.items():
            config = uvicorn.Config(
                Staged(name, following[name]), log_level="critical", lifespan="off", http="httptools"
            )
            server = uvicorn.Server(config)
            group.create_task(server.serve(sockets=[made]))


def main() -> None:
    following = dict(argument.split("=", 1) for argument in sys.argv[1:])
    listening = {name: socket.create_server(("127.0.0.1", 0), backlog=512) for name in following}
    urls = {name: f"http://127.0.0.1:{made.getsockname()[1]}" for name, made in listening.items()}
    print(json.dumps({"event": "ready", "urls": urls}), flush=True)
    uvloop.run(serve(listening, following))  # asyncio's own sets no TCP_NODELAY on such sockets: 40 ms each


if __name__ == "__main__":
    main()
