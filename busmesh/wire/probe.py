"""Probes: asking an instance what became of a request whose answer is slow.

A request that was lost on the bus leaves no trace, and a timeout cannot tell it from one that is being
worked on. The instance can: it knows which counters of the session it has opened. When it answers "never
seen" it also marks that counter as used, so the request, should it turn up later, is refused as a replay;
that is what makes repeating it safe, also for a POST.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from busmesh.errors import RemoteProtocolError

_COUNTER = struct.Struct("!Q")


class ProbeState(IntEnum):
    """What became of a request."""

    NEVER_SEEN = 0
    AT_WORK = 1
    ANSWERED = 2


def encode_probe(counter: int) -> bytes:
    """Ask after the request that was sealed with ``counter``."""
    return _COUNTER.pack(counter)


def decode_probe(data: bytes) -> int:
    try:
        (counter,) = _COUNTER.unpack(data)
    except struct.error:
        raise RemoteProtocolError("a probe of the wrong size") from None
    return int(counter)


def encode_probe_result(state: ProbeState) -> bytes:
    return bytes((state,))


def decode_probe_result(data: bytes) -> ProbeState:
    try:
        (state,) = data
        return ProbeState(state)
    except ValueError:
        raise RemoteProtocolError("a probe result that cannot be read") from None
