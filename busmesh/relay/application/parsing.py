"""Responses out of bytes, strictly: the sans-I/O half of a connection to the application.

The application is as little trusted as a caller: its response is taken apart and written anew from its parts.
"""

from __future__ import annotations

import re
import time
from typing import Protocol

import httptools

from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.httpdate import date_line
from busmesh.relay.lines import Meanings
from busmesh.wire.http import HOP_BY_HOP, WRITTEN_BY_AGENTS
from busmesh.wire.stream import NOT_IN_TRAILERS

MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_LINES = 200

#: Interim responses before the final one; more are a way to keep the agent busy.
MAX_INTERIM = 100

#: No longer than what a frame has room for.
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]{0,255}")
_LENGTH, _ENCODING, _UPGRADE, _DATE, _GRPC, _LOAD, _DROP = range(1, 8)
_MEANINGS = Meanings(
    {
        **dict.fromkeys(HOP_BY_HOP | WRITTEN_BY_AGENTS, _DROP),
        b"content-length": _LENGTH,
        b"transfer-encoding": _ENCODING,
        b"upgrade": _UPGRADE,
        b"date": _DATE,
        b"grpc-status": _GRPC,
        b"endpoint-load-metrics": _LOAD,
        b"endpoint-load-metrics-bin": _DROP,
    },
    _DROP,
)
#: Interim responses that the parser knows to have no body; the final one follows (RFC 9110 section 15.2).
_INTERIM = (100, 102, 103)


class Asked(Protocol):
    """What a response answers.

    Attributes:
        call: None once nobody waits for it.
    """

    call: Call | None


class Speaker(Protocol):
    """The application whose responses are parsed.

    Attributes:
        report: what it last said of its load, and when (monotonic seconds).
    """

    report: tuple[bytes, float]

    @property
    def max_body(self) -> int:
        """Bytes that a response body may have."""


class _Stop(Exception):
    """Raised inside a callback of httptools: nothing of what is left may be parsed."""


class ResponseParser:
    """Parses one connection's responses, one call's after the other.

    Args:
        asked: whose response it is that comes.
        speaker: the application.

    Attributes:
        response: whole, and not yet taken by whoever reads this.
        failure: why there will be none; nothing more is parsed.
        reusable: another request may follow the response.
        has_head: the head of the final response is whole.
        until_close: its end is the end of the connection (RFC 9112 section 6.3).
        length: of its body, if it was declared.
        body: what came of it.
        trailers: lines behind it.
        upgrade: the protocol that was switched to.
        interims: how many came before it.
    """

    def __init__(self, asked: Asked, speaker: Speaker) -> None:
        self._asked = asked
        self._speaker = speaker
        self.body: list[bytes] = []
        #: What httptools calls for each part of a body, without a detour: a hostile application sends a chunk
        #: for each byte.
        self.on_body = self.body.append
        self._parser = httptools.HttpResponseParser(self)
        self.response: AppResponse | None = None
        self.failure: AppFailure | None = None
        self.reusable = False
        self.interims = 0
        self._fed = self._unparsed = 0
        self._begin()

    def renew(self) -> None:
        """Begin anew after a response to HEAD: httptools cannot be told that its body never comes."""
        self._parser = httptools.HttpResponseParser(self)

    def close(self) -> None:
        """Parse nothing more, and let go of the connection: what refers to each other is freed late."""
        del self._asked, self._parser

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; return what follows a switch to another protocol, None if there was none."""
        self._fed = len(data)
        self._unparsed += self._fed
        pieces = len(self.body)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as end:
            if self.failure is None and self.upgrade and self.response is None:
                return data[end.args[0] :]
            self.reusable = False
            self.failure = self.failure or _unexpected(101)
        except httptools.HttpParserError as error:
            self.reusable = False
            if self.failure is None:
                self.failure = _bad(f"is not valid HTTP/1.1: {error}")
        if len(self.body) > pieces:
            self._unparsed = 0
            self._weigh(pieces)
        if self.response is None and (self._unparsed > MAX_HEADER_BYTES or self._too_many()):
            self.failure = self.failure or _too_many_headers()
        return None

    # -- what httptools calls --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.response is not None:
            self.reusable = False  # a second response to one request
            raise _Stop
        self._begin()

    def _begin(self) -> None:
        self._reason = b""
        self._lines: list[bytes] = []
        self._dated = self._grpc = False
        self.trailers: list[bytes] = []
        #: Header lines that are in neither list.
        self._others = 0
        self.body.clear()
        self._size = 0
        self.length: int | None = None
        self._chunked = False
        self.until_close = False
        self._in_head = True
        self.has_head = False
        self.upgrade = b""
        #: Bytes received after those in which the response began, or since the last of its body.
        self._unparsed = 0
        self._began_in = self._fed

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        meaning = _MEANINGS[name]
        if not self._in_head:
            if self.response is not None:
                self.reusable = False  # trailers of a response that has no body
                raise _Stop
            if meaning in (0, _DATE, _GRPC) and name.lower() not in NOT_IN_TRAILERS:
                self.trailers += (name, b": ", value, b"\r\n")
        elif not meaning:  # nearly all
            self._lines += (name, b": ", value, b"\r\n")
        elif meaning == _DATE:
            self._dated = True
            self._lines += (name, b": ", value, b"\r\n")
        elif meaning == _GRPC:
            self._grpc = True
            self._lines += (name, b": ", value, b"\r\n")
        else:
            self._others += 1
            if meaning == _LOAD:
                self._speaker.report = (value, time.monotonic())
            elif meaning != _DROP:
                self._frame(meaning, value.rstrip(b" \t"))  # llhttp leaves blanks at the end of a value

    def _frame(self, meaning: int, value: bytes) -> None:
        """Take a header that says where the body ends, or what follows the head."""
        if meaning == _LENGTH:
            if self.length is not None or not value.isdigit():
                self._refuse(_bad("has more than one content-length"))
            self.length = int(value)
        elif meaning == _ENCODING:
            if self._chunked or value.lower() != b"chunked":
                self._refuse(_bad("has a transfer-encoding other than chunked"))
            self._chunked = True
        else:
            self.upgrade = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        status = self._parser.get_status_code()
        if not 200 <= status <= 599:
            self._judge_interim(status)
            return
        if self._too_long():
            self._refuse(_too_many_headers())
        if self._chunked and self.length is not None:
            self._refuse(_bad("has both transfer-encoding and content-length"))
        call = self._asked.call
        self.upgrade = b""
        self.has_head = True
        if call is not None and call.method == b"HEAD":
            self.response = self.collected()
            self.reusable = self._parser.should_keep_alive()
        elif self.length is None and not self._chunked and status not in (204, 304):
            self.until_close = True

    def _judge_interim(self, status: int) -> None:
        """Take a response that is not the final one: pass it on, or switch protocols if asked."""
        call = self._asked.call
        asked = call.opening if call is not None else None
        if status == 101 and asked is not None and asked.upgrade and not self._too_long():
            if self.upgrade.lower() != asked.upgrade.lower():
                self._refuse(_unexpected(status))
            return
        self.upgrade = b""
        if status not in _INTERIM:
            self._refuse(_unexpected(status))
        self.interims += 1
        if self.interims > MAX_INTERIM:
            self._refuse(_bad(f"comes after more than {MAX_INTERIM} interim ones"))
        wanted = status != 100 or (asked is not None and asked.expects)
        if call is not None and call.consumer is not None and wanted and not self._too_long():
            head = self.head()
            call.consumer.interim(status, head.reason, head.headers)

    def _too_many(self) -> bool:
        return self._others + (len(self._lines) + len(self.trailers)) // 4 > MAX_HEADER_LINES

    def _too_long(self) -> bool:
        if self._too_many():
            return True
        return self._began_in + self._unparsed > MAX_HEADER_BYTES and self._head_size() > MAX_HEADER_BYTES

    def _head_size(self) -> int:
        return len(self._reason) + sum(map(len, self._lines))

    def _weigh(self, pieces: int) -> None:
        """Look at what came of a body at once, behind so many ``pieces`` of it."""
        if self.response is not None:
            self.reusable = False  # the body of a response that has none
        elif self._awaited():
            self._size += sum(map(len, self.body[pieces:]))
            if self._size > self._speaker.max_body:
                self.failure = self.failure or self._too_large()

    def _awaited(self) -> bool:
        """Say whether a body is handed over when it is whole; one that goes on in parts has no bound."""
        call = self._asked.call
        return call is None or call.consumer is None

    def _judge_size(self) -> None:
        if self._awaited() and sum(map(len, self.body)) > self._speaker.max_body:
            self._refuse(self._too_large())

    def _too_large(self) -> AppFailure:
        message = f"a response body may have {self._speaker.max_body} bytes here"
        return AppFailure(True, "response_too_large", message)

    def on_message_complete(self) -> None:
        if self.response is None and self._parser.get_status_code() >= 200:
            if self.trailers and (sum(map(len, self.trailers)) > MAX_HEADER_BYTES or self._too_many()):
                self._refuse(_too_many_headers())
            if self._size + self._fed > self._speaker.max_body:  # no response has more than was fed
                self._judge_size()
            self.response = self.head(self.take_body())
            self.reusable = self._parser.should_keep_alive()

    def _refuse(self, failure: AppFailure) -> None:
        self.failure = failure
        raise _Stop

    def head(self, body: bytes = b"") -> AppResponse:
        """Return the response with this as its body."""
        block = b"".join(self._lines)
        if not self._dated and self.has_head:
            block += date_line()  # RFC 9110 section 6.6.1
        reason = self._reason
        if reason != b"OK" and _REASON.fullmatch(reason) is None:
            reason = b""
        return AppResponse(self._parser.get_status_code(), reason, block, body, self.length, self._grpc)

    def collected(self) -> AppResponse:
        """Return the response with what there is of its body."""
        return self.head(self.take_body())

    def take_body(self) -> bytes:
        """Return what came of the body since the last time."""
        pieces = self.body
        body = b"" if not pieces else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def __repr__(self) -> str:
        return f"<ResponseParser has_head={self.has_head} whole={self.response is not None}>"


def _bad(what: str) -> AppFailure:
    return AppFailure(True, "bad_response", f"the application's response {what}")


def _unexpected(status: int) -> AppFailure:
    if status == 101:
        message = "the application switched protocols, which nobody asked for"
        return AppFailure(True, "upgrade_not_supported", message)
    return _bad(f"has the status {status}")


def _too_many_headers() -> AppFailure:
    message = f"a response may have {MAX_HEADER_LINES} header lines of {MAX_HEADER_BYTES} bytes in all"
    return AppFailure(True, "response_headers_too_large", message)
