"""The caller's agent may be hostile: what its frames may hold is judged again where they arrive."""

from __future__ import annotations

import pytest

from busmesh.errors import RemoteProtocolError
from busmesh.wire.http import MAX_HEADER_BLOCK, check_headers, decode_request, encode_request


@pytest.mark.parametrize(
    "line",
    [
        b"x-forwarded-client-cert: URI=spiffe://local/ns/default/svc/admin",
        b"X_Forwarded_Client_Cert: URI=spiffe://local/ns/default/svc/admin",
        b"x-forwarded_client-cert: a",
        b"x-busmesh-flags: a",
        b"x_busmesh_flags: a",
        b"X-Busmesh_Anything: a",
        b"Content-Length: 3",
        b"content_length: 3",
        b"Transfer-Encoding: chunked",
        b"Transfer_Encoding: chunked",
        b"Connection: close",
        b"Proxy_Connection: close",
        b"Expect: 100-continue",
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\x00b",
        b"X : a",
        b" X: a",
        b": a",
        b"X",
        b"X: a\r\n\r\nGET / HTTP/1.1",
    ],
)
def test_header_lines_that_no_agent_writes(line: bytes) -> None:
    """An application that follows CGI takes ``x_y`` for ``x-y``: an identity could be written that way."""
    with pytest.raises(RemoteProtocolError):
        check_headers(b"A: b\r\n" + line + b"\r\nC: d\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"X_Custom: a",
        b"x-forwarded-for: 1.2.3.4",
        b"my-x-busmesh-like: a",
        b"Connections: 3",
        b"X:",
        b"X:\ta\xff",
    ],
)
def test_header_lines_of_applications_pass(line: bytes) -> None:
    check_headers(line + b"\r\n")


def test_the_block_has_a_bound_with_room_for_what_agents_add() -> None:
    """A listener admits 64 KiB; the trace context and a policy's headers come on top."""
    check_headers(b"X: " + b"a" * (64 * 1024) + b"\r\n")
    with pytest.raises(RemoteProtocolError):
        check_headers(b"X: " + b"a" * MAX_HEADER_BLOCK + b"\r\n")


@pytest.mark.parametrize("target", [b"", b"a", b"/a b", b"/a\r\n", b"/\x00", b"http://a/", b"/a\x7f"])
def test_targets_that_no_agent_writes(target: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_request(encode_request(0, 0, b"GET", target, b"", b""))


@pytest.mark.parametrize("method", [b"", b"GE T", b"GET\r\n", b"G\x00"])
def test_methods_that_no_agent_writes(method: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_request(encode_request(0, 0, method, b"/", b"", b""))
