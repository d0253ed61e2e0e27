"""What a request says of where it belongs, and how the answer says so for the next one.

Both kinds, the key of a consistent hash and the sticky session, are asked in the same way::

    sent = affinity.read(head, origin)                # what the client brought
    key = sent or affinity.fresh(rng)                 # what the balancer is given, for all tries
    line = affinity.mark(sent, key, instance)         # what the response gets, if anything
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Protocol

from busmesh.decide.origin import Origin
from busmesh.decide.request import RequestHead


class Affinity(Protocol):
    """What a balancer spec may have; each method is cheap enough for every request."""

    def read(self, head: RequestHead, origin: Origin) -> bytes | None:
        """Return what the request says; None if it says nothing, or nothing but emptiness."""

    def fresh(self, rng: Random) -> bytes | None:
        """Return a key for a request that says nothing, None if it goes anywhere."""

    def mark(self, sent: bytes | None, key: bytes | None, instance: str) -> bytes | None:
        """Return the ``Name: value\\r\\n`` line for the response, None if the client knows already.

        Args:
            sent: what ``read`` returned.
            key: what the balancer was given.
            instance: who answered.
        """


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie that the agent reads, and sets where it is missing (RFC 6265).

    Attributes:
        name: a token.
        path: attribute ``Path``; empty for the directory of the request, which is the client's default.
        ttl: seconds that the client keeps it; 0 until it ends; None if the agent never sets it.
    """

    name: str
    path: str = ""
    ttl: float | None = None

    def read(self, head: RequestHead) -> bytes | None:
        return cookie_value(head.block, self.name.encode()) or None

    def set_line(self, value: bytes) -> bytes:
        """Return the ``Set-Cookie`` line; the attributes are Envoy's."""
        line = b'Set-Cookie: %b="%b"' % (self.name.encode(), value)
        if self.ttl:
            line += b"; Max-Age=%d" % max(1, round(self.ttl))
        if self.path:
            line += b"; Path=%b" % self.path.encode()
        return line + b"; HttpOnly\r\n"


def cookie_value(block: bytes, name: bytes) -> bytes | None:
    """Return the value of the first cookie called ``name`` in a block of checked header lines, or None.

    Quotes around it are taken off. Found by searching, because a hostile line of 64 KiB may hold 20,000
    cookies; a name that only ends alike, or stands within a value, is passed over.
    """
    text = b"\r\n" + block
    lower = text.lower()
    wanted = name + b"="
    line = lower.find(b"\r\ncookie:")
    while line >= 0:
        start = line + 9
        end = lower.find(b"\r\n", start)
        at = text.find(wanted, start, end)
        while at >= 0:
            before = at - 1
            while text[before] in b" \t":
                before -= 1
            if before == start - 1 or text[before] == 0x3B:  # the colon of the name, or a semicolon
                stop = text.find(b";", at, end)
                return text[at + len(wanted) : end if stop < 0 else stop].strip(b" \t").strip(b'"')
            at = text.find(wanted, at + 1, end)
        line = lower.find(b"\r\ncookie:", end)
    return None
