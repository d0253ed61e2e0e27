"""One request to the application, and what comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from busmesh.relay.flow import Receiver, Source
from busmesh.wire.stream import Opening


class AppResponse(NamedTuple):
    """A whole response of the application; all are what :class:`~busmesh.wire.http.WireResponse` has."""

    status: int
    reason: bytes
    headers: bytes
    body: bytes
    declared: int | None
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class AppFailure:
    """Why there is no response, and whether the application can have seen the request."""

    processed: bool
    code: str
    message: str


class Consumer(Protocol):
    """Who takes a response that comes in parts: ``begin``, then exactly one of ``end`` and ``reset``."""

    def interim(self, status: int, reason: bytes, headers: bytes) -> None:
        """A 1xx response."""

    def begin(self, response: AppResponse, opening: Opening) -> None:
        """The head of the final response, with an empty body."""

    def data(self, data: bytes) -> None:
        """More of the body."""

    def end(self, trailers: bytes) -> None:
        """The body is whole; after an upgrade: the application sends nothing more."""

    def reset(self, failure: AppFailure) -> None:
        """The response breaks off."""


class Carrier(Source, Protocol):
    """The connection that a call is at work on; the source of its response."""

    def write(self, call: Call, data: bytes) -> None:
        """Send more of the request's body."""

    def finish(self, call: Call) -> None:
        """Send the end of the request's body."""

    def abort(self) -> None:
        """Close at once; the call hears nothing more."""


class Call:
    """One request to the application. ``done`` is called exactly once, unless the call is cancelled.

    Args:
        message: the request; with an ``opening``, its head and what there is of its body.
        opening: what is known of a body that follows by :meth:`write` and :meth:`end`.
        consumer: takes a response that is not whole at once, instead of ``done``.
        upload: is told when the application does not keep up with the body.
    """

    __slots__ = (
        "_early",
        "cancelled",
        "connection",
        "consumer",
        "done",
        "finished",
        "message",
        "method",
        "opening",
        "queue",
        "trailers",
        "upload",
    )

    def __init__(
        self,
        method: bytes,
        message: bytes,
        done: Callable[[AppResponse | AppFailure], None],
        opening: Opening | None = None,
        consumer: Consumer | None = None,
        upload: Receiver | None = None,
    ) -> None:
        self.method = method
        self.message = message
        self.done = done
        self.opening = opening
        self.consumer = consumer
        self.upload = upload
        self.cancelled = False
        #: The body of the request is whole.
        self.finished = opening is None
        self.trailers = b""
        #: Where it is: at work on a connection, or waiting for one in a queue.
        self.connection: Carrier | None = None
        self.queue: deque[Call] | None = None
        self._early: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send more of the request's body; once it is answered nobody wants the rest."""
        if self.connection is not None:
            self.connection.write(self, data)
        elif self.queue is not None:
            self._early.append(data)

    def end(self, trailers: bytes) -> None:
        """Send the end of the request's body."""
        self.finished, self.trailers = True, trailers
        if self.connection is not None:
            self.connection.finish(self)

    def wait(self, queue: deque[Call]) -> None:
        """Wait for a connection; meanwhile no more of the body comes than was granted from the beginning."""
        self.queue = queue
        queue.append(self)
        if self.upload is not None:
            self.upload.pause()

    def take_early(self) -> list[bytes]:
        """Return what was written before there was a connection."""
        early, self._early = self._early, []
        return early

    def cancel(self) -> None:
        """Nobody waits for the answer: tell the application so by closing its connection."""
        self.cancelled = True
        if self.connection is not None:
            self.connection.abort()
        elif self.queue is not None:
            self.queue.remove(self)
            self.queue = None
