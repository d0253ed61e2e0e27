"""The bytes of a response: its head, and how the client knows where it ends (RFC 9112 section 6).

Nothing here does I/O. What is wrong with a response that comes from elsewhere is found before a byte of it is
written.
"""

from __future__ import annotations

from enum import IntEnum

from busmesh.errors import RemoteProtocolError
from busmesh.relay.client.answers import Answer, reason_of
from busmesh.relay.client.request import Request
from busmesh.wire.stream import Opening

#: What a CONNECT gets: requests may follow.
GRANTED = b"HTTP/1.1 200 OK\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Framing(IntEnum):
    """How the end of the response being written is known."""

    NONE = 0  # no response is being written in parts
    LENGTH = 1
    CHUNKED = 2
    CLOSE = 3
    SWITCHED = 4


class Response:
    """The response that a connection writes at present. A connection has one and uses it over and over.

    Attributes:
        framing: of the response that is written in parts.
        keep: another request may follow on this connection.
    """

    __slots__ = ("_remaining", "framing", "keep")

    def __init__(self) -> None:
        self.framing = Framing.NONE
        self.keep = True
        self._remaining = 0

    def whole(
        self,
        request: Request,
        status: int,
        reason: bytes,
        headers: bytes,
        body: bytes,
        declared: int | None,
        keep: bool,
    ) -> bytes:
        """Return a response that is here from head to end.

        Args:
            declared: the length that a HEAD or 304 names without sending it.
            keep: whether the connection may go on.
        """
        self.keep = keep
        if status == 204:
            length, body = b"", b""
        elif status == 304 or request.head.method == b"HEAD":
            length, body = b"content-length: %d\r\n" % declared if declared is not None else b"", b""
        else:
            length = b"content-length: %d\r\n" % len(body)
        connection = b"" if keep and not request.http10 else _connection_line(request, keep)
        return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n%b" % (status, reason, headers, length, connection, body)

    def begin(
        self, request: Request, status: int, reason: bytes, headers: bytes, opening: Opening, keep: bool
    ) -> bytes:
        """Return the head of a response whose body follows.

        Raises:
            RemoteProtocolError: such a response has no body, or nobody asked for this protocol.
        """
        if status in (204, 304) or request.head.method == b"HEAD":
            raise RemoteProtocolError("a body where none may be")
        if opening.upgrade and opening.upgrade.lower() != request.upgrade.lower():
            raise RemoteProtocolError("a switch to another protocol than the one asked for")
        length = b""
        if opening.upgrade:
            self.framing = Framing.SWITCHED
            length = b"connection: upgrade\r\nupgrade: %b\r\n" % opening.upgrade
        elif opening.length is not None:
            self.framing, self._remaining = Framing.LENGTH, opening.length
            length = b"content-length: %d\r\n" % opening.length
        elif request.http10:
            self.framing, keep = Framing.CLOSE, False
        else:
            self.framing = Framing.CHUNKED
            length = b"transfer-encoding: chunked\r\n"
        self.keep = keep
        connection = b"" if opening.upgrade else _connection_line(request, keep)
        return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (status, reason, headers, length, connection)

    def part(self, size: int) -> bytes:
        """Return the line before a part of the body, which a line end follows; empty if neither is written.

        Raises:
            RemoteProtocolError: it is more than was declared.
        """
        framing = self.framing
        if framing is Framing.LENGTH:
            self._remaining -= size
            if self._remaining < 0:
                raise RemoteProtocolError("more of a body than was declared")
        elif framing is Framing.CHUNKED:
            return b"%x\r\n" % size
        return b""

    def end(self, trailers: bytes) -> bytes:
        """Return what follows the last part, if anything.

        Raises:
            RemoteProtocolError: it is less than was declared.
        """
        if self.framing is Framing.LENGTH and self._remaining:
            raise RemoteProtocolError("less of a body than was declared")
        return b"0\r\n%b\r\n" % trailers if self.framing is Framing.CHUNKED else b""

    def __repr__(self) -> str:
        return f"<Response framing={self.framing.name} remaining={self._remaining} keep={self.keep}>"


def _connection_line(request: Request, keep: bool) -> bytes:
    if not keep:
        return b"connection: close\r\n"
    return b"connection: keep-alive\r\n" if request.http10 else b""


def interim(status: int, reason: bytes, headers: bytes) -> bytes:
    """Return a 1xx response."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, headers)


def last(answer: Answer) -> bytes:
    """Return an answer after which the connection ends, to what is no request."""
    body = answer.body()
    head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (answer.status, reason_of(answer.status), answer.headers(), len(body)) + body
