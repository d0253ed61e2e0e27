"""What a client and an application write when bodies come in parts, and what the other side has got of it."""

from __future__ import annotations

import json

from busmesh.relay.flow import MAX_WINDOW
from tests.relay.apps import WiredApp
from tests.relay.transcript import request
from tests.relay.wires import READ, FakeTransport, Message, read_message
from tests.relay.world import Instance, World

MB = 1_000_000
#: What one direction of one stream may hold: its window, and what is read and written at either end.
MOST = MAX_WINDOW + 4 * READ
#: The end of a body in chunks.
LAST = b"0\r\n\r\n"


def pattern(at: int, size: int) -> bytes:
    """Return bytes that tell where in the body they stand."""
    period = bytes(range(251))
    start = at % 251
    return (period * (size // 251 + 2))[start : start + size]


def wired(world: World, *names: str) -> list[Instance]:
    return [world.instance(name, app=WiredApp) for name in names]


def chunks(data: bytes, size: int = 50_000) -> bytes:
    """Write ``data`` in chunks, without the last one."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def post(body: bytes, framing: str, *headers: str, method: str = "POST") -> bytes:
    """Write an upload."""
    line = f"{method} /up HTTP/1.1"
    if framing == "chunked":
        return request("Transfer-Encoding: chunked", *headers, line=line) + chunks(body) + LAST
    return request(f"Content-Length: {len(body)}", *headers, line=line, body=body)


def ok(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def answer(body: bytes, framing: str, *headers: str) -> bytes:
    """Write a download."""
    if framing == "chunked":
        return ok("Transfer-Encoding: chunked", *headers) + chunks(body) + LAST
    if framing == "until close":
        return ok("Connection: close", *headers) + body
    return ok(f"Content-Length: {len(body)}", *headers) + body


def ask(world: World, data: bytes) -> FakeTransport:
    client = world.client()
    client.arrive(data)
    world.pump()
    return client


def got(client: FakeTransport) -> Message:
    return read_message(client.written)


def error(client: FakeTransport) -> tuple[int, str]:
    """Return status and code of the mesh's own answer."""
    message = got(client)
    assert message.header("x-busmesh-flags") is not None
    assert message.whole
    return message.status, json.loads(message.body)["error"]


def read_slowly(world: World, wire: FakeTransport, step: int) -> None:
    """Have a blocked reader take what is there, and what follows it, bit by bit."""
    while wire.unread:
        wire.take(min(step, wire.unread))
        wire.blocked = True
        world.pump()


def finish(world: World, *instances: Instance) -> None:
    """Everybody has what they wanted: nothing is left."""
    for client in world.clients:
        if not client.is_lost():
            client.arrive(b"", end=True)
    world.pump()
    world.over()
    for instance in instances:
        assert instance.app.statistics()["pending"] == 0
        assert all(connection.call is None for connection in instance.app.connections)


def uploading(world: World, size: int = 2 * MB, sent: int = 300_000) -> FakeTransport:
    """A client has sent a part of its body, and the application has it."""
    whole = post(pattern(0, size), "length")
    return ask(world, whole[: len(whole) - size + sent])


def downloading(
    world: World, orders: Instance, sent: int = 300_000, framing: str = "chunked"
) -> FakeTransport:
    """An application has sent a part of its response, and the client has it."""
    client = ask(world, request())
    head = answer(b"", "chunked")[:-5] if framing == "chunked" else ok(f"Content-Length: {2 * MB}")
    data = pattern(0, sent)
    orders.app.wire.arrive(head + (chunks(data) if framing == "chunked" else data))
    world.pump()
    assert got(client).body == data
    return client


def broken(client: FakeTransport) -> None:
    """The response has begun and can never be taken for whole: the connection is cut."""
    assert client.is_aborted()
    assert not client.is_ended()
    assert not got(client).whole


def preferred(world: World, why: str = "") -> tuple[Instance, Instance]:
    """Add two instances, of which the balancer prefers the first; ``why`` says why that one refuses."""
    first, second = wired(world, "orders-1", "orders-2")
    second.endpoint.active = 5
    if why == "draining":
        first.inbound.closed_because = "it is draining"
    elif why == "unreachable":
        first.app.set_reachable(False)
    return first, second


CHAT = request("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", line="GET /chat HTTP/1.1")
SWITCH = ok("Connection: upgrade", "Upgrade: websocket", "X-Own: 1", status="101 Switching Protocols")


def switched(world: World, orders: Instance) -> FakeTransport:
    client = ask(world, CHAT)
    orders.app.wire.arrive(SWITCH)
    world.pump()
    assert got(client).status == 101
    return client


def told(wire: FakeTransport) -> bytes:
    """Return what came behind the head: another protocol."""
    return wire.written.partition(b"\r\n\r\n")[2]
