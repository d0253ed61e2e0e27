"""Which reply subjects an agent answers to, and where its answer goes.

Whoever asks chooses where the answer goes, and the server closes the connection of a publisher whose subject
is too long. So a reply subject is matched whole before it is written to: anything that grows when it is
encoded, that is a wildcard, or that belongs to somebody else would be a way to cut agents off the bus.

The answer goes to a subject below it that ends in the name of who answers: so a locked bus holds each login
to its own, and need not remember who was asked what, which would cost it 3 us with each request.
"""

from __future__ import annotations

import re

_MAX = 256
_REST = rb"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"


class Replies:
    """The reply subjects of one kind.

    Args:
        root: of the mesh's subjects.
        kind: ``inbox`` or ``reply``: what follows the root.
        me: the instance that answers.
    """

    def __init__(self, root: str, kind: str, me: str) -> None:
        self._me = me.encode()
        self._answerable = re.compile(
            rb"(?=[^\n]{1,%d}\Z)" % _MAX + re.escape(f"{root}.{kind}.".encode()) + _REST
        )

    def to(self, reply: bytes) -> bytes | None:
        """Return where the answer goes; None for what is no reply subject of at most 256 bytes."""
        return b"%b.%b" % (reply, self._me) if self._answerable.fullmatch(reply) else None
