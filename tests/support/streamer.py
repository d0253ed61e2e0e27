"""A real application that streams: uploads, downloads, events and WebSockets of any size, on uvicorn.

``python -m tests.support.streamer`` prints one JSON ready line. What it does, by path:

``GET /bytes?n=N``: N bytes of :func:`pattern`, of declared length, or in chunks with ``chunked=1``; ``pause``
seconds between two pieces. ``POST /sha256``: reads the body and tells its digest and size. ``POST /echo``:
sends each piece of the body back as it comes. ``POST /refuse``: answers 403 before it has read the body.
``GET /events?n=N&interval=S``: server-sent events with the time at which each was sent. ``GET /hang``: never
answers; ``GET /cancelled`` tells when those who waited there went away. ``GET /now``: answers at once.
``/ws``: a WebSocket that echoes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import uvicorn

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BLOCK = bytes(range(256)) * 256
PIECE = len(BLOCK)
#: When clients of ``/hang`` came and went, by their ``id``.
LEFT: dict[str, float] = {}


def pattern(size: int) -> bytes:
    """Return ``size`` bytes of what ``/bytes`` sends."""
    return (BLOCK * (size // PIECE + 1))[:size]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await _echo_socket(receive, send)
        return
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    await {
        "/bytes": _bytes,
        "/sha256": _sha256,
        "/echo": _echo,
        "/refuse": _refuse,
        "/events": _events,
        "/hang": _hang,
        "/cancelled": _cancelled,
    }.get(scope["path"], _now)(query, receive, send)


async def _begin(send: Send, status: int = 200, **headers: object) -> None:
    lines = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})


async def _answer(send: Send, value: object, status: int = 200) -> None:
    body = json.dumps(value).encode()
    await _begin(send, status, content_type="application/json", content_length=len(body))
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client went away within its request")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def _bytes(query: dict[str, str], receive: Receive, send: Send) -> None:
    size = left = int(query["n"])
    if "chunked" in query:
        await _begin(send)
    else:
        await _begin(send, content_length=size)
    while left:
        piece = BLOCK[: min(left, PIECE)]
        left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        if "pause" in query:
            await asyncio.sleep(float(query["pause"]))
    await send({"type": "http.response.body"})


async def _sha256(query: dict[str, str], receive: Receive, send: Send) -> None:
    digest, size = hashlib.sha256(), 0
    async for piece in _body(receive):
        digest.update(piece)
        size += len(piece)
        if "pause" in query:
            await asyncio.sleep(float(query["pause"]))
    await _answer(send, {"sha256": digest.hexdigest(), "size": size})


async def _echo(query: dict[str, str], receive: Receive, send: Send) -> None:
    await _begin(send)
    async for piece in _body(receive):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def _refuse(query: dict[str, str], receive: Receive, send: Send) -> None:
    await _answer(send, {"error": "not wanted"}, 403)


async def _events(query: dict[str, str], receive: Receive, send: Send) -> None:
    await _begin(send, content_type="text/event-stream", cache_control="no-store")
    for number in range(int(query["n"])):
        event = f"id: {number}\ndata: {time.time()}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(float(query["interval"]))
    await send({"type": "http.response.body"})


async def _hang(query: dict[str, str], receive: Receive, send: Send) -> None:
    LEFT[query["id"]] = 0.0
    while (await receive())["type"] != "http.disconnect":
        pass
    LEFT[query["id"]] = time.time()


async def _cancelled(query: dict[str, str], receive: Receive, send: Send) -> None:
    await _answer(send, LEFT)


async def _now(query: dict[str, str], receive: Receive, send: Send) -> None:
    await _answer(send, {"now": time.time()})


async def _echo_socket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("bytes") is not None:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        else:
            await send({"type": "websocket.send", "text": message["text"]})


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(json.dumps({"event": "ready", "url": f"http://127.0.0.1:{listening.getsockname()[1]}"}), flush=True)
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", ws="websockets-sansio", http="httptools", loop="uvloop",
        ws_max_size=64 * 1024 * 1024, timeout_keep_alive=30,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
