"""What is written to one client: in the order in which it was given, whatever of it may wait and for whom."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.relay.client.rates import Rates
from busmesh.relay.client.writer import Writer
from busmesh.relay.outbox import Outbox


class Wire:
    """A transport that writes down what it is told, in its order."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []
        self.unsent = 0

    def write(self, data: bytes) -> None:
        assert not self.is_closing(), "written after the end"
        self.told.append(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.told.append("end")

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.told or "abort" in self.told

    def get_extra_info(self, name: str) -> None:
        """There is no socket."""

    def get_write_buffer_size(self) -> int:
        return self.unsent


def writer(outbox: Outbox) -> tuple[Writer, Wire]:
    made, wire = Writer(outbox, Rates(0)), Wire()
    made.transport = cast(asyncio.Transport, wire)
    return made, wire


@given(st.lists(st.tuples(st.sampled_from(["send", "write", "chunk", "turn"]), st.integers(0, 2))))
def test_nothing_overtakes_what_waits(steps: list[tuple[str, int]]) -> None:
    async def main() -> None:
        outbox = Outbox()
        writers = [writer(outbox) for _ in range(3)]
        given: list[list[bytes]] = [[], [], []]
        for number, (step, which) in enumerate(steps):
            target, wire = writers[which]
            data = b"%d;" % number
            if step == "turn":
                await asyncio.sleep(0)
                assert all(wire.told == said for (_, wire), said in zip(writers, given, strict=True))
                continue
            given[which].append(data if step != "chunk" else data + b"x\r\n")
            if step == "send":
                target.send(data)
            else:
                if step == "write":
                    target.write(data)
                else:
                    target.write_chunk(data, b"x")
                assert wire.told == given[which], "at once, and behind what waited"
        await asyncio.sleep(0)
        assert [wire.told for _, wire in writers] == given

    asyncio.run(main())


def test_who_writes_at_once_does_not_wake_others_for_nothing() -> None:
    async def main() -> None:
        outbox = Outbox()
        (one, first), (other, second) = writer(outbox), writer(outbox)
        one.send(b"1")
        other.write(b"2")
        assert (first.told, second.told) == ([], [b"2"])
        other.send(b"3")
        other.write(b"4")
        assert (first.told, second.told) == ([b"1"], [b"2", b"3", b"4"])

    asyncio.run(main())


@pytest.mark.parametrize(("how", "last"), [("end", "end"), ("close", "close"), ("reset", "abort")])
def test_the_end_comes_behind_what_waits(how: str, last: str) -> None:
    async def main() -> None:
        made, wire = writer(Outbox())
        made.send(b"1")
        getattr(made, how)()
        assert wire.told == [b"1", last]

    asyncio.run(main())


def test_what_is_written_is_counted_once() -> None:
    async def main() -> None:
        rates = Rates(0)
        made = Writer(Outbox(), rates)
        made.transport = cast(asyncio.Transport, Wire())
        made.send(b"123")
        made.write(b"45")
        made.write_chunk(b"6\r\n", b"78")
        await asyncio.sleep(0)
        assert rates.wrote == 12

    asyncio.run(main())


def test_to_a_connection_that_is_lost_nothing_is_written() -> None:
    made, wire = writer(Outbox())
    wire.unsent = 7
    assert made.unread() == 7
    made.transport = None
    made.write(b"1")
    made.write_chunk(b"2", b"3")
    made.close()
    made.reset()
    assert not made.end()
    assert made.unread() == 0
    assert wire.told == []
