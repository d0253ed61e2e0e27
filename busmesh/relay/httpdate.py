"""The time as HTTP writes it (RFC 9110 section 5.6.7), made once a second."""

from __future__ import annotations

import time
from email.utils import formatdate


class _Clock:
    """The last second that was asked for, and how it is written."""

    second = 0
    line = b""


def date_line() -> bytes:
    """Return the ``date`` header line of now."""
    now = int(time.time())
    if now != _Clock.second:
        _Clock.second = now
        _Clock.line = f"date: {formatdate(now, usegmt=True)}\r\n".encode()
    return _Clock.line
