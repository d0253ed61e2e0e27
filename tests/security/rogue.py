"""A hostile client of the bus: it hears everything, writes anything, and keeps to no rule but the framing."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType

from busmesh.bus.login import Login

#: (subject, reply subject, header block, payload)
Heard = Callable[[bytes, bytes, bytes, bytes], None]

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


class Rogue:
    """One raw connection to a NATS server.

    Args:
        port: of the server on 127.0.0.1.
        subject: what to listen to; empty for nothing.
        heard: called for each message on the reading thread.
        login: what to show to a server that asks for one.

    Attributes:
        errors: what the server refused, in its own words.
        closed: whether the connection has ended.
    """

    def __init__(
        self, port: int, subject: str = "", heard: Heard = lambda *_: None, login: Login | None = None
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.settimeout(None)  # it may hear nothing for as long as a test likes
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = heard
        self._lock = threading.Lock()
        self._pong = threading.Event()
        self.errors: list[str] = []
        self.closed = False
        self._stream = self._socket.makefile("rb")
        self._write(b"CONNECT %b\r\n" % self._introduction(login))
        if subject:
            self._write(b"SUB %b 1\r\n" % subject.encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.flush()

    def _introduction(self, login: Login | None) -> bytes:
        info = json.loads(self._stream.readline().removeprefix(b"INFO "))
        said: dict[str, object] = {"verbose": False, "headers": True, "no_responders": login is not None}
        if login is not None:
            shown = login.arguments()
            said["sig"] = shown["signature_cb"](info["nonce"]).decode()
            said["jwt"] = shown["user_jwt_cb"]().decode()
        return json.dumps(said).encode()

    def subscribe(self, subject: str, queue: str = "") -> None:
        self._write(b"SUB %b %b 2\r\n" % (subject.encode(), queue.encode()))

    def publish(
        self, subject: str | bytes, payload: bytes = b"", *, reply: bytes = b"", headers: bytes = b""
    ) -> None:
        name = subject.encode() if isinstance(subject, str) else subject
        if headers:
            sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
            self._write(b"HPUB %b %b %b\r\n%b%b\r\n" % (name, reply, sizes, headers, payload))
        else:
            self._write(b"PUB %b %b %d\r\n%b\r\n" % (name, reply, len(payload), payload))

    def publish_all(self, subject: str, payloads: Iterable[bytes], reply: bytes) -> None:
        """Publish many in one write."""
        name = subject.encode()
        self._write(b"".join(b"PUB %b %b %d\r\n%b\r\n" % (name, reply, len(p), p) for p in payloads))

    def flush(self) -> None:
        """Return when the server has taken everything that was written so far."""
        self._pong.clear()
        self._write(b"PING\r\n")
        assert self._pong.wait(10), "the server does not answer"

    def _write(self, frame: bytes) -> None:
        with self._lock:
            self._socket.sendall(frame)

    def _read(self) -> None:
        stream = self._stream
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline():
                words = line.split()
                if words[0] == b"PONG":
                    self._pong.set()
                elif words[0] == b"PING":
                    self._write(b"PONG\r\n")
                elif words[0] == b"-ERR":
                    self.errors.append(line.decode("utf-8", "replace").strip())
                elif words[0] in (b"MSG", b"HMSG"):
                    fixed = 4 if words[0] == b"MSG" else 5
                    header = int(words[-2]) if words[0] == b"HMSG" else 0
                    data = stream.read(int(words[-1]) + 2)[:-2]
                    reply = words[3] if len(words) > fixed else b""
                    self._heard(words[1], reply, data[:header], data[header:])
        self.closed = True

    def __enter__(self) -> Rogue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        self._stream.close()
