"""Applications that a test plays: call by call, or byte by byte over the real pool of connections."""

from __future__ import annotations

import asyncio
from typing import cast

from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.connection import AppConnection
from busmesh.relay.application.pool import Application, PoolLimits
from tests.relay.wires import FakeTransport, Message, read_message


class FakeLine:
    """The connection that a call of :class:`FakeApp` is at work on: notes what is written."""

    def __init__(self) -> None:
        self.body = b""
        self.trailers: bytes | None = None
        self.aborted = False

    def write(self, call: Call, data: bytes) -> None:
        self.body += data

    def finish(self, call: Call) -> None:
        self.trailers = call.trailers

    def abort(self) -> None:
        self.aborted = True


class FakeApp:
    """The application behind an agent: its calls wait for the test to end them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.lines: list[FakeLine] = []
        self.seen: list[bytes] = []

    def send(self, call: Call) -> None:
        line = FakeLine()
        call.connection = cast(AppConnection, line)
        self.calls.append(call)
        self.lines.append(line)
        self.seen.append(call.message)

    def next(self) -> Call:
        call = self.calls.pop(0)
        call.connection = None
        return call

    def answer(
        self, body: bytes = b"ok", status: int = 200, headers: bytes = b"", declared: int | None = None
    ) -> None:
        """Answer the oldest call."""
        call = self.next()
        if not call.cancelled:
            call.done(AppResponse(status, b"OK", headers, body, declared, b"grpc-status" in headers.lower()))

    def fail(self, code: str, *, processed: bool) -> None:
        self.next().done(AppFailure(processed, code, f"the application: {code}"))

    @property
    def targets(self) -> list[str]:
        """What was asked, in order: ``GET /path``."""
        return [b" ".join(message.split(b" ", 2)[:2]).decode() for message in self.seen]


class WiredApp(Application):
    """The real pool of connections to an application that the test plays, byte by byte."""

    def __init__(self, **limits: int) -> None:
        super().__init__("127.0.0.1", 9, PoolLimits(**limits))
        #: Every connection ever made, in order.
        self.wires: list[FakeTransport] = []
        #: False while the application cannot be connected to, None while connecting takes its time.
        self.reachable: bool | None = True
        self._sweeper = cast(asyncio.TimerHandle, object())  # nothing is swept without a loop

    def _grow(self) -> None:
        while self._pending and self.reachable and len(self.connections) < self.limits.connections:
            self.wires.append(FakeTransport(AppConnection(self)))
            connection = self.wires[-1].protocol
            self.connections.add(connection)
            self.rest(connection)
        if self._pending and self.reachable is False:
            self._unreachable("refused")

    def set_reachable(self, reachable: bool) -> None:
        self.reachable = reachable
        self._grow()

    @property
    def wire(self) -> FakeTransport:
        """The newest connection."""
        return self.wires[-1]

    def got(self) -> Message:
        """Return as much of the request on the newest connection as has come."""
        return read_message(self.wire.written)
