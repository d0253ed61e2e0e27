"""One request of a local client on its way, and the way back to who sent it."""

from __future__ import annotations

from typing import Any, Protocol

from busmesh.decide.request import RequestHead
from busmesh.relay.client.answers import Answer, reason_of
from busmesh.relay.flow import Receiver
from busmesh.relay.upload import Upload
from busmesh.wire.stream import Opening


class Client(Protocol):
    """Where a request came from, and where what is answered goes; :class:`Request` says what each means."""

    @property
    def writable(self) -> bool:
        """Whether the client keeps up with what is written to it."""

    def write_response(
        self, request: Request, status: int, reason: bytes, headers: bytes, body: bytes, declared: int | None
    ) -> None: ...

    def write_interim(self, request: Request, status: int, reason: bytes, headers: bytes) -> None: ...

    def begin_response(
        self, request: Request, status: int, reason: bytes, headers: bytes, opening: Opening
    ) -> None: ...

    def write_part(self, request: Request, data: bytes) -> None: ...

    def finish_response(self, request: Request, trailers: bytes) -> None: ...

    def break_off(self, request: Request) -> None: ...

    def hold_flow(self, held: bool) -> None:
        """Read nothing while whoever takes the body is behind."""


class Incoming(Protocol):
    """What is served: a client's request, or a copy of one that nobody waits for.

    Attributes are those of :class:`Request`.
    """

    head: RequestHead
    authority: bytes
    traceparent: bytes | None
    tracestate: bool
    body: bytes
    complete: bool
    trailers: bytes
    opening: Opening | None
    upload: Upload | None
    download: Receiver | None
    exchange: Any

    @property
    def reads(self) -> bool: ...
    @property
    def upgrade(self) -> bytes: ...
    @property
    def size(self) -> int: ...
    def respond(
        self, status: int, reason: bytes, headers: bytes, body: bytes, declared: int | None = None
    ) -> None: ...
    def answer(self, answer: Answer) -> None: ...
    def interim(self, status: int, reason: bytes, headers: bytes) -> None: ...
    def begin(self, status: int, reason: bytes, headers: bytes, opening: Opening) -> None: ...
    def write(self, data: bytes) -> None: ...
    def finish(self, trailers: bytes) -> None: ...
    def break_off(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Request:
    """A request that is being served. As a flow's source it is its client's connection.

    Attributes:
        body: what has come of the body; all of it, unless there is an ``opening``.
        complete: an open body has come to its end, before anybody asked for it.
        upload: who takes the rest of the body, set by whoever serves the request.
        download: what is told when the client does not keep up with the response.
        exchange: what became of the request, for whoever serves it.
    """

    __slots__ = (
        "authority",
        "body",
        "complete",
        "connection",
        "download",
        "exchange",
        "head",
        "http10",
        "keep_alive",
        "opening",
        "traceparent",
        "tracestate",
        "trailers",
        "upload",
    )

    def __init__(  # noqa: PLR0913  # what the parser tells, each request once
        self,
        connection: Client,
        head: RequestHead,
        authority: bytes,
        traceparent: bytes | None,
        tracestate: bool,
        body: bytes,
        keep_alive: bool,
        http10: bool,
        opening: Opening | None,
    ) -> None:
        self.connection = connection
        self.head = head
        self.authority = authority
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.body = body
        self.keep_alive = keep_alive
        self.http10 = http10
        self.opening = opening
        self.complete = False
        self.trailers = b""
        self.upload: Upload | None = None
        self.download: Receiver | None = None
        self.exchange: Any = None

    @property
    def reads(self) -> bool:
        """Whether the client keeps up with what is written to it."""
        return self.connection.writable

    @property
    def upgrade(self) -> bytes:
        """The protocol that the client wants to switch to, if any."""
        return self.opening.upgrade if self.opening is not None else b""

    @property
    def size(self) -> int:
        """Bytes of the body that came."""
        return self.upload.size if self.upload is not None else len(self.body)

    def respond(
        self, status: int, reason: bytes, headers: bytes, body: bytes, declared: int | None = None
    ) -> None:
        """Write a whole response; ``declared`` is the length that a HEAD or 304 names without sending it."""
        self.connection.write_response(self, status, reason, headers, body, declared)

    def answer(self, answer: Answer) -> None:
        """Answer in the mesh's own name."""
        self.respond(answer.status, reason_of(answer.status), answer.headers(), answer.body())

    # -- a response that comes in parts ------------------------------------------------------------

    def interim(self, status: int, reason: bytes, headers: bytes) -> None:
        """Write a 1xx response."""
        self.connection.write_interim(self, status, reason, headers)

    def begin(self, status: int, reason: bytes, headers: bytes, opening: Opening) -> None:
        """Write the head of a response whose body follows by :meth:`write` and :meth:`finish`.

        Raises:
            RemoteProtocolError: such a response has no body.
        """
        self.connection.begin_response(self, status, reason, headers, opening)

    def write(self, data: bytes) -> None:
        self.connection.write_part(self, data)

    def finish(self, trailers: bytes) -> None:
        """End the response, or this direction of a switched connection."""
        self.connection.finish_response(self, trailers)

    def break_off(self) -> None:
        """Cut the connection in a way that no client takes for the response's end."""
        self.connection.break_off(self)

    # -- the source of the request's body -----------------------------------------------------------

    def pause_reading(self) -> None:
        self.connection.hold_flow(True)

    def resume_reading(self) -> None:
        self.connection.hold_flow(False)
