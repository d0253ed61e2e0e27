"""The server's side of the NATS protocol, cut into messages without a task or a copy too many.

It replaces nats-py's parser: that one awaits a coroutine per message, and ends its read loop for good at
the first message whose headers it dislikes. Here a message is handed over as bytes, unjudged.

Protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

from __future__ import annotations

from collections.abc import Callable

from busmesh.errors import RemoteProtocolError

#: (subscription id, subject, reply subject or b"", payload, header block or b"").
OnMessage = Callable[[int, bytes, bytes, bytes, bytes], None]
#: A protocol line that is no message: PING, PONG, +OK, -ERR ..., INFO ...
OnControl = Callable[[bytes], None]

#: An INFO line lists every server of a cluster; a message line never comes near this.
MAX_CONTROL_LINE = 64 * 1024
#: The server refuses larger payloads itself (its own ceiling is 64 MiB).
MAX_PAYLOAD = 64 * 1024 * 1024


class Parser:
    """Cuts a byte stream into messages and control lines; keeps what is incomplete."""

    def __init__(self, on_message: OnMessage, on_control: OnControl) -> None:
        self._on_message = on_message
        self._on_control = on_control
        self.reset()

    def reset(self) -> None:
        """Forget an incomplete message: the next byte begins a new connection."""
        self._held: list[bytes] = []
        self._held_size = 0
        self._needed = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes; call back for each complete message or line in them.

        Raises:
            RemoteProtocolError: the bytes are not NATS; the connection is of no further use.
        """
        if self._held:
            # Joined only once there is enough, so that a message of 1 MB in 40 reads is copied once.
            self._held.append(data)
            self._held_size += len(data)
            if self._held_size < self._needed:
                return
            data = b"".join(self._held)
            self._held.clear()
        rest = self._cut(data)
        if rest < len(data):
            self._held.append(data[rest:])
            self._held_size = len(data) - rest
            self._needed -= rest

    def _cut(self, data: bytes) -> int:
        """Hand over all complete messages; return where the incomplete rest begins."""
        at, end = 0, len(data)
        on_message = self._on_message
        while at < end:
            eol = data.find(b"\r\n", at)
            if eol < 0:
                if end - at > MAX_CONTROL_LINE:
                    raise RemoteProtocolError("the bus sent a line without end")
                self._needed = end + 1
                return at
            kind = data[at : at + 4]
            if kind != b"MSG " and kind != b"HMSG":
                self._on_control(data[at:eol])
                at = eol + 2
                continue
            start, header = eol + 2, 0
            try:
                if kind == b"MSG ":
                    words = data[at + 4 : eol].split(b" ")
                    if len(words) == 3:
                        words.insert(2, b"")
                    subject, number, reply, length = words
                else:
                    words = data[at + 5 : eol].split(b" ")
                    if len(words) == 4:
                        words.insert(2, b"")
                    subject, number, reply, block, length = words
                    header = int(block)
                sid, size = int(number), int(length)
            except ValueError:
                raise RemoteProtocolError("the bus sent a malformed message line") from None
            if not 0 <= header <= size <= MAX_PAYLOAD:
                raise RemoteProtocolError("the bus sent a message with impossible sizes")
            stop = start + size
            if stop + 2 > end:
                self._needed = stop + 2
                return at
            if header:
                body = start + header
                on_message(sid, subject, reply, data[body:stop], data[start:body])
            else:
                on_message(sid, subject, reply, data[start:stop], b"")
            at = stop + 2
        return at
