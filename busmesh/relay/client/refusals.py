"""What a listener admits, and what it says to a request that it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from busmesh.relay.client.answers import Answer


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener admits.

    Attributes:
        body: bytes of one request body, None for any; above it 413.
        whole: a body whose length is declared and not above this is awaited and sent in one piece with its
            head; any other is sent while it comes.
        header_bytes: bytes of target and headers, and of trailers; above it 431. More serves hostile clients
            only.
        header_count: header lines; above it 431 (Envoy's default is 100 too).
        header_timeout: seconds from the first byte of a request to the end of its head, or of its body if
            that is awaited.
        min_rate: bytes a second that the body of a request must come with, and an answer be taken with, as an
            average over ``rate_grace`` seconds (Kestrel's defaults); 0 for any.
        rate_grace: see ``min_rate``.
        idle_timeout: seconds that a keep-alive connection may rest.
        connections: open connections; above it the newest gets a 503.
        pipelined: requests waiting on one connection before reading pauses.
        tunnels: whether CONNECT is granted, as to a proxy.
        upgrades: whether another protocol may be switched to, WebSocket above all.
    """

    body: int | None = None
    whole: int = 64 * 1024
    header_bytes: int = 64 * 1024
    header_count: int = 100
    header_timeout: float = 10.0
    min_rate: int = 240
    rate_grace: float = 5.0
    idle_timeout: float = 600.0
    connections: int = 10_000
    pipelined: int = 16
    tunnels: bool = True
    upgrades: bool = True


def bad(status: int, code: str, message: str) -> Answer:
    return Answer(status, "DPE", code, message)


def no_upgrade() -> Answer:
    message = "this switch to another protocol than HTTP/1.1 is not relayed; use plain http:// requests"
    return bad(501, "upgrade_not_supported", message)


def no_tls() -> Answer:
    message = "the target is neither a path nor a plain http:// URL; the mesh encrypts by itself"
    return bad(400, "bad_target", message)


def conflicting_host() -> Answer:
    message = "the URL and the Host header name different authorities"
    return bad(400, "conflicting_host", message)


def headers_too_large(limits: Limits) -> Answer:
    return bad(431, "headers_too_large", f"more than {limits.header_bytes} bytes of headers")


def too_many_headers(limits: Limits) -> Answer:
    return bad(431, "too_many_headers", f"more than {limits.header_count} header lines")


def trailers_too_large(limits: Limits) -> Answer:
    message = f"more than {limits.header_bytes} bytes or {limits.header_count} lines behind a body"
    return bad(431, "trailers_too_large", message)


def body_too_large(limits: Limits) -> Answer:
    return bad(413, "body_too_large", f"a request body may have {limits.body} bytes")


def body_too_slow(limits: Limits) -> Answer:
    message = f"the body comes with less than {limits.min_rate} bytes a second"
    return bad(408, "request_timeout", message)
