"""Rules in their order, of which only those are asked that the path leaves possible."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Generic, TypeVar

from busmesh.decide.authz.facts import Condition, Facts
from busmesh.decide.authz.policy import Settled

T = TypeVar("T")


class RuleTable(Generic[T]):
    """What follows from the first rule that holds.

    Most rules want a path of a certain set. The sets that a path is in are known from the beginning, so a
    hundred rules about other paths cost nothing.
    """

    __slots__ = ("_anywhere", "_entries", "_places")

    def __init__(self, rules: Sequence[tuple[Settled, T]]) -> None:
        self._entries: list[tuple[Condition | None, T]] = [(rule.condition, then) for rule, then in rules]
        #: Places of the rules that want no path of a certain set.
        self._anywhere = [place for place, (rule, _) in enumerate(rules) if rule.within is None]
        #: Number of a set of paths -> places of the rules that want a path of it, or of another.
        self._places: defaultdict[int, set[int]] = defaultdict(set)
        for place, (rule, _) in enumerate(rules):
            for number in rule.within or ():
                self._places[number].add(place)

    def first(self, facts: Facts) -> T | None:
        """Return what follows from the first rule that holds, in the reading that is being looked at."""
        for place in self._possible(facts):
            condition, then = self._entries[place]
            if condition is None or condition(facts):
                return then
        return None

    def _possible(self, facts: Facts) -> Sequence[int]:
        wanted = [self._places[number] for number in facts.within if number in self._places]
        return sorted(set(self._anywhere).union(*wanted)) if wanted else self._anywhere

    def __len__(self) -> int:
        return len(self._entries)
