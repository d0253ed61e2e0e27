"""The body of a request that is sent while it comes, and sent again if its first receiver did not take it.

What has come is kept for as long as another try may need it: up to :data:`KEPT` bytes in any case, and more
until the receiver grants more, which it does when it hands the body on. So a request that an instance refuses
is tried elsewhere whatever its size, and memory does not grow with the body.
"""

from __future__ import annotations

from collections.abc import Callable

from busmesh.relay.flow import NOWHERE, Emit, Gate, Sender, Source, unheard

#: Bytes of a body that are kept after an instance has taken it (as Linkerd's proxy keeps).
KEPT = 64 * 1024


class Upload:
    """One request's body, through all tries.

    Args:
        first: what has come already.
        source: is paused while nobody takes more.
        gate: the bus.
        chunk: bytes of one frame.
        sent: called when the body has been sent to its end, once per try.

    Attributes:
        size: bytes that came.
        complete: the body has come to its end.
    """

    __slots__ = ("_chunk", "_gate", "_kept", "_sender", "_sent", "_source", "_trailers", "complete", "size")

    def __init__(
        self, first: bytes, source: Source, gate: Gate, chunk: int, sent: Callable[[], None]
    ) -> None:
        self._kept: list[bytes] | None = [first]
        self._source = source
        self._gate = gate
        self._chunk = chunk
        self._sent = sent
        self._sender: Sender | None = None
        self._trailers = b""
        self.complete = False
        self.size = len(first)

    @property
    def ended(self) -> bool:
        """Whether this try has sent the body to its end."""
        return self._sender is not None and self._sender.ended

    @property
    def repeatable(self) -> bool:
        """Whether another try can send the body from its beginning."""
        return self._kept is not None

    def begin(self, emit: Emit, room: int) -> bytes:
        """Start a try; return what goes into the ``room`` that the opening has.

        :meth:`proceed` sends the rest behind it.
        """
        assert self._kept is not None, "a body is sent again only if it is repeatable"
        self.stop()
        self._source.resume_reading()
        sender = self._sender = Sender(emit, self._source, self._gate, self._chunk, self._sent)
        return sender.first(b"".join(self._kept), room)

    def proceed(self) -> None:
        if self.complete:
            self.end(self._trailers)
        elif self._sender is not None:
            self._sender.flush()

    def write(self, data: bytes) -> None:
        """Take more of the body."""
        self.size += len(data)
        if self._kept is not None:
            self._kept.append(data)
        if self._sender is not None:
            self._sender.write(data)
        elif self.size > KEPT:  # between two tries
            self._source.pause_reading()

    def end(self, trailers: bytes) -> None:
        """Take the end of the body."""
        self.complete = True
        self._trailers = trailers
        self._source.resume_reading()  # what it brings from here on belongs to somebody else
        self._source = NOWHERE
        if self._sender is not None:
            self._sender.detach()
            self._sender.end(trailers)

    def grant(self, total: int) -> None:
        """Hear that the instance has taken what came, and takes up to ``total`` bytes."""
        if self.size > KEPT:
            self._kept = None
        if self._sender is not None:
            self._sender.grant(total)

    def close(self) -> None:
        """Let go of the body: there will be no further try."""
        self.stop()
        self._kept = None
        self._source = NOWHERE
        self._sent = unheard

    def stop(self) -> None:
        """End the try: nothing more is sent."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
            if self.size <= KEPT:
                self._source.resume_reading()

    def __repr__(self) -> str:
        kept = "none" if self._kept is None else str(sum(map(len, self._kept)))
        return f"<Upload came={self.size} kept={kept} complete={self.complete}>"
