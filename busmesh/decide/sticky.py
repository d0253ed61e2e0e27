"""Sticky sessions: how a request names the instance that its session began with.

The client gets a token and gives it back. It is a hash of the instance's name: it says nothing to who does
not know the names, it is the same in all agents, and it is only ever compared, never decoded.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from random import Random

from busmesh.decide.affinity import Cookie
from busmesh.decide.match import header_value
from busmesh.decide.origin import Origin
from busmesh.decide.request import RequestHead

#: 96 bits: 4,096 instances have two of one token with a chance of 1 in 10**22.
TOKEN_BYTES = 12


@lru_cache(maxsize=8192)
def instance_token(instance: str) -> bytes:
    """Return the 16 characters that stand for an instance."""
    digest = blake2b(instance.encode(), digest_size=TOKEN_BYTES, person=b"busmesh.sticky").digest()
    return urlsafe_b64encode(digest)


@dataclass(frozen=True, slots=True)
class StickySession:
    """Where the token travels; an `Affinity`. One of the two is given.

    Attributes:
        cookie: set by the agent, so any client with a cookie jar is sticky.
        header: of request and response; the client copies it.
    """

    cookie: Cookie | None = None
    header: str = ""

    def read(self, head: RequestHead, origin: Origin) -> bytes | None:
        """Return the token that a request brings, whatever it is worth."""
        if self.cookie is not None:
            return self.cookie.read(head)
        return header_value(head.block, self.header.lower().encode()) or None

    def fresh(self, rng: Random) -> bytes | None:
        """Return None: a session begins wherever its first request goes."""
        return None

    def mark(self, sent: bytes | None, key: bytes | None, instance: str) -> bytes | None:
        """Return the line that names the instance, unless the client has named it itself."""
        token = instance_token(instance)
        if token == sent:
            return None
        if self.cookie is not None:
            return self.cookie.set_line(token)
        return b"%b: %b\r\n" % (self.header.encode(), token)
