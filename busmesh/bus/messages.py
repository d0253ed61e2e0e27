"""Messages as the bus hands them to whoever asked, and the waiting for them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from busmesh.errors import UsageError


@dataclass(frozen=True, slots=True)
class Message:
    """One message: subject and reply as text, payload, and the header block if it has one."""

    subject: str
    payload: bytes
    reply: str = ""
    headers: dict[str, str] = field(default_factory=dict)


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


_NAME = re.compile(r"[!-9;-~]+")
_VALUE = re.compile(r"[^\x00-\x1f\x7f]*")


def render_headers(headers: dict[str, str]) -> bytes:
    """Write a NATS header block.

    Raises:
        UsageError: a name or value that would be read as something else.
    """
    for name, value in headers.items():
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise UsageError(f"{name[:80]!r} is not a header with its value", code="BM1005")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()


#: What an answer costs of a budget beside its payload: about what Python needs to hold it.
ANSWER_COST = 512


class Waiting:
    """Answers to one question, within a budget: a flood of them cannot fill the memory.

    Args:
        subject: where the question went.
        budget: bytes; the answer that exceeds it is the last one taken. 1 means one answer.
    """

    __slots__ = ("_budget", "_queue", "subject")

    def __init__(self, subject: str, budget: int) -> None:
        self.subject = subject
        self._budget = budget
        self._queue: asyncio.Queue[Message | Exception] = asyncio.Queue(maxsize=budget // ANSWER_COST + 2)

    def take(self, answer: Message) -> None:
        if self._budget > 0:
            self._budget -= ANSWER_COST + len(answer.payload)
            self._queue.put_nowait(answer)

    def fail(self, error: Exception) -> None:
        """Have :meth:`next` raise ``error`` after the answers that came before."""
        if not self._queue.full():
            self._queue.put_nowait(error)

    async def next(self) -> Message:
        answer = await self._queue.get()
        if isinstance(answer, Exception):
            raise answer
        return answer
