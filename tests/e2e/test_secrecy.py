"""What the bus sees of requests: nothing, in clear, hex or base64."""

from __future__ import annotations

import asyncio
import base64
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path

from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Mesh

REQUESTS = 1000
#: Every marker begins with it and goes on with random digits of its own: one search finds them all.
SECRET = secrets.token_hex(12)


class Wiretap:
    """A TCP relay in front of the bus that keeps every byte in both directions."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self.captured = bytearray()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    self.captured += data
                sink.sendall(data)

    def close(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def forms(marker: str) -> list[bytes]:
    """The marker in clear, hex, and base64 at each of the three alignments."""
    raw = marker.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    for pad in range(3):
        text = base64.b64encode(b"\0" * pad + raw)
        inner = text[(pad * 8 + 5) // 6 :].rstrip(b"=")[:-1]
        found += [inner, inner.replace(b"+", b"-").replace(b"/", b"_")]
    return found


async def subscribe_to_all(url: str, stop: threading.Event, heard: list[bytes]) -> None:
    import nats

    client = await nats.connect(url)

    async def keep(message: object) -> None:
        heard.append(b" ".join([message.subject.encode(), message.reply.encode(), message.data]))  # type: ignore[attr-defined]  # nats-py has no types here

    await client.subscribe(">", cb=keep, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await client.flush()
    while not stop.is_set():  # noqa: ASYNC110 - an event of another thread
        await asyncio.sleep(0.02)
    await client.close()


def test_t05_no_marker_is_seen_on_the_bus(tmp_path: Path, nats_server: NatsServer) -> None:
    tap = Wiretap(nats_server.port)
    stop, heard = threading.Event(), []
    listener = threading.Thread(target=lambda: asyncio.run(subscribe_to_all(nats_server.url, stop, heard)))
    listener.start()
    try:
        with Mesh(tmp_path, nats_server, bus_url=tap.url) as mesh:
            mesh.instance("orders", "orders-0")
            # Everything told and traced: telemetry must not tell what the frames hide.
            options = ("--telemetry-access-log", "1", "--telemetry-tracing", "1")
            client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders", *options)
            caller = Caller(client.outbound, "orders")
            for number in range(REQUESTS):
                path, header, body = (SECRET + secrets.token_hex(4) for _ in range(3))
                status, answer, _ = caller.call(
                    f"/{path}?q={path}", method="POST", body=body.encode(), x_marker=header, x_id=str(number)
                )
                # The application answers with what it got, so the markers are in the response too.
                assert status == 200
                assert answer["echo"] == body
                assert header in answer["headers"].values()
            caller.close()
    finally:
        stop.set()
        listener.join(10)
        tap.close()
    wire, messages = bytes(tap.captured), b"\n".join(heard)
    assert len(heard) > 2 * REQUESTS
    assert wire.count(b"busmesh.local.relay.orders-0") >= REQUESTS
    for name, recorded in (("capture", wire), ("subscriber", messages)):
        assert [form for form in forms(SECRET) if form in recorded] == [], f"seen in the {name}"


def test_the_search_finds_each_form() -> None:
    for pad in range(6):
        text = f"{'x' * pad}{SECRET}{secrets.token_hex(4)}".encode()
        for written in (text, text.hex().encode(), base64.b64encode(text), base64.urlsafe_b64encode(text)):
            assert any(form in written for form in forms(SECRET)), (pad, written)
