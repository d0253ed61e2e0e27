"""HTTP requests and responses as the plaintext of a frame.

Fixed fields by ``struct``, then the parts one after the other. Headers travel as one block of
``Name: value\\r\\n`` lines, in the order and case in which they came, so that each agent writes them with
one copy. The receiver believes nothing: :func:`check_headers` proves with one regular expression that the
block is nothing but well-formed lines, none of which frames or re-routes the message.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from busmesh.errors import RemoteProtocolError

#: deadline (ms of the session's clock), flags, attempt, sizes of method, target and header block.
_REQUEST = struct.Struct("!IBBBHI")
_UNTIL_THE_END = 1
#: status, flags, sizes of reason and header block, length that a HEAD or 304 response declares without
#: sending it.
_RESPONSE = struct.Struct("!HBBIQ")
_SPENT, _GRPC = 1, 2
_NOT_DECLARED = (1 << 64) - 1
#: Statuses of responses that end a request, of those that come before (RFC 9110 section 15.2), and of the one
#: after which the connection speaks another protocol.
FINAL = range(200, 600)
INTERIM = range(100, 104)
SWITCHING = range(101, 102)
#: processed or not, status, seconds until another try makes sense, sizes of flags and code.
_REFUSAL = struct.Struct("!BHHBB")

#: What listener and application may send, 64 KiB, and room for what agents and policies add.
MAX_HEADER_BLOCK = 80 * 1024
#: RFC 9110 section 5.6.2.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
#: Lines that only this mesh writes, or that belong to one hop (RFC 9110 section 7.6.1).
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)
#: Framing is computed from the body; identity is proven by the session. Neither is ever copied through.
WRITTEN_BY_AGENTS = frozenset((b"content-length", b"expect", b"x-forwarded-client-cert"))
OWN_PREFIX = b"x-busmesh-"

#: An application that follows CGI (RFC 3875 section 4.1.18) reads ``x_y`` as ``x-y``, so both are refused.
_FORBIDDEN = [
    *(name.replace(b"-", b"[-_]") for name in sorted(HOP_BY_HOP | WRITTEN_BY_AGENTS)),
    b"x[-_]busmesh[-_](?:" + TOKEN + b")?+",
]


def _by_first_letter(names: list[bytes]) -> bytes:
    """Write alternatives that begin with sets of one letter: all that most lines are compared with."""
    rests: dict[bytes, list[bytes]] = {}
    for name in names:
        rests.setdefault(name[:1], []).append(name[1:])
    return b"|".join(b"[%b%b](?i:%b)" % (c, c.upper(), b"|".join(rest)) for c, rest in rests.items())


#: Possessive throughout: a hostile block is read once, whatever is wrong with its end.
_HEADER_BLOCK = re.compile(
    rb"(?:(?!(?:" + _by_first_letter(_FORBIDDEN) + rb"):)" + TOKEN + rb"+:[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+"
)
_METHOD = re.compile(TOKEN)
#: Those that nearly all requests have need no match, and so with reasons.
_METHODS = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS"))
_TARGET = re.compile(rb"\*|/[\x21-\x7e\x80-\xff]*")
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class WireRequest(NamedTuple):
    """A request as the receiving agent reads it from a frame.

    The deadline is that of the response's beginning, or of its end if ``until_the_end`` is set.
    """

    deadline_ms: int
    attempt: int
    method: bytes
    target: bytes
    headers: bytes
    body: bytes
    until_the_end: bool = False


class WireResponse(NamedTuple):
    """A response as the calling agent reads it from a frame.

    ``declared`` is the content-length of a response that has no body for another reason (HEAD, 304).
    ``grpc`` says that a gRPC status is among the headers, ``spent`` that the failure comes from further on,
    where it was tried again already.
    """

    status: int
    reason: bytes
    headers: bytes
    body: bytes
    declared: int | None
    grpc: bool = False
    spent: bool = False


class Refusal(NamedTuple):
    """The receiving agent's own answer.

    Attributes:
        processed: False if the application certainly never saw the request.
        flags: the response flags, as Envoy writes them.
        code: a short error code; the message explains it.
        retry_after: seconds after which it may be asked again; 0 if nobody knows.
    """

    processed: bool
    status: int
    flags: str
    code: str
    message: str
    retry_after: int = 0


def check_headers(block: bytes) -> None:
    """Prove that ``block`` is well-formed header lines without framing, hop-by-hop or mesh headers.

    Raises:
        RemoteProtocolError: anything else.
    """
    if len(block) > MAX_HEADER_BLOCK or _HEADER_BLOCK.fullmatch(block) is None:
        raise RemoteProtocolError("a header block that no agent writes")


def encode_request(
    deadline_ms: int,
    attempt: int,
    method: bytes,
    target: bytes,
    headers: bytes,
    body: bytes,
    until_the_end: bool = False,
) -> bytes:
    return b"%b%b%b%b%b" % (
        _REQUEST.pack(deadline_ms, until_the_end, attempt, len(method), len(target), len(headers)),
        method,
        target,
        headers,
        body,
    )


def decode_request(data: bytes) -> WireRequest:
    """Read and check a request.

    Raises:
        RemoteProtocolError: sizes that do not fit, or parts that are no HTTP.
    """
    try:
        deadline_ms, flags, attempt, method_size, target_size, headers_size = _REQUEST.unpack_from(data)
    except struct.error:
        raise RemoteProtocolError("a request shorter than its fields") from None
    method_end = _REQUEST.size + method_size
    target_end = method_end + target_size
    headers_end = target_end + headers_size
    if headers_end > len(data):
        raise RemoteProtocolError("a request whose sizes do not fit")
    method, target = data[_REQUEST.size : method_end], data[method_end:target_end]
    headers = data[target_end:headers_end]
    if (method not in _METHODS and _METHOD.fullmatch(method) is None) or _TARGET.fullmatch(target) is None:
        raise RemoteProtocolError("a request line that no agent writes")
    check_headers(headers)
    until_the_end = bool(flags & _UNTIL_THE_END)
    return WireRequest(deadline_ms, attempt, method, target, headers, data[headers_end:], until_the_end)


def encode_response(
    status: int,
    reason: bytes,
    headers: bytes,
    body: bytes,
    declared: int | None = None,
    grpc: bool = False,
    spent: bool = False,
) -> bytes:
    length = _NOT_DECLARED if declared is None else declared
    fields = _RESPONSE.pack(status, spent | grpc << 1, len(reason), len(headers), length)
    return b"%b%b%b%b" % (fields, reason, headers, body)


def decode_response(data: bytes, statuses: range = FINAL) -> WireResponse:
    """Read and check a response with one of ``statuses``.

    Raises:
        RemoteProtocolError: sizes that do not fit, or parts that are no HTTP.
    """
    try:
        status, flags, reason_size, headers_size, declared = _RESPONSE.unpack_from(data)
    except struct.error:
        raise RemoteProtocolError("a response shorter than its fields") from None
    reason_end = _RESPONSE.size + reason_size
    headers_end = reason_end + headers_size
    if headers_end > len(data) or status not in statuses:
        raise RemoteProtocolError("a response whose fields do not fit")
    reason, headers = data[_RESPONSE.size : reason_end], data[reason_end:headers_end]
    if reason != b"OK" and _REASON.fullmatch(reason) is None:
        raise RemoteProtocolError("a reason phrase that no agent writes")
    check_headers(headers)
    length = None if declared == _NOT_DECLARED else declared
    return WireResponse(
        status, reason, headers, data[headers_end:], length, bool(flags & _GRPC), bool(flags & _SPENT)
    )


def encode_refusal(refusal: Refusal) -> bytes:
    flags, code = refusal.flags.encode(), refusal.code.encode()
    wait = min(refusal.retry_after, 0xFFFF)
    head = _REFUSAL.pack(refusal.processed, refusal.status, wait, len(flags), len(code))
    return b"%b%b%b%b" % (head, flags, code, refusal.message.encode())


_FLAGS = re.compile(r"[A-Z,]{0,32}")
_CODE = re.compile(r"[a-z_]{1,64}")


def decode_refusal(data: bytes) -> Refusal:
    """Read and check a refusal.

    Raises:
        RemoteProtocolError: sizes or texts that no agent writes.
    """
    try:
        processed, status, retry_after, flags_size, code_size = _REFUSAL.unpack_from(data)
        flags_end = _REFUSAL.size + flags_size
        code_end = flags_end + code_size
        flags, code = (
            data[_REFUSAL.size : flags_end].decode("ascii"),
            data[flags_end:code_end].decode("ascii"),
        )
        message = data[code_end : code_end + 1024].decode("utf-8", "replace")
    except (struct.error, UnicodeDecodeError):
        raise RemoteProtocolError("a refusal that cannot be read") from None
    if code_end > len(data) or not 400 <= status <= 599:
        raise RemoteProtocolError("a refusal whose fields do not fit")
    if not (_FLAGS.fullmatch(flags) and _CODE.fullmatch(code)):
        raise RemoteProtocolError("a refusal that no agent writes")
    return Refusal(bool(processed), status, flags, code, message, retry_after)
