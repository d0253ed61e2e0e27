"""Requests out of bytes, strictly: the sans-I/O half of the listener.

httptools finds the parts; what it lets through and should not is refused here. A message is never copied
through: it is taken apart and written anew from its parts, so what two parsers might understand differently
(RFC 9112 section 11.2) does not travel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

import httptools

from busmesh.decide.request import RequestHead
from busmesh.relay.client import refusals
from busmesh.relay.client.answers import Answer
from busmesh.relay.client.refusals import Limits, bad
from busmesh.relay.lines import Meanings, without
from busmesh.wire.http import HOP_BY_HOP, TOKEN
from busmesh.wire.stream import NOT_IN_TRAILERS, Opening


class Sink(Protocol):
    """Who is told what the parser found, in the order in which it came."""

    def begun(self) -> None:
        """A request has begun."""

    def parsed(
        self,
        head: RequestHead,
        authority: bytes,
        traceparent: bytes | None,
        tracestate: bool,
        body: bytes,
        keep_alive: bool,
        http10: bool,
        opening: Opening | None,
    ) -> None:
        """A request is whole, or more of its body follows.

        Args:
            authority: what the request is addressed to, from the URL or ``Host``.
            traceparent: the value of that header, which is not among those of ``head``.
            tracestate: whether the head has that header.
            body: as much of the body as has come; all of it, unless there is an ``opening``.
            keep_alive: whether the client may send another request on this connection.
            http10: the client speaks HTTP/1.0, which closes unless the answer says that it does not.
            opening: what is known of the rest of the body, None if there is none.
        """

    def body(self, data: bytes) -> None:
        """More of the open request's body; after an upgrade, whatever the client sends."""

    def ended(self, trailers: bytes) -> None:
        """The open request's body is whole."""

    def tunnelled(self) -> None:
        """A CONNECT is to be granted: requests follow as if the client had come here directly."""

    def refused(self, answer: Answer) -> None:
        """What came is no request that this agent takes; nothing after it is trusted."""


class _Stop(Exception):
    """Raised inside a callback of httptools: nothing of what is left may be parsed."""


#: Without userinfo, which RFC 9110 section 4.2.4 has recipients treat as an error.
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#@]*)((?:[/?].*)?)", re.DOTALL)
#: Visible ASCII and UTF-8 bytes; no fragment, blank or control character (RFC 9112 section 3.2).
_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*")
_TOKEN = re.compile(TOKEN)
_DIGITS = re.compile(rb"[0-9]{1,19}")
#: One protocol, as WebSocket's clients write it; a list is a choice that nobody needs.
_PROTOCOL = re.compile(TOKEN + rb"(?:/" + TOKEN + rb")?")
#: What is an offer to speak another HTTP, not a wish: ignoring it is an answer (RFC 9110 section 7.8).
_IGNORED_PROTOCOLS = (b"h2c", b"h2", b"http/2.0", b"tls/1.0")
#: Names that ``Connection`` may not take out of a request: routing, identity and trace depend on them.
_NOT_NOMINABLE = frozenset((b"host", b"authorization", b"cookie", b"traceparent", b"tracestate", b"baggage"))

_HOST, _CONNECTION, _LENGTH, _ENCODING, _TRACE, _STATE, _EXPECT, _UPGRADE, _DROP = range(1, 10)
_MEANINGS = Meanings(
    {
        **dict.fromkeys(HOP_BY_HOP, _DROP),
        b"host": _HOST,
        b"connection": _CONNECTION,
        b"content-length": _LENGTH,
        b"transfer-encoding": _ENCODING,
        b"traceparent": _TRACE,
        b"tracestate": _STATE,
        b"expect": _EXPECT,
        b"upgrade": _UPGRADE,
        b"x-forwarded-client-cert": _DROP,
    },
    _DROP,
)


def _without_port(authority: bytes) -> bytes:
    """Return what names the service: clients write port 80 in the URL and leave it out of ``Host``."""
    return authority.lower().removesuffix(b":80")


class RequestParser:
    """Parses one connection's requests; after a refusal it takes nothing more."""

    def __init__(self, sink: Sink, limits: Limits) -> None:
        self._sink = sink
        self._limits = limits
        self._body: list[bytes] = []
        #: What httptools calls for each part of a body, without a detour: a hostile client sends a chunk for
        #: each byte.
        self.on_body: Callable[[bytes], None] = self._body.append if limits.body is None else self._on_bounded
        self._parser = httptools.HttpRequestParser(self)
        self._fed = self._unparsed = 0
        self.in_message = False
        self.failed = False
        #: The body of the request under way is passed on while it comes.
        self._opened = False
        self._expects = False
        #: The client has asked for another protocol: what follows is not HTTP.
        self.switched = False
        self._reset()

    def feed(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self.failed:
            return
        if self.switched:
            self._sink.body(data)
            return
        self._fed = len(data)
        self._unparsed += self._fed
        rest: bytes | memoryview = data
        while rest:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as end:
                rest = self._after_upgrade(memoryview(rest)[end.args[0] :])
                continue
            except httptools.HttpParserError as error:
                self._refuse(bad(400, "malformed_request", str(error) or type(error).__name__))
            break
        if self.in_message and not self.failed:
            if self._body:
                self._unparsed = 0
            self._watch_size()
            if not self._in_head and not self.failed:
                self._pass_on()

    def _after_upgrade(self, rest: memoryview) -> memoryview:
        """Settle what follows a request after which llhttp does not go on; return what is to be parsed."""
        if self.switched:
            if rest:
                self._sink.body(bytes(rest))
            return rest[:0]
        # After a CONNECT or an ignored upgrade requests follow.
        self._parser = httptools.HttpRequestParser(self)
        return rest

    def _pass_on(self) -> None:
        """Give away what came of a body that does not have to be awaited."""
        if self._opened:
            if self._body:
                self._sink.body(self._take_body())
        elif self._expects or not 0 <= self._length <= self._limits.whole:
            self._opened = True
            length = self._length if self._length >= 0 else None
            self._tell(Opening(length, self._expects))

    def _watch_size(self) -> None:
        """Bound what an incomplete request makes httptools and us keep; its body has a bound of its own."""
        limits = self._limits
        if self._in_head:
            if self._unparsed > limits.header_bytes:
                self._refuse(refusals.headers_too_large(limits))
            elif self._header_count() > limits.header_count:
                self._refuse(refusals.too_many_headers(limits))
        elif self._unparsed > limits.header_bytes:
            self._refuse(refusals.trailers_too_large(limits))

    def end(self) -> None:
        """Hear that the client sends nothing more."""
        if self.in_message:
            self._refuse(bad(400, "incomplete_request", "the connection was closed within a request"))

    def late(self) -> None:
        """Hear that the request under way takes too long."""
        if self.in_body:
            self._refuse(refusals.body_too_slow(self._limits))
        else:
            self._refuse(bad(408, "request_timeout", "the request did not arrive in time"))

    def stop(self) -> None:
        """Take nothing more: the connection is at its end."""
        self.failed = True

    def close(self) -> None:
        """Take nothing more, and let go of whoever is told: the connection is gone.

        What refers to each other waits for the collector, which comes rarely: thousands of connections would.
        """
        self.failed = True
        del self._sink, self._parser, self.on_body

    @property
    def in_body(self) -> bool:
        """True while the body of a request is on its way to where it goes."""
        return self._opened and self.in_message

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
        self._chunked = self._tunnel = self._http10 = False
        self._expects = False
        self._opened = False
        self._trailers: list[bytes] = []
        self._upgrade = b""
        self._length: int = -1
        #: Header lines that are in neither list.
        self._others = 0
        self._body.clear()
        self._body_size = 0
        #: Bytes given to httptools after those in which the request began, or since the last of its body.
        self._unparsed = 0
        self._began_in = self._fed
        self._failure: Answer | None = None

    # -- what httptools calls --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reset()
        self.in_message = True
        self._sink.begun()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        meaning = _MEANINGS[name]
        if not self._in_head:  # a trailer: nothing in it may pass for a header
            if not meaning and name.lower() not in NOT_IN_TRAILERS:
                self._trailers += (name, b": ", value, b"\r\n")
                if len(self._trailers) > 4 * self._limits.header_count:
                    self._refuse(refusals.trailers_too_large(self._limits))
                    raise _Stop
            return
        if not meaning:  # nearly all
            self._lines += (name, b": ", value, b"\r\n")
        elif meaning == _HOST:
            self._hosts.append(value.rstrip(b" \t"))
            self._lines += (name, b": ", value, b"\r\n")
        elif meaning == _STATE:
            self._tracestate = True
            self._lines += (name, b": ", value, b"\r\n")
        else:
            self._others += 1
            self._settle(meaning, value)

    def _settle(self, meaning: int, value: bytes) -> None:
        """Take a header that does not travel as it is."""
        if meaning == _TRACE:
            self._traceparent = value.rstrip(b" \t") if self._traceparent is None else b""  # of two, neither
        elif meaning == _CONNECTION:
            self._nominated += b"," + value if self._nominated else value
        elif meaning != _DROP:
            self._failure = self._frame(meaning, value) or self._failure

    def _frame(self, meaning: int, value: bytes) -> Answer | None:
        """Take a header that says where the body ends; return what is wrong with it."""
        value = value.rstrip(b" \t")  # llhttp leaves blanks at the end of a value
        if meaning == _LENGTH:
            if self._length >= 0 or _DIGITS.fullmatch(value) is None:
                return bad(400, "bad_content_length", "content-length is not one number")
            self._length = int(value)
        elif meaning == _ENCODING:
            if self._chunked or value.lower() != b"chunked":
                return bad(501, "bad_transfer_encoding", "the only transfer-encoding understood is chunked")
            self._chunked = True
        elif meaning == _UPGRADE:
            self._upgrade = b"," if self._upgrade else value  # of two, neither
        elif meaning == _EXPECT:
            self._expects = value.lower() == b"100-continue"
            if not self._expects:
                return bad(417, "bad_expectation", "the only expectation understood is 100-continue")
        return None

    def on_headers_complete(self) -> None:
        self._in_head = False
        failure = self._failure or self._judge_head()
        if failure is not None:
            self._refuse(failure)  # at once: the next request in these bytes must not take this one's place
            raise _Stop
        if self._nominated and self._nominated.lower() not in (b"keep-alive", b"close"):
            self._drop_nominated()

    def _judge_head(self) -> Answer | None:
        limits = self._limits
        if self._header_count() > limits.header_count:
            return refusals.too_many_headers(limits)
        if self._began_in + self._unparsed > limits.header_bytes and self._head_size() > limits.header_bytes:
            return refusals.headers_too_large(limits)
        version = self._parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                return bad(505, "bad_version", "this agent speaks HTTP/1.1")
            self._http10 = True
            self._expects = False  # RFC 9110 section 10.1.1
        if self._upgrade and self._parser.should_upgrade() and not self._may_upgrade():
            return refusals.no_upgrade()
        if len(self._hosts) != 1 and not (self._http10 and not self._hosts and self._url[:1] != b"/"):
            return bad(400, "bad_host", "a request carries exactly one Host header")
        if self._chunked and (self._http10 or self._length >= 0):
            return bad(400, "ambiguous_length", "transfer-encoding with content-length or in HTTP/1.0")
        if limits.body is not None and self._length > limits.body:
            return refusals.body_too_large(self._limits)
        return self._resolve_target()

    def _may_upgrade(self) -> bool:
        """Settle what becomes of an upgrade; llhttp takes no body with one, so there must be none."""
        if self._chunked or self._length > 0 or self._parser.get_method() == b"CONNECT":
            return False
        if self._upgrade.lower() in _IGNORED_PROTOCOLS:
            return True
        if self._http10 or not self._limits.upgrades or _PROTOCOL.fullmatch(self._upgrade) is None:
            return False
        self.switched = True
        return True

    def _header_count(self) -> int:
        return self._others + len(self._lines) // 4

    def _head_size(self) -> int:
        return len(self._url) + sum(map(len, self._lines))

    def _resolve_target(self) -> Answer | None:
        """Bring the target into origin-form and find the authority (RFC 9112 section 3.2)."""
        url = self._url
        host = self._hosts[0] if self._hosts else b""
        if url[:1] == b"/":
            self._authority = host
        elif url == b"*":
            self._authority = host
            if self._parser.get_method() != b"OPTIONS":
                return bad(400, "bad_target", "* is for OPTIONS only")
            return None
        else:
            if self._parser.get_method() == b"CONNECT":
                return self._judge_tunnel(url, host)
            absolute = _ABSOLUTE.fullmatch(url)
            if absolute is None:
                return refusals.no_tls()
            self._authority, rest = absolute.groups()
            if host and _without_port(host) != _without_port(self._authority):
                return refusals.conflicting_host()
            if not host:
                self._lines[0:0] = (b"Host", b": ", self._authority, b"\r\n")
            url = rest if rest[:1] == b"/" else b"/" + rest
        if _TARGET.fullmatch(url) is None:
            return bad(400, "bad_target", "the target holds characters that no URL has")
        self._url = url
        return None

    def _judge_tunnel(self, url: bytes, host: bytes) -> Answer | None:
        """Some clients, Node's fetch among them, ask a proxy for a tunnel also for ``http://`` URLs."""
        if not self._limits.tunnels or self._chunked or self._length > 0:
            return refusals.no_upgrade()
        if url.endswith(b":443"):
            return refusals.no_tls()
        if host and _without_port(host) != _without_port(url):
            return refusals.conflicting_host()
        self._tunnel = True
        return None

    def _on_bounded(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._limits.body is not None and self._body_size > self._limits.body:
            self._refuse(refusals.body_too_large(self._limits))
            raise _Stop
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        self._unparsed = 0
        if self._tunnel:
            self._sink.tunnelled()
        elif self.switched:
            self._tell(Opening(upgrade=self._upgrade))
        elif self._opened:
            trailers = self._take_trailers()
            if self._body:
                self._sink.body(self._take_body())
            self._sink.ended(trailers)
        elif self._trailers and (trailers := self._take_trailers()):
            self._tell(Opening())
            self._sink.ended(trailers)
        else:
            self._tell(None)

    def _tell(self, opening: Opening | None) -> None:
        """Give away a request."""
        block = b"".join(self._lines)
        self._sink.parsed(
            RequestHead.from_block(self._parser.get_method(), self._url, block),
            self._authority,
            self._traceparent,
            self._tracestate,
            self._take_body(),
            self._parser.should_keep_alive(),
            self._http10,
            opening,
        )

    def _take_trailers(self) -> bytes:
        if sum(map(len, self._trailers)) > self._limits.header_bytes:
            self._refuse(refusals.trailers_too_large(self._limits))
            raise _Stop
        return b"".join(self._trailers)

    def _take_body(self) -> bytes:
        pieces = self._body
        body = b"" if not pieces else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def _drop_nominated(self) -> None:
        """Take out the headers that ``Connection`` declares to be for this hop (RFC 9110 section 7.6.1)."""
        names = {name.strip(b" \t").lower() for name in self._nominated.split(b",")} - _NOT_NOMINABLE
        names.discard(b"")  # empty elements of a list mean nothing (RFC 9110 section 5.6.1)
        if not all(map(_TOKEN.fullmatch, names)):
            self._refuse(bad(400, "bad_connection_header", "the Connection header is not a list of names"))
            raise _Stop
        self._lines = without(self._lines, names.__contains__)
