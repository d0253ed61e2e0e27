"""A connection without a network: what is written is kept, what comes is what the test says."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

HIGH_WATER = 64 * 1024
#: What one read brings at most, as uvloop reads.
READ = 256 * 1024


class FakeTransport:
    """One end of a connection. Closing it reaches the protocol at once; a blocked peer takes no bytes."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol: Any = protocol
        self.written = b""
        self.unread = 0
        self.blocked = False
        self._arriving = bytearray()
        self._arriving_end = False
        self._ended = False
        self._reading = True
        self._closing = False
        self._aborted = False
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

    def arrive(self, data: bytes, *, end: bool = False) -> None:
        """Have the peer send, and end its side if so asked; :meth:`deliver` brings it, read by read."""
        self._arriving += data
        self._arriving_end = self._arriving_end or end

    def deliver(self, most: int = READ) -> bool:
        """Hand over one read of what arrived, or the end, if it is wanted; say whether anything was."""
        if self._lost or self._closing or not self._reading:
            return False
        if self._arriving:
            data = bytes(self._arriving[:most])
            del self._arriving[:most]
            self.protocol.data_received(data)
            return True
        if self._arriving_end:
            self._arriving_end = False
            self.end()
            return True
        return False

    @property
    def undelivered(self) -> int:
        """Bytes that the peer sent and nobody has read."""
        return len(self._arriving)

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

    def is_aborted(self) -> bool:
        """Whether the connection was cut, so that the peer hears of an error and of no end."""
        return self._aborted

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
        self._closing = self._aborted = True
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


def freed_when_lost(client: FakeTransport) -> bool:
    """End a connection; say whether its protocol is gone at once, without the collector."""
    protocol = weakref.ref(client.protocol)
    gc.disable()
    try:
        client.lose()
        client.protocol = None
        return protocol() is None
    finally:
        gc.enable()


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


class Message(NamedTuple):
    """As much of one message as has come, as its reader understands it.

    Attributes:
        line: request or status line.
        body: without its framing.
        whole: the body has come to its end; False also if only a closed connection could tell.
        trailers: lines after the body.
        rest: what came behind the message.
    """

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool
    trailers: bytes
    rest: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])


def read_message(data: bytes) -> Message:
    """Read the first message in ``data``; there must be at least its head."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    assert blank, f"not a whole head: {data[:500]!r}"
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    message = Message(line, headers, b"", False, b"", b"")
    if message.header("transfer-encoding") is not None:
        assert message.header("content-length") is None
        return _dechunked(message, rest)
    length = message.header("content-length")
    if length is None:
        without_body = line.startswith("HTTP/1.1 1") or not line.startswith("HTTP/")
        return message._replace(body=b"" if without_body else rest, whole=without_body, rest=rest)
    size = int(length)
    return message._replace(body=rest[:size], whole=len(rest) >= size, rest=rest[size:])


def _dechunked(message: Message, data: bytes) -> Message:
    body: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return message._replace(body=b"".join(body))
        size = int(data[at:end], 16)
        at = end + 2
        if size == 0:
            break
        body.append(data[at : at + size])
        assert data[at + size : at + size + 2] in (b"", b"\r", b"\r\n"), "a chunk without its end"
        at += size + 2
    if data.startswith(b"\r\n", at):
        return message._replace(body=b"".join(body), whole=True, rest=data[at + 2 :])
    trailers, blank, rest = data[at:].partition(b"\r\n\r\n")
    if not blank:
        return message._replace(body=b"".join(body))
    return message._replace(body=b"".join(body), whole=True, trailers=trailers + b"\r\n", rest=rest)
