"""The pipe between the processes of one agent."""

from __future__ import annotations

import asyncio
import socket

import pytest

from busmesh.agent.pipe import MAX_FRAME, Pipe
from busmesh.errors import RemoteProtocolError


def test_messages_come_in_order_and_the_end_is_none() -> None:
    asyncio.run(_in_order())


async def _in_order() -> None:
    here, there = socket.socketpair()
    one, other = await Pipe.over(here), await Pipe.over(there)
    assert one.send("entry", b"\x00" * 300_000)
    assert one.send("closed", "draining")
    assert await other.receive() == ["entry", b"\x00" * 300_000]
    assert await other.receive() == ["closed", "draining"]
    one.close()
    assert await other.receive() is None
    other.close()


def test_who_does_not_read_is_found_out() -> None:
    asyncio.run(_unread())


async def _unread() -> None:
    here, there = socket.socketpair()
    one = await Pipe.over(here)
    part = b"\x00" * 8_000_000
    sent = [one.send("entry", part) for _ in range(12)]
    assert sent[0]
    assert not sent[-1]
    one.close()
    there.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "frame", [(MAX_FRAME + 1).to_bytes(4), b"\x00\x00\x00\x01\x90", b"\x00\x00\x00\x01\x05"]
)
def test_what_no_process_writes_is_refused(frame: bytes) -> None:
    asyncio.run(_refused(frame))


async def _refused(frame: bytes) -> None:
    here, there = socket.socketpair()
    pipe = await Pipe.over(here)
    there.sendall(frame)
    with pytest.raises(RemoteProtocolError):
        await pipe.receive()
    pipe.close()
    there.close()
