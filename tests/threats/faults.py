"""What somebody between an agent and its bus may do to the frames of one direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count

from busmesh.wire.frame import Kind
from tests.threats.middle import Meddle, Passing
from tests.threats.stage import HEADER

#: Asked about each DATA frame and END of a body: its place, itself, whether it is END; returns what passes.
Fault = Callable[[int, bytes, bool], list[bytes]]


def kind_of(message: Passing, way: bytes) -> int:
    """Return the kind of a frame that goes this way (``relay`` or ``reply``), 0 for anything else."""
    whole = len(message.payload) >= HEADER.size and message.subject.split(b".")[2] == way
    return message.payload[1] if whole else 0


def flipped(frame: bytes, at: int) -> bytes:
    at %= len(frame)
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


def every_byte(way: bytes, kinds: set[Kind], sent: Counter[int]) -> Meddle:
    """Let the first frame of each kind come with every byte of it changed in turn, and then as it is."""
    left = set(kinds)

    def meddle(message: Passing) -> list[bytes]:
        kind, frame = kind_of(message, way), message.payload
        if kind not in left or len(frame) > 2000:
            return [frame]
        left.discard(Kind(kind))
        sent[kind] += len(frame)
        return [*(flipped(frame, at) for at in range(len(frame))), frame]

    return meddle


def of_body(way: bytes, fault: Fault, seen: Counter[int]) -> Meddle:
    """Have a fault in the next body that begins this way; ``seen`` counts its frames by their kinds."""
    places, streams = count(), set[int]()

    def meddle(message: Passing) -> list[bytes]:
        kind = kind_of(message, way)
        if not kind:
            return [message.payload]
        stream = HEADER.unpack_from(message.payload)[4]
        if not streams and kind in (Kind.REQUEST_OPENING, Kind.RESPONSE_OPENING):
            streams.add(stream)
        if stream not in streams or kind not in (Kind.DATA, Kind.END):
            return [message.payload]
        seen[kind] += 1
        return fault(next(places), message.payload, kind == Kind.END)

    return meddle


def second(change: Callable[[bytes], list[bytes]]) -> Fault:
    return lambda place, frame, end: change(frame) if place == 1 else [frame]


def swapped() -> Fault:
    """Let the second part come after the third."""
    held: list[bytes] = []

    def fault(place: int, frame: bytes, end: bool) -> list[bytes]:
        if place == 1:
            held.append(frame)
            return []
        late, held[:] = held[:], []
        return [frame, *late]

    return fault


def without_last() -> Fault:
    """Lose the part before the end."""
    held: list[bytes] = []

    def fault(place: int, frame: bytes, end: bool) -> list[bytes]:
        before, held[:] = held[:], [frame]
        return [frame] if end else before

    return fault


def first_again() -> Fault:
    """Let the first part come in place of the second as well."""
    first: list[bytes] = []

    def fault(place: int, frame: bytes, end: bool) -> list[bytes]:
        if place == 0:
            first.append(frame)
        return first[:] if place == 1 else [frame]

    return fault


#: Each made anew for each body; with whether what comes of it is a frame that nobody sealed so.
FAULTS: dict[str, tuple[Callable[[], Fault], bool]] = {
    "second and third swapped": (swapped, False),
    "first lost": (lambda: lambda place, frame, end: [] if place == 0 else [frame], False),
    "second lost": (lambda: second(lambda frame: []), False),
    "last lost": (without_last, False),
    "end lost": (lambda: lambda place, frame, end: [] if end else [frame], False),
    "first in place of second": (first_again, True),
    "one byte short": (lambda: second(lambda frame: [frame[:-1]]), True),
    "half": (lambda: second(lambda frame: [frame[: len(frame) // 2]]), True),
    "header alone": (lambda: second(lambda frame: [frame[: HEADER.size]]), True),
    "less than a header": (lambda: second(lambda frame: [frame[:9]]), True),
    "one byte more": (lambda: second(lambda frame: [frame + b"x"]), True),
    "as large as the bus carries": (lambda: second(lambda frame: [frame.ljust(1024 * 1024, b"x")]), True),
    **{
        f"byte {at} changed": (lambda at=at: second(lambda frame: [flipped(frame, at)]), True)  # type: ignore[misc]
        for at in (0, 1, 10, 18, 25, 26, 30, 500, -17, -16, -1)
    },
}  # fmt: skip
