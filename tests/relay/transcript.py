"""What a request parser tells, written down as one line each: a test reads like the conversation."""

from __future__ import annotations

from typing import Any, NamedTuple

from busmesh.decide.request import RequestHead
from busmesh.relay.client.answers import Answer
from busmesh.relay.client.parsing import RequestParser
from busmesh.relay.client.refusals import Limits
from busmesh.wire.stream import Opening


class Parsed(NamedTuple):
    """What a parser tells of a request."""

    head: RequestHead
    authority: bytes
    traceparent: bytes | None
    tracestate: bool
    body: bytes
    keep_alive: bool
    http10: bool
    opening: Opening | None


class Transcript:
    """A sink that remembers; ``lines`` says what came, ``requests`` and ``refusals`` keep it whole.

    ``bodies`` and ``trailers`` are those of the requests, whether they came at once or in parts.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.requests: list[Parsed] = []
        self.bodies: list[bytes] = []
        #: None while the end of a request is awaited.
        self.trailers: list[bytes | None] = []
        self.refusals: list[Answer] = []

    def begun(self) -> None:
        """Needed by timeouts only."""

    def parsed(self, *parts: Any) -> None:
        request = Parsed(*parts)
        assert None not in self.trailers, "a request within the body of another"
        self.requests.append(request)
        self.bodies.append(request.body)
        self.trailers.append(None if request.opening is not None else b"")
        head = request.head
        line = b"%b %b for %b" % (head.method, head.target, request.authority)
        size = f" with {len(request.body)} bytes" if request.body else ""
        opening = "" if request.opening is None else f" opening {_said(request.opening)}"
        self.lines.append(line.decode("latin-1") + size + opening)

    def body(self, data: bytes) -> None:
        assert self.trailers[-1] is None, "more of a body that has ended"
        self.bodies[-1] += data
        self.lines.append(f"{len(data)} bytes")

    def ended(self, trailers: bytes) -> None:
        assert self.trailers[-1] is None, "a second end"
        self.trailers[-1] = trailers
        self.lines.append(f"end {trailers.decode('latin-1')}".strip())

    def tunnelled(self) -> None:
        assert None not in self.trailers, "a tunnel within the body of a request"
        self.lines.append("tunnel")

    def refused(self, answer: Answer) -> None:
        self.refusals.append(answer)
        self.lines.append(f"refused: {answer.status} {answer.code}")


def _said(opening: Opening) -> str:
    if opening.upgrade:
        return opening.upgrade.decode()
    length = "any" if opening.length is None else str(opening.length)
    return f"{length} expecting" if opening.expects else length


def parse(*pieces: bytes, limits: Limits | None = None, end: bool = False) -> Transcript:
    """Feed the pieces to a parser, one read after the other, and then the end if asked."""
    transcript = Transcript()
    parser = RequestParser(transcript, limits or Limits())
    for piece in pieces:
        parser.feed(piece)
    if end:
        parser.end()
    return transcript


def request(
    *headers: str, line: str = "GET / HTTP/1.1", host: str = "Host: orders", body: bytes = b""
) -> bytes:
    """Write a request of the lines given."""
    lines = [line, *([host] if host else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
