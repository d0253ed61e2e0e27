"""One decoder under test, the messages that are thrown at it, and what each of them may cost."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
from hypothesis import strategies as st

from tests.support.bars import bar
from tests.support.damage import WORDS, altered, bombs, edited, edits, everywhere, packed, written

#: What 64 KiB may cost: seconds of the processor. A longer message may cost as much more as it is longer.
SECONDS = 0.05
USUAL = 64 * 1024
#: Bytes of memory for each byte of a message, while it is read, and what any message may take: msgpack writes
#: an empty map in one byte, for which Python needs 72, and who looks into it needs a place in a list.
TIMES, FLOOR = 160, 256 * 1024


@dataclass(frozen=True)
class Decoder:
    """One function that reads bytes of strangers.

    Attributes:
        read: returns something that is not None if it takes a message.
        whole: what it takes: messages, or what ``wrap`` makes messages of.
        covers: ``module:name`` of what this tries, below ``busmesh``.
        wrap: seals a body as somebody could who has a certificate of the mesh, or the secret that it takes.
        form: what bodies are made of: "msgpack", "json" or nothing.
        refuses: what it may raise.
        cap: bytes that a message may have before it is refused unread, or that the bus carries at most.
        seconds: of the processor that 64 KiB may cost.
    """

    name: str
    read: Callable[[bytes], object]
    whole: tuple[bytes, ...]
    covers: tuple[str, ...]
    wrap: Callable[[bytes], bytes] = bytes
    form: str = ""
    refuses: tuple[type[Exception], ...] = ()
    cap: int = USUAL
    seconds: float = SECONDS

    def __str__(self) -> str:
        return self.name

    def takes(self, message: bytes) -> bool:
        """Say whether it reads ``message`` without refusing it."""
        try:
            return self.read(message) is not None
        except self.refuses:
            return False

    def examine(self, message: bytes) -> None:
        """Have a message read or refused, within its bounds.

        Raises:
            AssertionError: it took too long or too much.
        """
        limit = bar(self.seconds) * max(1.0, len(message) / USUAL)
        took = self._seconds(message)
        if took > limit:  # the collector of garbage may have come in between
            took = min(took, *(self._seconds(message) for _ in range(3)))
        assert took <= limit, f"{self.name}: {took * 1000:.0f} ms for {len(message)} bytes"

    def weigh(self, message: bytes) -> int:
        """Have a message read or refused; return the most memory that it took meanwhile, beside its own."""
        self.takes(message)  # what is imported or cached at the first time is not its own
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            self.takes(message)
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()

    def _seconds(self, message: bytes) -> float:
        begin = time.thread_time()
        self.takes(message)
        return time.thread_time() - begin

    def bombs(self, most: int = 1 << 20) -> list[bytes]:
        """Return messages of the largest size that are small to write and dear to read, bare and wrapped."""
        cap = min(self.cap, most)
        bare = bombs(cap)
        inside = bombs(cap - 2048) + bombs(min(cap, 8192) - 2048)
        return [*bare, *([] if self.wrap is bytes else map(self.wrap, inside))]

    def misfits(self, most: int = 2000) -> Iterator[bytes]:
        """Yield messages with a value that does not belong there, in every place if that is not too many."""
        if self.form:
            changed = [other for body in self.whole for other in everywhere(_LOADS[self.form](body))]
            step = -(-len(changed) // most)
            yield from (self.wrap(_dumped(self.form)(other)) for other in changed[::step])

    def messages(self) -> st.SearchStrategy[bytes]:
        """Return junk, damaged messages, and sealed ones with damaged bodies or values inside."""
        changes = edits(WORDS)
        bodies = st.builds(edited, st.sampled_from(self.whole), changes)
        if self.form:
            values = [_LOADS[self.form](body) for body in self.whole]
            changed = st.sampled_from(values).flatmap(altered)
            changed |= changed.flatmap(altered)
            bodies |= changed.map(_dumped(self.form)).map(lambda body: body[: 2 * self.cap])
        outside = st.just([]) | changes  # half of the seals stay whole
        return st.binary(max_size=300) | st.builds(
            lambda body, more: edited(self.wrap(body), more), bodies, outside
        )


_LOADS: dict[str, Callable[[bytes], Any]] = {
    "msgpack": msgpack.unpackb,
    "json": json.loads,
}


def _dumped(form: str) -> Callable[[Any], bytes]:
    write = packed if form == "msgpack" else written

    def dump(value: Any) -> bytes:
        try:
            return write(value)
        except (ValueError, TypeError, OverflowError):  # what no peer can write either
            return b"\xc1"

    return dump
