"""Requests out of bytes, strictly: the sans-I/O half of the listener.

httptools finds the parts; what it lets through and should not is refused here. A message is never copied
through: it is taken apart and written anew from its parts, so what two parsers might understand differently
(RFC 9112 section 11.2) does not travel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import httptools

from busmesh.decide.request import RequestHead
from busmesh.relay.answers import Answer
from busmesh.wire.http import HOP_BY_HOP, MAX_HEADER_BLOCK, OWN_PREFIX, TOKEN


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener admits.

    Attributes:
        body: bytes of one request body; above it 413.
        header_bytes: bytes of request line and headers; above it 431. More serves hostile clients only.
        header_count: header lines; above it 431 (Envoy's default is 100 too).
        header_timeout: seconds from the first byte of a request to the end of its body's arrival.
        idle_timeout: seconds that a keep-alive connection may rest.
        connections: open connections; above it the newest gets a 503.
        pipelined: requests waiting on one connection before reading pauses.
    """

    body: int = 900 * 1024
    header_bytes: int = MAX_HEADER_BLOCK
    header_count: int = 100
    header_timeout: float = 10.0
    idle_timeout: float = 600.0
    connections: int = 10_000
    pipelined: int = 16


class Sink(Protocol):
    """Who is told what the parser found, in the order in which it came."""

    def begun(self) -> None:
        """A request has begun."""

    def proceed(self) -> None:
        """The client waits for ``100 Continue`` before it sends its body."""

    def parsed(self, request: ParsedRequest) -> None:
        """A request is whole."""

    def refused(self, answer: Answer) -> None:
        """What came is no request that this agent takes; nothing after it is trusted."""


class ParsedRequest:
    """One whole request.

    Attributes:
        authority: what the request is addressed to, from the URL or ``Host``.
        traceparent: the value of that header, which is not among those of ``head``.
        tracestate: whether the head has that header.
    """

    __slots__ = ("authority", "body", "head", "keep_alive", "traceparent", "tracestate")

    def __init__(
        self,
        head: RequestHead,
        authority: bytes,
        traceparent: bytes | None,
        tracestate: bool,
        body: bytes,
        keep_alive: bool,
    ) -> None:
        self.head = head
        self.authority = authority
        self.traceparent = traceparent
        self.tracestate = tracestate
        self.body = body
        self.keep_alive = keep_alive


def _bad(status: int, code: str, message: str) -> Answer:
    return Answer(status, "DPE", code, message)


_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#@]*)(.*)", re.DOTALL)
#: Visible ASCII and UTF-8 bytes; no fragment, blank or control character (RFC 9112 section 3.2).
_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*")
_LISTED = re.compile(TOKEN + rb"(?:[ \t]*,[ \t]*" + TOKEN + rb")*")
_DIGITS = re.compile(rb"[0-9]{1,19}")
#: Names that ``Connection`` may not take out of a request: routing, identity and trace depend on them.
_NOT_NOMINABLE = frozenset((b"host", b"authorization", b"cookie", b"traceparent", b"tracestate", b"baggage"))

_HOST, _CONNECTION, _LENGTH, _ENCODING, _TRACE, _STATE, _EXPECT, _DROP = range(1, 9)
_SPECIAL: dict[bytes, int] = {
    **dict.fromkeys(HOP_BY_HOP, _DROP),
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"content-length": _LENGTH,
    b"transfer-encoding": _ENCODING,
    b"traceparent": _TRACE,
    b"tracestate": _STATE,
    b"expect": _EXPECT,
    b"x-forwarded-client-cert": _DROP,
}


class RequestParser:
    """Parses one connection's requests; after a refusal it takes nothing more."""

    def __init__(self, sink: Sink, limits: Limits) -> None:
        self._sink = sink
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._reset()
        self.in_message = False
        self.failed = False

    def feed(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self.failed:
            return
        self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            message = "neither CONNECT nor Upgrade is relayed; use plain http:// requests"
            self._refuse(_bad(501, "upgrade_not_supported", message))
        except httptools.HttpParserError as error:
            self._refuse(_bad(400, "malformed_request", str(error) or type(error).__name__))
        if self._failure is not None:
            self._refuse(self._failure)  # without waiting for a body that nobody will read
        elif self.in_message and self._in_head and self._unparsed > self._limits.header_bytes:
            limit = self._limits.header_bytes
            self._refuse(_bad(431, "headers_too_large", f"more than {limit} bytes of headers"))

    def end(self) -> None:
        """Hear that the client sends nothing more."""
        if self.in_message:
            self._refuse(_bad(400, "incomplete_request", "the connection was closed within a request"))

    def late(self) -> None:
        """Hear that the request under way takes too long."""
        self._refuse(_bad(408, "request_timeout", "the request did not arrive in time"))

    def _refuse(self, answer: Answer) -> None:
        if not self.failed:
            self.failed = True
            self._sink.refused(answer)

    def _reset(self) -> None:
        self._in_head = True
        self._url = b""
        self._authority = b""
        self._lines: list[bytes] = []
        self._hosts: list[bytes] = []
        self._nominated: bytes = b""
        self._traceparent: bytes | None = None
        self._tracestate = False
        self._chunked = self._expects = False
        self._length = -1
        self._count = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._unparsed = 0
        self._failure: Answer | None = None

    # -- what httptools calls --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reset()
        self.in_message = True
        self._sink.begun()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer: nothing in it may pass for a header
            return
        self._count += 1
        lower = name.lower()
        special = _SPECIAL.get(lower)
        if special is None:
            if lower[:10] != OWN_PREFIX:
                self._lines += (name, b": ", value, b"\r\n")
        elif special is _HOST:
            self._hosts.append(value)
            self._lines += (name, b": ", value, b"\r\n")
        elif special is _TRACE:
            self._traceparent = None if self._traceparent is not None else value
        elif special is _STATE:
            self._tracestate = True
            self._lines += (name, b": ", value, b"\r\n")
        elif special is _CONNECTION:
            self._nominated += b"," + value if self._nominated else value
        elif special is not _DROP:
            self._failure = self._frame(special, value) or self._failure

    def _frame(self, special: int, value: bytes) -> Answer | None:
        """Take a header that says where the body ends; return what is wrong with it."""
        if special is _LENGTH:
            if self._length >= 0 or _DIGITS.fullmatch(value) is None:
                return _bad(400, "bad_content_length", "content-length is not one number")
            self._length = int(value)
        elif special is _ENCODING:
            if self._chunked or value.lower() != b"chunked":
                return _bad(501, "bad_transfer_encoding", "the only transfer-encoding understood is chunked")
            self._chunked = True
        elif special is _EXPECT:
            self._expects = value.lower() == b"100-continue"
            if not self._expects:
                return _bad(417, "bad_expectation", "the only expectation understood is 100-continue")
        return None

    def on_headers_complete(self) -> None:
        self._in_head = False
        failure = self._failure or self._judge_head()
        if failure is not None:
            self._failure = failure
        elif self._expects:
            self._sink.proceed()

    def _judge_head(self) -> Answer | None:
        if self._count > self._limits.header_count:
            return _bad(431, "too_many_headers", f"more than {self._limits.header_count} header lines")
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return _bad(505, "bad_version", "this agent speaks HTTP/1.1")
        if len(self._hosts) != 1 and not (version == "1.0" and not self._hosts and self._url[:1] != b"/"):
            return _bad(400, "bad_host", "a request carries exactly one Host header")
        if self._chunked and (version == "1.0" or self._length >= 0):
            return _bad(400, "ambiguous_length", "transfer-encoding with content-length or in HTTP/1.0")
        if self._length > self._limits.body:
            return self._too_large()
        return self._resolve_target()

    def _resolve_target(self) -> Answer | None:
        """Bring the target into origin-form and find the authority (RFC 9112 section 3.2)."""
        url = self._url
        host = self._hosts[0] if self._hosts else b""
        if url[:1] == b"/":
            self._authority = host
        elif url == b"*":
            self._authority = host
            if self._parser.get_method() != b"OPTIONS":
                return _bad(400, "bad_target", "* is for OPTIONS only")
            return None
        else:
            absolute = _ABSOLUTE.fullmatch(url)
            if absolute is None:
                message = "the target is neither a path nor an http:// URL; the mesh encrypts by itself"
                return _bad(400, "bad_target", message)
            self._authority, rest = absolute.groups()
            if host and host.lower() != self._authority.lower():
                return _bad(400, "conflicting_host", "the URL and the Host header name different authorities")
            if not host:
                self._lines[0:0] = (b"Host", b": ", self._authority, b"\r\n")
            url = rest if rest[:1] == b"/" else b"/" + rest
        if _TARGET.fullmatch(url) is None:
            return _bad(400, "bad_target", "the target holds characters that no URL has")
        self._url = url
        return None

    def _too_large(self) -> Answer:
        limit = self._limits.body
        message = f"a request body may have {limit} bytes; larger ones are not relayed yet"
        return _bad(413, "body_too_large", message)

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > self._limits.body:
            self._failure = self._failure or self._too_large()
        elif self._failure is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        self._unparsed = 0
        if self.failed or self._failure is not None:
            return
        if self._nominated and self._nominated.lower() not in (b"keep-alive", b"close"):
            if _LISTED.fullmatch(self._nominated) is None:
                message = "the Connection header is not a list of names"
                self._failure = _bad(400, "bad_connection_header", message)
                return
            self._drop_nominated()
        body = self._body
        self._sink.parsed(
            ParsedRequest(
                RequestHead.from_block(self._parser.get_method(), self._url, b"".join(self._lines)),
                self._authority,
                self._traceparent,
                self._tracestate,
                b"" if not body else body[0] if len(body) == 1 else b"".join(body),
                self._parser.should_keep_alive(),
            )
        )

    def _drop_nominated(self) -> None:
        """Take out the headers that ``Connection`` declares to be for this hop (RFC 9110 section 7.6.1)."""
        names = {name.strip().lower() for name in self._nominated.split(b",")} - _NOT_NOMINABLE
        lines = self._lines
        kept: list[bytes] = []
        for at in range(0, len(lines), 4):
            if lines[at].lower() not in names:
                kept += lines[at : at + 4]
        self._lines = kept
