"""Messages as the bus hands them to whoever asked, and the waiting for them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Message:
    """One message: subject and reply as text, payload, and the header block if it has one."""

    subject: str
    payload: bytes
    reply: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        """nats-py's name for the payload; its JetStream code reads answers through it."""
        return self.payload

    @property
    def header(self) -> dict[str, str]:
        return self.headers


def is_no_responders(headers: bytes) -> bool:
    """Say whether a header block is the server's "nobody listens to what you published"."""
    return headers.startswith(b"NATS/1.0 503")


def parse_headers(block: bytes) -> dict[str, str]:
    """Read a NATS header block leniently: what is malformed is left out, nothing is raised."""
    lines = block.split(b"\r\n")
    found: dict[str, str] = {}
    status = lines[0][len(b"NATS/1.0") :].strip().decode("utf-8", "replace")
    if status:
        code, _, description = status.partition(" ")
        found["Status"], found["Description"] = code, description
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return found


class Waiting:
    """Answers to one question; bounded, so that a flood of answers cannot fill the memory."""

    __slots__ = ("_queue", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._queue: asyncio.Queue[Message | Exception] = asyncio.Queue(maxsize=4096)

    def take(self, answer: Message | Exception) -> None:
        if not self._queue.full():
            self._queue.put_nowait(answer)

    fail = take

    async def next(self) -> Message:
        answer = await self._queue.get()
        if isinstance(answer, Exception):
            raise answer
        return answer
