"""Header lines while a parser collects them: a flat list of name, ``: ``, value, line end, over and over.

A flat list because that is what ``join`` takes; most messages need nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from busmesh.wire.http import OWN_PREFIX


def written(lines: list[bytes], ours: Container[bytes]) -> bytes:
    """Join the lines, without those that pass for one of ``ours`` where ``_`` is read as ``-``."""
    block = b"".join(lines)
    return b"".join(without_disguised(lines, ours)) if b"_" in block else block


def without(lines: list[bytes], unwanted: Callable[[bytes], bool]) -> list[bytes]:
    """Return the lines but for those whose name, in lower case, is ``unwanted``."""
    kept: list[bytes] = []
    for at in range(0, len(lines), 4):
        if not unwanted(lines[at].lower()):
            kept += lines[at : at + 4]
    return kept


def without_disguised(lines: list[bytes], ours: Container[bytes]) -> list[bytes]:
    """Take out what an application that reads ``_`` as ``-``, as CGI does, takes for a header of ours."""

    def disguised(name: bytes) -> bool:
        plain = name.replace(b"_", b"-")
        return plain != name and (plain in ours or plain[:10] == OWN_PREFIX)

    return without(lines, disguised)
