"""What may be written into a protocol line as a subject.

:mod:`busmesh.names` makes subjects of proven tokens. This is the wall behind it: a blank or line end would
begin another command, and a line too long makes the server close the connection.
"""

from __future__ import annotations

import re

from busmesh.errors import UsageError

#: The server's limit for a whole protocol line is 4,096 bytes, and a line may hold two subjects.
MAX_SUBJECT = 1024
_LITERAL = r"(?![*>](?:\.|\Z))[^\x00-\x20\x7f.]+"
_LITERALS = re.compile(rf"{_LITERAL}(?:\.{_LITERAL})*")
_WILDCARDS = re.compile(rf"(?:(?:\*|{_LITERAL})(?:\.(?:\*|{_LITERAL}))*(?:\.>)?|>)")


def published(subject: str) -> bytes:
    """Return a subject to publish to as bytes.

    Raises:
        UsageError: it is none, too long, or a wildcard.
    """
    return _checked(subject, _LITERALS)


def subscribed(subject: str) -> bytes:
    """Return a subject to subscribe to, wildcards allowed, as bytes.

    Raises:
        UsageError: it is none or too long.
    """
    return _checked(subject, _WILDCARDS)


def _checked(subject: str, form: re.Pattern[str]) -> bytes:
    if len(subject) > MAX_SUBJECT or form.fullmatch(subject) is None:
        raise UsageError(f"{subject[:80]!r} is not a subject", code="BM1004")
    return subject.encode("utf-8", "replace")
