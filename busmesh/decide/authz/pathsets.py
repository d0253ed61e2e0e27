"""In which of many sets of paths a path is, found at one look.

A policy set may hold a hundred rules about paths, and a path may be read in eight ways. Asking each rule
about each reading would take longer than everything else that is done for a request.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from busmesh.decide.authz.patterns import Patterns

#: Numbers of sets.
Numbers = frozenset[int]
NONE: Numbers = frozenset()


class PathSets:
    """Sets of paths, by their numbers in a sequence."""

    __slots__ = ("_beginnings", "_ends", "_exact", "_present", "_size")

    def __init__(self, sets: Sequence[Patterns] = ()) -> None:
        exact: defaultdict[bytes, set[int]] = defaultdict(set)
        prefixes: defaultdict[bytes, set[int]] = defaultdict(set)
        suffixes: defaultdict[bytes, set[int]] = defaultdict(set)
        for number, patterns in enumerate(sets):
            for texts, found in (
                (patterns.exact, exact),
                (patterns.prefixes, prefixes),
                ([text[::-1] for text in patterns.suffixes], suffixes),
            ):
                for text in texts:
                    found[text].add(number)
        self._exact = {text: frozenset(numbers) for text, numbers in exact.items()}
        self._beginnings = _Beginnings(prefixes)
        self._ends = _Beginnings(suffixes)
        self._present = frozenset(number for number, patterns in enumerate(sets) if patterns.present)
        self._size = len(sets)

    def containing(self, path: bytes) -> Numbers:
        """Return the numbers of the sets that a path is in."""
        found = self._exact.get(path, NONE)
        if self._beginnings and (more := self._beginnings.of(path)):
            found = found | more
        if self._ends and (more := self._ends.of(path[::-1])):
            found = found | more
        return found | self._present if self._present and path else found

    def __repr__(self) -> str:
        return (
            f"<PathSets {self._size} exact={len(self._exact)} prefixes={len(self._beginnings)}"
            f" suffixes={len(self._ends)}>"
        )


class _Beginnings:
    """Texts with which others may begin, in order, so that the longest such is found by bisection.

    What comes between a text and another that begins with it begins with it too. So all beginnings of a text
    are the last that comes before it, if that is one, and the beginnings of that.
    """

    __slots__ = ("_longest", "_numbers", "_texts")

    def __init__(self, numbers: Mapping[bytes, Collection[int]]) -> None:
        self._texts = sorted(numbers)
        #: For each text, the place of the longest other that it begins with, or -1.
        self._longest: list[int] = []
        #: For each text, its numbers and those of all others that it begins with.
        self._numbers: list[Numbers] = []
        for text in self._texts:
            place = self._place_of(text, len(self._longest) - 1)
            self._longest.append(place)
            self._numbers.append(frozenset(numbers[text]).union(self._numbers[place] if place >= 0 else NONE))

    def of(self, text: bytes) -> Numbers:
        """Return the numbers of all with which a text begins."""
        place = self._place_of(text, bisect_right(self._texts, text) - 1)
        return self._numbers[place] if place >= 0 else NONE

    def _place_of(self, text: bytes, place: int) -> int:
        """Return the place of the longest beginning of ``text``, from the last that comes before it on."""
        while place >= 0 and not text.startswith(self._texts[place]):
            place = self._longest[place]
        return place

    def __len__(self) -> int:
        return len(self._texts)


NO_PATHS = PathSets()
