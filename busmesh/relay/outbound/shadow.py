"""Copies of requests: sent like any other, and nobody waits for what comes back."""

from __future__ import annotations

from typing import Any

from busmesh.decide.headers import HeaderOps
from busmesh.decide.request import RequestHead
from busmesh.relay.client.answers import Answer
from busmesh.relay.client.request import Incoming
from busmesh.relay.flow import Receiver
from busmesh.relay.upload import Upload
from busmesh.wire.stream import Opening

#: Copies under way at once; a shadow that cannot keep up must not fill this agent's memory.
MAX_SHADOWS = 256
#: Envoy appends this to the host, so that the shadow's logs tell copies from requests.
SUFFIX = b"-shadow"


class Shadows:
    """Counts the copies of one agent.

    Attributes:
        active: under way.
        dropped: not made, because too many were.
    """

    def __init__(self) -> None:
        self.active = 0
        self.dropped = 0

    def add(self) -> bool:
        """Say whether there is room for one more, and count it."""
        if self.active >= MAX_SHADOWS:
            self.dropped += 1
            return False
        self.active += 1
        return True

    def __repr__(self) -> str:
        return f"<Shadows active={self.active} dropped={self.dropped}>"


class Shadow:
    """A copy of a whole request. What is answered is dropped."""

    def __init__(self, request: Incoming, head: RequestHead, shadows: Shadows) -> None:
        host = HeaderOps(put={"Host": (request.authority + SUFFIX).decode("latin-1")})
        self.head = RequestHead.from_block(head.method, head.target, host.apply_block(head.block))
        self.authority = request.authority
        self.traceparent = request.traceparent
        self.tracestate = request.tracestate
        self.body = request.body
        self.opening: Opening | None = None
        self.complete = True
        self.trailers = b""
        self.upload: Upload | None = None
        self.download: Receiver | None = None
        self.exchange: Any = None
        self.reads = True
        self.upgrade = b""
        self._shadows = shadows

    @property
    def size(self) -> int:
        return len(self.body)

    def respond(
        self, status: int, reason: bytes, headers: bytes, body: bytes, declared: int | None = None
    ) -> None:
        self._over()

    def answer(self, answer: Answer) -> None:
        self._over()

    def finish(self, trailers: bytes) -> None:
        self._over()

    def break_off(self) -> None:
        self._over()

    def _over(self) -> None:
        self._shadows.active -= 1

    def interim(self, status: int, reason: bytes, headers: bytes) -> None: ...

    def begin(self, status: int, reason: bytes, headers: bytes, opening: Opening) -> None: ...

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def __repr__(self) -> str:
        return f"<Shadow {self.head!r}>"
