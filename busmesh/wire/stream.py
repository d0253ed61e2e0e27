"""What follows a message whose body does not travel in the same frame: DATA, END, RESET and CREDIT.

A stream is opened by a request or response with an :class:`Opening` before it. DATA frames are numbered, so
that one which was lost is noticed before what follows it is passed on; END tells that all has come, and
without it nothing does. How much may be sent is granted by the receiver, in bytes since the beginning: a
CREDIT frame that was lost or repeated changes nothing but time.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from busmesh.errors import RemoteProtocolError
from busmesh.wire.http import MAX_HEADER_BLOCK, TOKEN, check_headers

#: What the sender of a body may send before its receiver has granted anything, opening included.
INITIAL_CREDIT = 64 * 1024
#: Bytes of one DATA frame: what one read of a socket brings (uvloop reads 250 KiB at most). Larger frames
#: cost less per byte, from 64 KiB to this a third of the processor time, and hold up others for longer.
MAX_DATA = 250 * 1024

#: length of the body, flags, size of the upgrade token.
_OPENING = struct.Struct("!QBB")
_UNKNOWN = (1 << 64) - 1
_EXPECTS = 1
_NUMBER = struct.Struct("!I")
_CREDIT = struct.Struct("!Q")
_TOKEN = re.compile(TOKEN + rb"(?:/" + TOKEN + rb")?")

#: Fields that a recipient acts on before the body, so that they mean nothing after it or do harm there
#: (RFC 9110 section 6.5.1); what frames the message is refused in any header block.
NOT_IN_TRAILERS = frozenset(
    b"host authorization cookie set-cookie cache-control content-encoding content-range content-type expires "
    b"location pragma range traceparent tracestate vary www-authenticate".split()
)


def data_size(max_payload: int) -> int:
    """Return how many bytes of a body one frame carries on a bus that takes ``max_payload`` bytes."""
    return min(MAX_DATA, max_payload - 1024)


class Opening(NamedTuple):
    """What is known of a body before it has come.

    Attributes:
        length: its bytes, None if that is not known.
        expects: a client waits for ``100 Continue`` before it sends.
        upgrade: the protocol that is asked for, or switched to; then the body has neither form nor end.
    """

    length: int | None = None
    expects: bool = False
    upgrade: bytes = b""


def encode_opening(opening: Opening, message: bytes) -> bytes:
    length = _UNKNOWN if opening.length is None else opening.length
    fields = _OPENING.pack(length, _EXPECTS if opening.expects else 0, len(opening.upgrade))
    return b"%b%b%b" % (fields, opening.upgrade, message)


def decode_opening(data: bytes) -> tuple[Opening, bytes]:
    """Return the opening and the message behind it.

    Raises:
        RemoteProtocolError: what no agent writes.
    """
    try:
        length, flags, size = _OPENING.unpack_from(data)
    except struct.error:
        raise RemoteProtocolError("an opening shorter than its fields") from None
    end = _OPENING.size + size
    upgrade = data[_OPENING.size : end]
    if len(upgrade) != size or (size and _TOKEN.fullmatch(upgrade) is None):
        raise RemoteProtocolError("an opening whose protocol is none")
    known = None if length == _UNKNOWN else length
    return Opening(known, bool(flags & _EXPECTS), upgrade), data[end:]


def encode_data(number: int, data: bytes) -> bytes:
    return _NUMBER.pack(number) + data


def encode_end(number: int, trailers: bytes) -> bytes:
    """``number`` is that of the DATA frame which would come next."""
    return _NUMBER.pack(number) + trailers


def decode_data(data: bytes) -> tuple[int, bytes]:
    """Return a DATA frame's number and bytes.

    Raises:
        RemoteProtocolError: too short.
    """
    if len(data) < _NUMBER.size:
        raise RemoteProtocolError("a part of a body without its number")
    return _NUMBER.unpack_from(data)[0], data[_NUMBER.size :]


def decode_end(data: bytes) -> tuple[int, bytes]:
    """Return an END frame's number and the trailers, well-formed lines that may stand after a body.

    Raises:
        RemoteProtocolError: what no agent writes.
    """
    number, trailers = decode_data(data)
    if trailers:
        if len(trailers) > MAX_HEADER_BLOCK:
            raise RemoteProtocolError("trailers that no agent writes")
        check_headers(trailers)
        names = {line.partition(b":")[0].lower() for line in trailers.split(b"\r\n")}
        if not names.isdisjoint(NOT_IN_TRAILERS):
            raise RemoteProtocolError("trailers that are no trailers")
    return number, trailers


def encode_credit(total: int) -> bytes:
    return _CREDIT.pack(total)


def decode_credit(data: bytes) -> int:
    """Return how many bytes of the body are granted, since its beginning.

    Raises:
        RemoteProtocolError: of the wrong size.
    """
    try:
        (total,) = _CREDIT.unpack(data)
    except struct.error:
        raise RemoteProtocolError("a credit of the wrong size") from None
    return int(total)
