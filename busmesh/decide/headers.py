"""Header operations of a route: remove, then set, then add, the order in which Envoy applies them.

Headers travel as a list in the order and spelling in which they came, because some applications read
both; so the operations work on that list and touch nothing that they do not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from busmesh.decide.request import Headers, join_headers


class HeaderOps:
    """What one route or destination does to the headers of a request or of a response."""

    __slots__ = ("_block", "_dropped", "_needles", "_pairs")

    def __init__(
        self,
        *,
        put: Mapping[str, str] | None = None,
        add: Mapping[str, str] | None = None,
        remove: Iterable[str] = (),
    ) -> None:
        """Names are matched in any case and written as spelt here; values are sent as UTF-8.

        Args:
            put: replaces every header of that name; Istio's ``set``.
            add: stands beside what is there.
            remove: takes out every header of that name, before anything is written.
        """
        replaced = _encoded(put)
        names = [name.encode() for name in remove] + [name for name, _ in replaced]
        self._dropped = frozenset(name.lower() for name in names)
        self._needles = [b"\r\n%b:" % name for name in sorted(self._dropped)]
        self._pairs = replaced + _encoded(add)
        self._block = join_headers(self._pairs)

    def writes(self, name: bytes) -> bool:
        """Say whether a header with this lower-case ``name`` is set or added."""
        return any(written.lower() == name for written, _ in self._pairs)

    def apply(self, headers: Headers) -> Headers:
        """Return (name, value) pairs after the operations; the list given stays as it is."""
        dropped = self._dropped
        if dropped:
            return [pair for pair in headers if pair[0].lower() not in dropped] + self._pairs
        return headers + self._pairs

    def apply_block(self, block: bytes) -> bytes:
        """Do the same to a block of ``Name: value\\r\\n`` lines, without taking the lines apart."""
        if not self._needles:
            return block + self._block
        text = b"\r\n" + block
        lower = text.lower()
        for needle in self._needles:
            at = lower.find(needle)
            while at >= 0:
                end = lower.find(b"\r\n", at + 2)
                text = text[:at] + text[end:]
                lower = lower[:at] + lower[end:]
                at = lower.find(needle, at)
        return text[2:] + self._block

    def __repr__(self) -> str:
        return f"<HeaderOps drops={sorted(self._dropped)} appends={self._pairs}>"


def _encoded(headers: Mapping[str, str] | None) -> Headers:
    return [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
