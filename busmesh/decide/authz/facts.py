"""What is known of one request when it is authorized, and the conditions on it.

A condition is made for one side. Where a request can be read in several ways (a header that stands there
twice), a policy that denies must hold whichever reading the application prefers, and one that allows must
not be met by a reading that the application does not share. So a *strict* condition, for a policy that
allows, holds if it does for every reading, and one that is not strict if it does for any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from busmesh.decide.authz.paths import readings
from busmesh.decide.authz.pathsets import NO_PATHS, NONE, Numbers, PathSets
from busmesh.decide.match import Test
from busmesh.decide.request import RequestHead

_PORT = re.compile(rb":[0-9]*\Z")
#: Claims whose text is a list with blanks between (RFC 8693 section 4.2), as Istio reads them.
_LISTS = frozenset(("scope", "permission"))


class Claims:
    """What a verified token says.

    Attributes:
        payload: its claims.
        encoded: the same as it stood in the token, base64url.
        principal: ``<issuer>/<subject>``, Istio's request principal; empty without a subject.
    """

    __slots__ = ("encoded", "payload", "principal")

    def __init__(self, payload: Mapping[str, Any], encoded: bytes = b"") -> None:
        self.payload = payload
        self.encoded = encoded
        issuer, subject = payload.get("iss"), payload.get("sub")
        known = isinstance(issuer, str) and isinstance(subject, str) and issuer and subject
        self.principal = f"{issuer}/{subject}".encode("utf-8", "replace") if known else b""

    def values(self, path: tuple[str, ...]) -> list[bytes]:
        """Return the values of a claim, as text; ``path`` leads through claims that are objects."""
        found: Any = self.payload
        for name in path:
            if not isinstance(found, Mapping) or name not in found:
                return []
            found = found[name]
        if isinstance(found, str) and len(path) == 1 and path[0] in _LISTS:
            return [_text(part) for part in (found, *found.split())]
        many = found if isinstance(found, list) else [found]
        return [_text(value) for value in many if isinstance(value, str | int | float | bool)]

    def __repr__(self) -> str:
        return f"<Claims {self.principal!r} claims={len(self.payload)}>"


def _text(value: str | float | bool) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode("utf-8", "replace")


class Facts:
    """One request.

    Attributes:
        claims: of its verified token, None without one.
        within: the numbers of the sets of paths that the reading of the path is in that is being looked at.
    """

    __slots__ = ("_read", "_sets", "_ways", "claims", "head", "within")

    def __init__(self, head: RequestHead, claims: Claims | None, sets: PathSets = NO_PATHS) -> None:
        """``sets`` are those that the path is held against once a condition needs it."""
        self.head = head
        self.claims = claims
        self.within = NONE
        self._sets = sets
        self._read = False
        self._ways: Sequence[Numbers] | None = None

    def ways(self) -> Sequence[Numbers] | None:
        """Return the sets of paths that each reading of the path is in; None if it is malformed.

        What is the same for two readings stands there once: no condition can tell them apart.
        """
        if not self._read:
            self._read = True
            several = readings(self.head.path)
            if several is not None:
                self._ways = tuple(dict.fromkeys(map(self._sets.containing, several)))
        return self._ways

    def way_as_it_came(self) -> Numbers:
        """Return the sets that the path is in as it is written."""
        return self._sets.containing(self.head.path)


Condition = Callable[[Facts], bool]
#: Takes the values of something out of a request.
Values = Callable[[Facts], Sequence[bytes]]


def path_in(number: int) -> Condition:
    """The path, in the reading that is being looked at, is in the set of this number."""
    return lambda facts: number in facts.within


def method_in(test: Test) -> Condition:
    return lambda facts: test(facts.head.method)


def host_in(test: Test, *, port: bool, strict: bool) -> Condition:
    """The ``Host`` header in lower case; without ``port``, only its name, without a dot at the end."""
    lines = lines_of("host")
    holds = all if strict else any

    def condition(facts: Facts) -> bool:
        hosts = [line.lower() for line in lines(facts)]
        if not port:
            hosts = [_PORT.sub(b"", host).removesuffix(b".") for host in hosts]
        return bool(hosts) and holds(map(test, hosts))

    return condition


def lines_of(name: str, *, any_spelling: bool = False) -> Values:
    """Take the value of each line with this name, in any case.

    Args:
        name: of the header.
        any_spelling: also with ``_`` for ``-``, which is the same to an application that follows CGI.
    """
    spelt = re.escape(name.encode())
    if any_spelling:
        spelt = re.sub(rb"\\-|_", b"[-_]", spelt)
    found = re.compile(rb"^" + spelt + rb":([^\r\n]*)", re.IGNORECASE | re.MULTILINE).findall
    return lambda facts: [value.strip(b" \t") for value in found(facts.head.block)]


def header_in(name: str, test: Test, *, strict: bool) -> Condition:
    """A header is there with a value in a set; several lines are each of them, and all joined (RFC 9110)."""
    values = lines_of(name, any_spelling=not strict)
    holds = all if strict else any

    def condition(facts: Facts) -> bool:
        lines = values(facts)
        if len(lines) > 1:
            lines = [*lines, b", ".join(lines), b",".join(lines)]
        return bool(lines) and holds(map(test, lines))

    return condition


def header_not_in(name: str, test: Test, *, strict: bool) -> Condition:
    """A header is absent, or its value is outside of a set."""
    inside = header_in(name, test, strict=not strict)
    return lambda facts: not inside(facts)


def principal_in(test: Test) -> Condition:
    """The request has a verified token, and its principal is in a set."""
    return lambda facts: facts.claims is not None and test(facts.claims.principal)


def claim_in(path: tuple[str, ...], test: Test) -> Condition:
    """One value of a claim is in a set."""

    def condition(facts: Facts) -> bool:
        return facts.claims is not None and any(map(test, facts.claims.values(path)))

    return condition


def outside(condition: Condition) -> Condition:
    """The opposite, which also holds for what is not there."""
    return lambda facts: not condition(facts)
