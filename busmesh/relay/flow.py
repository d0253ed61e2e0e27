"""Flow control of a body on its way: who sends waits for credit, who receives grants what it can place.

Both halves are plain state: they call what they were given and return. A body is in memory only as far as its
window reaches, whatever its size and however slow its reader.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from busmesh.errors import RemoteProtocolError
from busmesh.wire.frame import Kind
from busmesh.wire.stream import INITIAL_CREDIT, encode_credit, encode_data, encode_end

#: What one stream may have under way at most: four full frames, so that some travel while one is handed on.
MAX_WINDOW = 1024 * 1024
#: What all streams of one direction of an agent may have under way together.
BUDGET = 64 * 1024 * 1024

#: Both sides look after their streams, and say a word in each session that has one, so often.
STREAM_TICK_S = 1.0
#: How long a stream may rest (Envoy's default for idle streams).
STREAM_IDLE_S = 300.0

Emit = Callable[[Kind, bytes], None]


class Source(Protocol):
    """Where a body comes from."""

    def pause_reading(self) -> None:
        """Stop bringing more."""

    def resume_reading(self) -> None:
        """Bring more."""


def _mute(kind: Kind, plaintext: bytes) -> None:
    """Writes nothing: takes an emitter's place when a stream is over, which would hold what holds it."""


def unheard() -> None:
    """Takes the place of a callback likewise."""


class _Nowhere:
    """A source that has nothing more."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


NOWHERE = _Nowhere()


class Gate:
    """Says whether the bus takes more, and wakes those that waited when it does.

    Args:
        busy: asked before each frame.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.busy = busy
        self._waiting: dict[int, Sender] = {}

    def wait(self, sender: Sender) -> None:
        self._waiting[id(sender)] = sender

    def leave(self, sender: Sender) -> None:
        self._waiting.pop(id(sender), None)

    def open(self) -> None:
        """Hear that the bus takes more: everybody gets a turn, in the order in which they came."""
        waiting, self._waiting = self._waiting, {}
        for sender in waiting.values():
            sender.flush()

    def __len__(self) -> int:
        return len(self._waiting)


class Sender:
    """The sending half of a stream.

    Args:
        emit: writes a frame of this stream.
        source: is paused while bytes wait here.
        gate: the bus.
        chunk: bytes of one frame.
        done: called when END has been sent, whoever made it go out.

    Attributes:
        ended: END has been sent.
        size: bytes sent.
    """

    __slots__ = (
        "_chunk",
        "_done",
        "_emit",
        "_gate",
        "_limit",
        "_number",
        "_paused",
        "_source",
        "_trailers",
        "_waiting",
        "closed",
        "ended",
        "size",
    )

    def __init__(self, emit: Emit, source: Source, gate: Gate, chunk: int, done: Callable[[], None]) -> None:
        self._emit = emit
        self._source = source
        self._gate = gate
        self._chunk = chunk
        self._done = done
        self._limit = INITIAL_CREDIT
        self._number = 0
        self._waiting: deque[bytes] = deque()
        self._trailers: bytes | None = None
        self._paused = False
        self.ended = self.closed = False
        self.size = 0

    def first(self, data: bytes, room: int) -> bytes:
        """Return as much of ``data`` as goes into the opening; the rest follows at :meth:`flush`."""
        size = max(0, min(len(data), room, self._limit))
        self.size = size
        if size < len(data):
            self._waiting.append(data[size:])
        return data[:size]

    def write(self, data: bytes) -> None:
        """Send ``data``, now or when it is granted; meanwhile the source is paused."""
        if data:
            self._waiting.append(data)
            self.flush()

    def end(self, trailers: bytes = b"") -> None:
        """Send END behind all that waits."""
        self._trailers = trailers
        self.flush()

    def grant(self, total: int) -> None:
        """Hear that the receiver takes ``total`` bytes since the beginning."""
        if total > self._limit:
            self._limit = total
            self.flush()

    def flush(self) -> None:
        """Send what may be sent."""
        waiting = self._waiting
        while waiting and not self.closed:
            size = min(len(waiting[0]), self._chunk, self._limit - self.size)
            if size <= 0:
                break
            if self._gate.busy():
                self._gate.wait(self)
                break
            data = waiting.popleft()
            if size < len(data):
                waiting.appendleft(data[size:])
                data = data[:size]
            self.size += size
            self._number += 1
            self._emit(Kind.DATA, encode_data(self._number - 1, data))
        if waiting:
            if not self._paused:
                self._paused = True
                self._source.pause_reading()
            return
        if self._paused:
            self._paused = False
            self._source.resume_reading()
        if self._trailers is not None and not self.ended and not self.closed:
            self.ended = True
            self._emit(Kind.END, encode_end(self._number, self._trailers))
            self._done()

    def detach(self) -> None:
        """The source has brought all and belongs to somebody else; what waits here still goes out."""
        if self._paused:
            self._paused = False
            self._source.resume_reading()
        self._source = NOWHERE

    def close(self) -> None:
        """Send nothing more; what waits is dropped."""
        self.closed = True
        self._waiting.clear()
        self._gate.leave(self)
        self._emit, self._done, self._source = _mute, unheard, NOWHERE

    def __repr__(self) -> str:
        state = "ended" if self.ended else "closed" if self.closed else "paused" if self._paused else "open"
        return f"<Sender {state} sent={self.size} credit={self._limit - self.size}>"


class Windows:
    """Shares the memory of one direction of an agent among its streams.

    Args:
        budget: bytes that all streams together may have under way, or :data:`INITIAL_CREDIT` for each of
            them if that is more.

    Attributes:
        held: bytes that were granted and are not known to be out of our hands.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.streams = 0
        self.held = 0

    def size(self, own: int = 0) -> int:
        """Bytes that a stream which holds ``own`` of them may have under way: its share of what is left."""
        share = self.budget // max(1, self.streams)
        return max(INITIAL_CREDIT, min(MAX_WINDOW, share, self.budget - self.held + own))

    def __repr__(self) -> str:
        return f"<Windows streams={self.streams} held={self.held} size={self.size()}>"


class Receiver:
    """The receiving half of a stream: order, limits, and what is granted.

    Args:
        emit: writes a frame of this stream.
        windows: the agent's.

    Attributes:
        size: bytes received.
        ended: END has come.
    """

    __slots__ = (
        "_emit",
        "_expected",
        "_granted",
        "_limit",
        "_paused",
        "_released",
        "_windows",
        "ended",
        "size",
    )

    def __init__(self, emit: Emit, windows: Windows) -> None:
        self._emit = emit
        self._windows = windows
        self._expected = 0
        self._limit = INITIAL_CREDIT
        #: What was granted and has not been used up: one of these is the last that the sender has heard.
        self._granted = [INITIAL_CREDIT]
        self._paused = False
        self.ended = False
        self.size = 0
        #: Bytes that were handed on to a reader who kept up; those after them may be here still.
        self._released = 0
        windows.streams += 1
        windows.held += self._limit

    def opened(self, size: int) -> None:
        """Take the bytes that came with the opening.

        Raises:
            RemoteProtocolError: more than was granted.
        """
        self._take(size)

    def data(self, number: int, size: int) -> None:
        """Take one DATA frame; :meth:`placed` follows when its bytes were handed on.

        Raises:
            RemoteProtocolError: one before it is missing, or it holds nothing, which in chunks would mean
                the end, or more than was granted.
        """
        self._expect(number)
        if not size:
            raise RemoteProtocolError("a part of a body that holds nothing")
        self._expected += 1
        self._take(size)

    def end(self, number: int) -> None:
        """Take END.

        Raises:
            RemoteProtocolError: a part before it is missing.
        """
        self._expect(number)
        self.ended = True

    def _expect(self, number: int) -> None:
        if self.ended or number != self._expected:
            raise RemoteProtocolError(f"part {number} of a body where {self._expected} comes next")

    def _take(self, size: int) -> None:
        self.size += size
        if self.size > self._limit:
            raise RemoteProtocolError("more of a body than was granted")

    def placed(self) -> None:
        """Hear that what came was handed on; grant more, unless whoever reads it is behind."""
        if self._paused or self.ended:
            return
        windows = self._windows
        windows.held -= self.size - self._released
        self._released = self.size
        window = windows.size(self._limit - self.size)
        if self.size + window - self._limit >= window // 2:
            windows.held += self.size + window - self._limit
            self._limit = self.size + window
            self._granted = [total for total in self._granted if total >= self.size]
            self._granted.append(self._limit)
            self._emit(Kind.CREDIT, encode_credit(self._limit))

    def remind(self) -> None:
        """Say again what was granted if the sender may be waiting for it: a CREDIT frame can be lost.

        It waits at the last grant that it has heard, so a body that rests anywhere else rests by itself.
        """
        if not self.ended and self.size != self._limit and self.size in self._granted:
            self._emit(Kind.CREDIT, encode_credit(self._limit))

    def pause(self) -> None:
        """Grant nothing: the reader is behind."""
        self._paused = True

    def resume(self) -> None:
        """Grant again."""
        self._paused = False
        self.placed()

    def close(self) -> None:
        """Give the window back; called once, when the stream is over."""
        self._windows.streams -= 1
        self._windows.held -= self._limit - self._released
        self._emit = _mute

    def __repr__(self) -> str:
        state = "ended" if self.ended else "paused" if self._paused else "open"
        return f"<Receiver {state} received={self.size} granted={self._limit}>"
