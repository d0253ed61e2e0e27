"""The key of ``consistentHash``: what of a request keeps it together with others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from busmesh.decide.affinity import Cookie
from busmesh.decide.match import header_value, query_value
from busmesh.decide.origin import Origin
from busmesh.decide.request import RequestHead

#: What a key is taken from. The two last are the caller's own name, the same for all its requests.
Source = Literal["header", "cookie", "query", "caller instance", "caller service"]


@dataclass(frozen=True, slots=True)
class HashKey:
    """Where the key stands; an `Affinity`.

    Attributes:
        source: the kind of place.
        name: of the header or query parameter; empty for the others.
        cookie: for the source ``cookie``. If it has a lifetime, a request without it gets a new one, and so
            stays from then on where its first request went (as in Envoy).
    """

    source: Source
    name: str = ""
    cookie: Cookie | None = None
    _read: Callable[[RequestHead, Origin], bytes | None] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_read", _reader(self.source, self.name, self.cookie))

    def read(self, head: RequestHead, origin: Origin) -> bytes | None:
        """Return the key of a request, None if it has none; an empty value is none."""
        return self._read(head, origin)

    def fresh(self, rng: Random) -> bytes | None:
        """Return the value of a new cookie, 16 hex digits, None if the agent sets none."""
        if self.cookie is None or self.cookie.ttl is None:
            return None
        return b"%016x" % rng.getrandbits(64)

    def mark(self, sent: bytes | None, key: bytes | None, instance: str) -> bytes | None:
        """Return the ``Set-Cookie`` line that gives the client its new cookie."""
        if sent is not None or key is None or self.cookie is None:
            return None
        return self.cookie.set_line(key)


def _reader(
    source: Source, name: str, cookie: Cookie | None
) -> Callable[[RequestHead, Origin], bytes | None]:
    match source:
        case "header":
            header = name.lower().encode()
            return lambda head, origin: header_value(head.block, header) or None
        case "query":
            parameter = name.encode()
            return lambda head, origin: query_value(head.target.partition(b"?")[2], parameter) or None
        case "cookie":
            if cookie is None:
                raise ValueError("a key out of a cookie needs the cookie")
            return lambda head, origin: cookie.read(head)
        case "caller instance":
            return lambda head, origin: origin.instance.encode() or None
        case "caller service":
            return lambda head, origin: origin.service.encode() or None
