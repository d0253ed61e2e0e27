"""Text for terminals and logs: what others wrote, made harmless; what is secret, left out."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_JOIN_TOKEN = re.compile(r"(busmesh-join\.1\.[a-z0-9-]+\.[a-z0-9-]+\.)[A-Za-z0-9_-]+")
_NKEY_SEED = re.compile(r"\bS[ACNOUX][A-Z2-7]{56}\b")


def printable(text: str) -> str:
    """Return ``text`` on one line with control characters written as escapes.

    Names, reasons and paths come from the bus: a line feed in one would forge a log record, and an escape
    sequence would repaint the terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def redact(text: str) -> str:
    """Return ``text`` without passwords of URLs, join tokens and nkey seeds.

    Nothing should put one there; this is the net below.
    """
    text = _PASSWORD.sub("***", text)
    text = _JOIN_TOKEN.sub(r"\1***", text)
    return _NKEY_SEED.sub("***", text)
