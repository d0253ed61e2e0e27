"""Istio's way to write a set of texts: ``exact``, ``prefix*``, ``*suffix``, ``*`` for all but nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from busmesh.decide.match import Test


@dataclass(frozen=True, slots=True)
class Patterns:
    """A set of texts, at least one.

    Attributes:
        present: everything but the empty text.
    """

    exact: frozenset[bytes] = frozenset()
    prefixes: tuple[bytes, ...] = ()
    suffixes: tuple[bytes, ...] = ()
    present: bool = False

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Patterns:
        """Read patterns as documents write them."""
        exact: set[bytes] = set()
        prefixes: list[bytes] = []
        suffixes: list[bytes] = []
        present = False
        for text in texts:
            if text == "*":
                present = True
            elif text.endswith("*"):
                prefixes.append(text[:-1].encode())
            elif text.startswith("*"):
                suffixes.append(text[1:].encode())
            else:
                exact.add(text.encode())
        return cls(frozenset(exact), tuple(prefixes), tuple(suffixes), present)

    def test(self) -> Test:
        """Return the test that a text is in the set; the usual sets have one of their own."""
        exact, prefixes, suffixes = self.exact, self.prefixes, self.suffixes
        if self.present:
            return bool
        if not suffixes and not prefixes:
            return exact.__contains__
        if not suffixes and not exact:
            return lambda text: text.startswith(prefixes)
        return lambda text: text in exact or text.startswith(prefixes) or text.endswith(suffixes)
