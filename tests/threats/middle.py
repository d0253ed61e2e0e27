"""Somebody between an agent and its bus, who reads every message and may change, drop or repeat it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Passing:
    """A message that the agent publishes (``out``) or gets."""

    out: bool
    subject: bytes
    payload: bytes


#: What is passed on in place of a message: nothing, itself, or several.
Meddle = Callable[[Passing], list[bytes]]


def honest(message: Passing) -> list[bytes]:
    return [message.payload]


class Middle:
    """A NATS proxy on 127.0.0.1 for any number of connections.

    Attributes:
        meddle: asked about each message; may be replaced at any time.
    """

    def __init__(self, port: int, meddle: Meddle = honest) -> None:
        self._target = port
        self.meddle = meddle
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for source, sink, out in ((near, far, True), (far, near, False)):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pump, args=(source, sink, out), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, out: bool) -> None:
        stream = source.makefile("rb")
        with suppress(OSError, ValueError):
            while line := stream.readline():
                sink.sendall(self._pass(stream, line, out))
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _pass(self, stream: BinaryIO, line: bytes, out: bool) -> bytes:
        words = line.split()
        verb = words[0].upper() if words else b""
        if verb not in (b"PUB", b"HPUB", b"MSG", b"HMSG"):
            return line
        payload = stream.read(int(words[-1]) + 2)[:-2]
        if verb in (b"HPUB", b"HMSG"):
            return line + payload + b"\r\n"
        with self._lock:
            passed = self.meddle(Passing(out, words[1], payload))
        head = b" ".join(words[:-1])
        return b"".join(b"%b %d\r\n%b\r\n" % (head, len(each), each) for each in passed)

    def __enter__(self) -> Middle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
