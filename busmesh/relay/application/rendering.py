"""A request as it is written to the application: in origin-form, with a framing of our own."""

from __future__ import annotations

from busmesh.wire.stream import Opening


def render_request(method: bytes, target: bytes, headers: bytes, body: bytes) -> bytes:
    """Write a request in origin-form; the framing follows from the body."""
    if body or method in (b"POST", b"PUT", b"PATCH"):
        return b"%b %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (
            method,
            target,
            headers,
            len(body),
            body,
        )
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, headers)


def render_opening(method: bytes, target: bytes, headers: bytes, body: bytes, opening: Opening) -> bytes:
    """Write the head of a request whose body follows, and what there is of that body."""
    if opening.upgrade:
        framing = b"connection: upgrade\r\nupgrade: %b\r\n" % opening.upgrade
    elif opening.length is not None:
        framing = b"content-length: %d\r\n" % opening.length
    else:
        framing = b"transfer-encoding: chunked\r\n"
        body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    expects = b"expect: 100-continue\r\n" if opening.expects else b""
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (method, target, headers, framing, expects, body)
