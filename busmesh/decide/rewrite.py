"""Rewriting of a request's target and authority on its way to an instance, with Istio's meanings.

A prefix that was matched is replaced; a path that was matched in another way is replaced as a whole. Rules
are made so that each knows which prefix it matched (``policy/compilerule.py``): nothing is searched for here.

An application takes what it gets for what its caller asked. So the result is a target or there is none: a
rewriting that lets ``/tenant-a/../tenant-b`` out of the prefix that it was put under, or brings forth what
no request line may hold, gives None, which a caller gets as 400.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from busmesh.decide.headers import HeaderOps

#: Gives the new path for a path, None if there is none.
Substitution = Callable[[bytes], bytes | None]

#: A frame states the size of a target in 16 bits.
MAX_TARGET = 0xFFFF
#: Not with "//" at the beginning, which some servers take for another host.
_PATH = re.compile(rb"/(?!/)[\x21\x22\x24-\x3e\x40-\x7e\x80-\xff]*")
_SLASH = rb"(?:[/\\]|%2[fF]|%5[cC])"
#: A segment "." or "..", with all that some server takes for a slash, a dot or the end of a segment.
_DOTS = re.compile(_SLASH + rb"(?:\.|%2[eE]){1,2}(?:;|" + _SLASH + rb"|\Z)")


def is_plain_path(path: bytes) -> bool:
    """Whether a path is one to every server: no segment of it is ``.`` or ``..``, however spelt."""
    return _PATH.fullmatch(path) is not None and _DOTS.search(path) is None


class Rewrite:
    """What one rule makes of target and authority."""

    __slots__ = ("_host", "_prefix", "_substitution", "_uri", "authority")

    def __init__(
        self,
        *,
        uri: bytes | None = None,
        prefix: bytes | None = None,
        substitution: Substitution | None = None,
        authority: bytes | None = None,
    ) -> None:
        """Make a rewriting; ``uri`` and ``substitution`` exclude each other.

        Args:
            uri: what stands in place of the prefix or of the whole path.
            prefix: with which every path begins that gets here, in whatever case; None if ``uri`` replaces
                the whole path.
            substitution: makes the new path of the old one.
            authority: the new ``Host``.

        Raises:
            ValueError: both ``uri`` and ``substitution``.
        """
        if uri is not None and substitution is not None:
            raise ValueError("a path is rewritten in one way")
        self.authority = authority
        self._uri = uri
        self._prefix = prefix
        self._substitution = substitution
        self._host = None if authority is None else HeaderOps(put={"Host": authority.decode()})

    def target(self, target: bytes) -> bytes | None:
        """Return what stands in the request line in place of ``target``; the query stays as it is.

        A slash on both sides of the seam becomes one: Envoy makes ``//x`` of ``/api/x`` when ``/`` replaces
        ``/api``, and some servers take that for another host. ``*`` is no path and stays.
        """
        if (self._uri is None and self._substitution is None) or target == b"*":
            return target
        path, mark, query = target.partition(b"?")
        new = self._path(path)
        if new == path:
            return target
        if new is None or len(new) + len(mark) + len(query) > MAX_TARGET:
            return None
        return new + mark + query if is_plain_path(new) else None

    def _path(self, path: bytes) -> bytes | None:
        if self._substitution is not None:
            return self._substitution(path)
        uri = self._uri
        assert uri is not None, "target() has looked"
        if self._prefix is None:
            return uri
        rest = path[len(self._prefix) :]
        return uri + rest[1:] if uri[-1:] == b"/" == rest[:1] else uri + rest

    def headers(self, block: bytes) -> bytes:
        """Return a block of header lines in which ``Host`` is the new authority, if there is one."""
        return block if self._host is None else self._host.apply_block(block)

    def __repr__(self) -> str:
        return f"<Rewrite prefix={self._prefix!r} uri={self._uri!r} authority={self.authority!r}>"
