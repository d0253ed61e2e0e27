"""A slow line: a TCP proxy that passes on so many bytes a second of what clients send."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType

#: Small, so that what is on its way is in the sender's hands and not in the proxy's.
BUFFER = 16 * 1024


class SlowLine:
    """Listens on ``port`` and connects to ``target`` for each connection.

    Args:
        target: port of the server on 127.0.0.1.
        rate: bytes a second from each client to the server.
    """

    def __init__(self, target: int, rate: float) -> None:
        self._target = target
        self._rate = rate
        self._server = socket.socket()
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(64)
        self.port = self._server.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> SlowLine:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(
            socket.SHUT_RDWR
        )  # closing alone leaves the thread in accept, with a descriptor
        self._accepting.join(5)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pass_on, args=(client, server, self._rate), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, 0.0), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, rate: float) -> None:
        with suppress(OSError):
            while data := source.recv(BUFFER):
                sink.sendall(data)
                if rate:
                    time.sleep(len(data) / rate)
        for end in (source, sink):  # the other direction's thread then ends, too, and closes them
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
