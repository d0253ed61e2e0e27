"""A response's bytes: its head, and that its end is where the client looks for it."""

from __future__ import annotations

from typing import cast

import pytest

from busmesh.decide.request import RequestHead
from busmesh.errors import RemoteProtocolError
from busmesh.relay.client.answers import Answer
from busmesh.relay.client.request import Client, Request
from busmesh.relay.client.response import Framing, Response, interim, last
from busmesh.wire.stream import Opening

DATE = b"date: now\r\n"


def asked(method: bytes = b"GET", http10: bool = False, upgrade: bytes = b"") -> Request:
    head = RequestHead.from_block(method, b"/", b"Host: orders\r\n")
    opening = Opening(upgrade=upgrade) if upgrade else None
    return Request(cast(Client, None), head, b"orders", None, False, b"", True, http10, opening)


@pytest.mark.parametrize(
    ("request_", "status", "declared", "keep", "lines", "body"),
    [
        (asked(), 200, None, True, b"content-length: 3\r\n", b"abc"),
        (asked(), 200, None, False, b"content-length: 3\r\nconnection: close\r\n", b"abc"),
        (asked(http10=True), 200, None, True, b"content-length: 3\r\nconnection: keep-alive\r\n", b"abc"),
        (asked(http10=True), 200, None, False, b"content-length: 3\r\nconnection: close\r\n", b"abc"),
        (asked(b"HEAD"), 200, 7, True, b"content-length: 7\r\n", b""),
        (asked(b"HEAD"), 200, None, True, b"", b""),
        (asked(), 304, 7, True, b"content-length: 7\r\n", b""),
        (asked(), 204, 7, True, b"", b""),
    ],
)
def test_a_whole_response(
    request_: Request, status: int, declared: int | None, keep: bool, lines: bytes, body: bytes
) -> None:
    response = Response()
    data = response.whole(request_, status, b"Why", DATE, b"abc", declared, keep)
    assert data == b"HTTP/1.1 %d Why\r\n%b%b\r\n%b" % (status, DATE, lines, body)
    assert (response.keep, response.framing) == (keep, Framing.NONE)


@pytest.mark.parametrize(
    ("request_", "opening", "framing", "keep", "lines"),
    [
        (asked(), Opening(3), Framing.LENGTH, True, b"content-length: 3\r\n"),
        (asked(), Opening(), Framing.CHUNKED, True, b"transfer-encoding: chunked\r\n"),
        (asked(http10=True), Opening(), Framing.CLOSE, False, b"connection: close\r\n"),
        (
            asked(http10=True),
            Opening(3),
            Framing.LENGTH,
            True,
            b"content-length: 3\r\nconnection: keep-alive\r\n",
        ),
        (
            asked(upgrade=b"WebSocket"),
            Opening(upgrade=b"websocket"),
            Framing.SWITCHED,
            True,
            b"connection: upgrade\r\nupgrade: websocket\r\n",
        ),
    ],
)
def test_the_head_of_a_response_in_parts(
    request_: Request, opening: Opening, framing: Framing, keep: bool, lines: bytes
) -> None:
    response = Response()
    assert response.begin(request_, 200, b"OK", DATE, opening, True) == b"HTTP/1.1 200 OK\r\n%b%b\r\n" % (
        DATE,
        lines,
    )
    assert (response.framing, response.keep) == (framing, keep)


@pytest.mark.parametrize(
    ("request_", "status", "opening"),
    [
        (asked(b"HEAD"), 200, Opening(3)),
        (asked(), 204, Opening()),
        (asked(), 304, Opening()),
        (asked(), 101, Opening(upgrade=b"websocket")),
        (asked(upgrade=b"websocket"), 101, Opening(upgrade=b"other")),
    ],
)
def test_what_no_response_is_changes_nothing(request_: Request, status: int, opening: Opening) -> None:
    response = Response()
    with pytest.raises(RemoteProtocolError):
        response.begin(request_, status, b"", b"", opening, True)
    assert (response.framing, response.keep) == (Framing.NONE, True)


def test_parts_and_end() -> None:
    chunked, measured, switched = Response(), Response(), Response()
    chunked.begin(asked(), 200, b"OK", b"", Opening(), True)
    assert chunked.part(17) == b"11\r\n"
    assert chunked.end(b"X: y\r\n") == b"0\r\nX: y\r\n\r\n"
    measured.begin(asked(), 200, b"OK", b"", Opening(3), True)
    assert measured.part(2) == b""
    with pytest.raises(RemoteProtocolError, match="less"):
        measured.end(b"")
    assert measured.part(1) == b""
    assert measured.end(b"") == b""
    with pytest.raises(RemoteProtocolError, match="more"):
        measured.part(1)
    switched.begin(asked(upgrade=b"chat"), 101, b"", b"", Opening(upgrade=b"chat"), True)
    assert switched.part(1) == b""
    assert switched.end(b"") == b""


def test_what_is_no_answer_to_a_request() -> None:
    assert interim(103, b"Early Hints", b"link: <x>\r\n") == b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"
    said = last(Answer(400, "DPE", "bad_target", "no"))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert head.endswith(b"content-length: %d\r\nconnection: close" % len(body))
