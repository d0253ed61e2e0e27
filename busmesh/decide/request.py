"""The head of a request, as the listener parsed it and as every decision reads it."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]


def split_headers(block: bytes) -> Headers:
    """Read ``Name: value\\r\\n`` lines that have been checked before into (name, value) pairs."""
    pairs = []
    for line in block.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        pairs.append((name, value.strip(b" \t")))
    return pairs


def join_headers(headers: Headers) -> bytes:
    """Write (name, value) pairs as ``Name: value\\r\\n`` lines."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


class RequestHead:
    """Method, target and headers of one request.

    The headers are kept as one block of bytes and taken apart at the first look, so that a request no rule
    looks into pays nothing.

    Attributes:
        method: the method token, as sent.
        target: origin-form, path and query, beginning with ``/`` (or ``*`` for OPTIONS).
        block: ``Name: value\\r\\n`` lines in the order and case in which they came, without the
            hop-by-hop ones.
    """

    __slots__ = ("_headers", "_index", "block", "method", "target")

    def __init__(self, method: bytes, target: bytes, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.block = join_headers(headers)
        self._headers: Headers | None = headers
        self._index: dict[bytes, bytes] | None = None

    @classmethod
    def from_block(cls, method: bytes, target: bytes, block: bytes) -> RequestHead:
        """Make a head whose header lines are taken apart only when somebody looks."""
        head = cls.__new__(cls)
        head.method = method
        head.target = target
        head.block = block
        head._headers = head._index = None
        return head

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = split_headers(self.block)
        return self._headers

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the header with this lower-case ``name``, None if it is absent.

        Several lines of one name are joined with a comma (RFC 9110 section 5.3).
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
