"""The head of a request, as the listener parsed it and as every decision reads it."""

from __future__ import annotations


class RequestHead:
    """Method, target and headers of one request.

    Attributes:
        method: the method token, as sent.
        target: origin-form, path and query, beginning with ``/`` (or ``*`` for OPTIONS).
        headers: (name, value) in the order and case in which they came, hop-by-hop ones taken out.
    """

    __slots__ = ("_index", "headers", "method", "target")

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self._index: dict[bytes, bytes] | None = None

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the header with this lower-case ``name``, None if it is absent.

        Several lines of one name are joined with a comma (RFC 9110 section 5.3). The index is built at
        the first call, so that a request no rule looks into pays nothing.
        """
        index = self._index
        if index is None:
            index = self._index = {}
            for raw, value in self.headers:
                key = raw.lower()
                index[key] = index[key] + b", " + value if key in index else value
        return index.get(name)

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.target!r} headers={len(self.headers)}>"
