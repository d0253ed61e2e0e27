"""What leaves at the end of a turn of the event loop."""

from __future__ import annotations

import asyncio

from busmesh.relay.outbox import Outbox


class Wire:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing


def test_messages_leave_together_and_in_order() -> None:
    async def main() -> None:
        outbox, one, other = Outbox(), Wire(), Wire()
        outbox.send(one, b"1")
        outbox.send(other, b"2")
        outbox.send(one, b"3")
        assert not one.written, "this turn goes on"
        await asyncio.sleep(0)
        assert (one.written, other.written) == ([b"1", b"3"], [b"2"])
        outbox.send(one, b"4")
        outbox.flush()
        assert one.written[-1] == b"4", "who writes something else does not overtake"
        await asyncio.sleep(0)
        assert one.written == [b"1", b"3", b"4"]

    asyncio.run(main())


def test_nothing_is_written_to_who_is_gone() -> None:
    async def main() -> None:
        outbox, gone, there = Outbox(), Wire(), Wire()
        outbox.send(gone, b"1")
        outbox.send(there, b"2")
        gone.closing = True
        await asyncio.sleep(0)
        assert (gone.written, there.written) == ([], [b"2"])

    asyncio.run(main())
