"""What a caller gets when the mesh itself answers: a status, Envoy's response flag, and one line of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

from busmesh.relay.httpdate import date_line

FLAGS_HEADER = "x-busmesh-flags"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the mesh's own.

    Attributes:
        status: HTTP status code.
        flags: response flags as Envoy writes them: NR no route, UH no healthy upstream, UO overflow,
            UF upstream failure, UT timeout, RL rate limited, RBAC denied, JWT no good token (Envoy has no
            flag for that), FI fault injected, DPE protocol error.
        code: stable, machine-readable name of the error.
        message: what happened and, where there is one, what to do.
        service: the service that was called, if known.
        instance: the instance that was tried last, if any.
        retry_after: seconds after which it may be asked again; of a 503 at least 1 is said.
    """

    status: int
    flags: str
    code: str
    message: str
    service: str = ""
    instance: str = ""
    retry_after: int = 0

    def headers(self) -> bytes:
        lines = f"content-type: application/json\r\n{FLAGS_HEADER}: {self.flags}\r\n"
        if self.status == 503 or self.retry_after:
            lines += f"retry-after: {self.retry_after or 1}\r\n"
        if self.status == 401:
            lines += f"www-authenticate: {challenge(self.service, self.code)}\r\n"
        return date_line() + lines.encode()

    def body(self) -> bytes:
        fields = {
            "error": self.code,
            "message": self.message,
            "service": self.service,
            "instance": self.instance,
        }
        return json.dumps(fields).encode() + b"\n"


def challenge(realm: str, code: str) -> str:
    """Return how to authenticate (RFC 6750 section 3): whoever brought no token hears of no error."""
    error = ', error="invalid_token"' if code == "token_invalid" else ""
    return f'Bearer realm="{realm}"{error}'


def shown(text: bytes) -> str:
    """Return what a client wrote, quoted and cut, for a message."""
    return repr(text[:200].decode("latin-1"))


def reason_of(status: int) -> bytes:
    """The reason phrase of a status code (RFC 9110 section 15)."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
