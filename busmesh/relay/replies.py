"""Which reply subjects an agent answers to.

Whoever asks chooses where the answer goes, and the server closes the connection of a publisher whose subject
is too long. So a reply subject is matched whole before it is written to: anything that grows when it is
encoded, that is a wildcard, or that belongs to somebody else would be a way to cut agents off the bus.
"""

from __future__ import annotations

import re

_MAX = 256
_REST = rb"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"


def answerable(root: str, kind: str) -> re.Pattern[bytes]:
    """Return the pattern of subjects below ``<root>.<kind>.``, at most 256 bytes: for ``fullmatch``."""
    return re.compile(rb"(?=[^\n]{1,%d}\Z)" % _MAX + re.escape(f"{root}.{kind}.".encode()) + _REST)
