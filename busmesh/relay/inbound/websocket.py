"""WebSocket frames (RFC 6455) as far as the mesh looks at them: where one ends, so that a close may follow.

When an agent drains, the WebSockets of its application are told to go as a server tells them, by a Close
frame with status 1001: clients then connect anew, to another instance, instead of being cut off.
"""

from __future__ import annotations

#: FIN and Close, two bytes of payload: 1001, "going away" (section 7.4.1). Servers do not mask (section 5.1).
GOING_AWAY = b"\x88\x02" + (1001).to_bytes(2)
_CLOSE = 0x8


class FrameCutter:
    """Follows the frames that a server sends, in pieces of any size.

    Attributes:
        closing: a Close frame has been seen: nothing may follow it.
    """

    __slots__ = ("_head", "_left", "closing")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0  # bytes of the frame under way
        self.closing = False

    @property
    def between(self) -> bool:
        """Whether what came so far ends where a frame ends."""
        return not self._head and not self._left

    def feed(self, data: bytes) -> int:
        """Take what the server sent; return how much of it belongs to frames that began before or end here.

        That is the offset of the last place in ``data`` between two frames, 0 if there is none: what is
        inserted there disturbs nobody.
        """
        at = boundary = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
            else:
                self._head += data[at : at + 1]
                at += 1
                self._read_head()
            if self.between:
                boundary = at
        return boundary

    def _read_head(self) -> None:
        """Find the frame's length once its head is whole: 2 bytes, 4 or 10, and 4 more with a mask."""
        head = self._head
        if len(head) < 2:
            return
        short = head[1] & 0x7F
        wide = {126: 2, 127: 8}.get(short, 0)
        if len(head) < 2 + wide:
            return
        size = int.from_bytes(head[2 : 2 + wide]) if wide else short
        self._left = size + (4 if head[1] & 0x80 else 0)
        self.closing = self.closing or head[0] & 0x0F == _CLOSE
        self._head = b""

    def __repr__(self) -> str:
        return f"<FrameCutter left={self._left} closing={self.closing}>"
