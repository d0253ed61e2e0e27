"""Where WebSocket frames end, however the bytes are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from busmesh.relay.inbound.websocket import GOING_AWAY, FrameCutter


def frame(opcode: int, payload: bytes, *, masked: bool = False) -> bytes:
    """Write a frame as RFC 6455 section 5.2 has it."""
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        length = bytes((bit | size,))
    elif size < 1 << 16:
        length = bytes((bit | 126,)) + size.to_bytes(2)
    else:
        length = bytes((bit | 127,)) + size.to_bytes(8)
    return bytes((0x80 | opcode,)) + length + (b"mask" if masked else b"") + payload


FRAMES = st.builds(
    lambda opcode, size, masked: frame(opcode, b"x" * size, masked=masked),
    st.sampled_from([0, 1, 2, 9, 10]),
    st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536]),
    st.booleans(),
)


@given(st.lists(FRAMES, min_size=1, max_size=4), st.lists(st.integers(1, 70_000), max_size=6))
def test_every_end_of_a_frame_is_found_and_no_other(frames: list[bytes], sizes: list[int]) -> None:
    data = b"".join(frames)
    ends = {sum(map(len, frames[: n + 1])) for n in range(len(frames))}
    cutter = FrameCutter()
    at = 0
    for size in [*sizes, len(data)]:
        piece = data[at : at + size]
        boundary = cutter.feed(piece)
        here = [end - at for end in ends if at < end <= at + len(piece)]
        assert boundary == max(here, default=0)
        at += len(piece)
        assert cutter.between == (at in ends or at == 0)
    assert not cutter.closing


def test_a_close_is_noticed_with_its_head() -> None:
    cutter = FrameCutter()
    cutter.feed(frame(1, b"hello") + GOING_AWAY[:2])
    assert cutter.closing
    assert not cutter.between
    cutter.feed(GOING_AWAY[2:])
    assert cutter.between
