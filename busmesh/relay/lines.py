"""Header lines while a parser collects them: a flat list of name, ``: ``, value, line end, over and over.

A flat list because that is what ``join`` takes; most messages need nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from busmesh.wire.http import OWN_PREFIX

#: Names that are remembered: some hundreds are in use, and who invents names must not fill the memory.
MAX_NAMES = 4096
MAX_NAME = 64


class Meanings(dict[bytes, int]):
    """What a header is to a parser, by its name as it came: 0 for one that travels as it is.

    The same names come over and over, case and all, so that nearly every header costs one look.

    Args:
        special: meanings by lower-case name.
        drop: the meaning of the mesh's own headers, and of names that an application which reads ``_`` as
            ``-``, as CGI does, takes for special ones.
    """

    def __init__(self, special: Mapping[bytes, int], drop: int) -> None:
        super().__init__()
        self._special = special
        self._drop = drop

    def __missing__(self, name: bytes) -> int:
        lower = name.lower()
        plain = lower.replace(b"_", b"-")
        disguised = plain != lower and plain in self._special
        ours = disguised or plain[: len(OWN_PREFIX)] == OWN_PREFIX
        meaning = self._drop if ours else self._special.get(lower, 0)
        if len(name) <= MAX_NAME:
            if len(self) >= MAX_NAMES:
                self.clear()
            self[name] = meaning
        return meaning


def without(lines: list[bytes], unwanted: Callable[[bytes], bool]) -> list[bytes]:
    """Return the lines but for those whose name, in lower case, is ``unwanted``."""
    kept: list[bytes] = []
    for at in range(0, len(lines), 4):
        if not unwanted(lines[at].lower()):
            kept += lines[at : at + 4]
    return kept
