"""Header lines while a parser collects them: a flat list of name, ``: ``, value, line end, over and over.

A flat list because that is what ``join`` takes; most messages need nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from busmesh.wire.http import OWN_PREFIX


def written(lines: list[bytes], ours: Container[bytes]) -> bytes:
    """Join the lines, without the mesh's own and those that pass for one of ``ours``."""
    block = b"".join(lines)
    if b"_" in block or OWN_PREFIX in block.lower():
        return b"".join(_without_disguised(lines, ours))
    return block


def without(lines: list[bytes], unwanted: Callable[[bytes], bool]) -> list[bytes]:
    """Return the lines but for those whose name, in lower case, is ``unwanted``."""
    kept: list[bytes] = []
    for at in range(0, len(lines), 4):
        if not unwanted(lines[at].lower()):
            kept += lines[at : at + 4]
    return kept


def _without_disguised(lines: list[bytes], ours: Container[bytes]) -> list[bytes]:
    """Take out what an application that reads ``_`` as ``-``, as CGI does, takes for a header of ours."""

    def disguised(name: bytes) -> bool:
        plain = name.replace(b"_", b"-")
        return plain[:10] == OWN_PREFIX or (plain != name and plain in ours)

    return without(lines, disguised)
