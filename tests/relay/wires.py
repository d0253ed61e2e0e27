"""A connection without a network: what is written is kept, what comes is what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

HIGH_WATER = 64 * 1024


class FakeTransport:
    """One end of a connection. Closing it reaches the protocol at once; a blocked peer takes no bytes."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol: Any = protocol
        self.written = b""
        self.unread = 0
        self.blocked = False
        self._ended = False
        self._reading = True
        self._closing = False
        self._lost = False
        protocol.connection_made(self)  # type: ignore[arg-type]  # duck-typed: what the code under test calls

    def write(self, data: bytes) -> None:
        assert not self._lost, "written to a lost connection"
        assert not self._ended, "written after the end"
        self.written += data
        if self.blocked:
            before, self.unread = self.unread, self.unread + len(data)
            if before <= HIGH_WATER < self.unread:
                self.protocol.pause_writing()

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def get_extra_info(self, name: str) -> None:
        """There is no socket."""

    def take(self, size: int | None = None) -> None:
        """The peer reads so much of what it has left unread; all of it unblocks it."""
        before = self.unread
        self.unread = 0 if size is None else self.unread - size
        self.blocked = self.unread > 0
        if before > HIGH_WATER >= self.unread:
            self.protocol.resume_writing()
        if self._closing and not self.unread:
            self.lose()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._ended = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self._closing

    def is_lost(self) -> bool:
        return self._lost

    def is_ended(self) -> bool:
        return self._ended

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def close(self) -> None:
        self._closing = True
        if not self.unread:
            self.lose()

    def abort(self) -> None:
        self._closing = True
        self.lose()

    def lose(self, error: Exception | None = None) -> None:
        """End the connection, as seen by the protocol."""
        if not self._lost:
            self._lost = self._closing = True
            self.protocol.connection_lost(error)

    def end(self) -> None:
        """The peer sends nothing more."""
        if not self.protocol.eof_received():
            self.close()


class Response(NamedTuple):
    """One response as a client reads it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


def responses(data: bytes, methods: str = "") -> list[Response]:
    """Cut what a server wrote into responses; ``methods`` are those of the requests, default all GET."""
    found = []
    asked = iter(methods.split())
    while data:
        head, blank, rest = data.partition(b"\r\n\r\n")
        assert blank, f"not a whole head: {data!r}"
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        response = Response(int(status), headers, b"")
        length = int(response.header("content-length") or 0)
        interim = response.status < 200
        if interim or response.status in (204, 304) or next(asked, "GET") == "HEAD":
            length = 0
        assert len(rest) >= length, "a body that is cut off"
        found.append(response._replace(body=rest[:length]))
        data = rest[length:]
    return found
