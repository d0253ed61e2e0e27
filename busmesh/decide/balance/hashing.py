"""Consistent hashing: requests with the same key go to the same instance, as long as it is there.

Two agents that know the same instances choose alike, in any process and on any machine, because nothing
enters but the names and weights; and an instance that goes takes only its own keys with it. A request without
a key goes anywhere, by weight. Warm-up does not apply: weights that change by the second would move keys by
the second.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Literal

from busmesh.decide.balance.base import C
from busmesh.decide.balance.simple import Weighted
from busmesh.decide.hashkey import HashKey

#: (name, weight) of each instance, sorted: all that a table is made of, and what it is remembered by.
Members = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class HashSpec:
    """By which key requests are kept together, and how keys are spread over the instances.

    Attributes:
        key: what of a request is its key.
        algorithm: ``ringHash`` or ``maglev``.
        size: the least number of points on the ring, or the length of Maglev's table.
    """

    key: HashKey
    algorithm: Literal["ringHash", "maglev"] = "ringHash"
    size: int = 1024


class Hashed(Weighted[C]):
    """Base: the first candidate, in the order that the key gives, that was not tried."""

    def __init__(self, candidates: Sequence[C], rng: Random, size: int) -> None:
        super().__init__(sorted(candidates, key=lambda c: c.instance), rng)
        if self.candidates:
            self._lay_out(tuple((c.instance, c.weight) for c in self.candidates), size)

    @abstractmethod
    def _lay_out(self, members: Members, size: int) -> None:
        """Make the table."""

    @abstractmethod
    def _owner(self, hashed: int) -> int:
        """Return the position of the candidate that owns a key."""

    @abstractmethod
    def _owners(self, hashed: int) -> Iterator[int]:
        """Yield positions of candidates in the order in which they would own a key, with repetitions."""

    def _choose(self, now: float, key: bytes | None) -> C:
        if key is None:
            return self.candidates[self._draw()]
        return self.candidates[self._owner(hash64(key))]

    def _instead(self, now: float, tried: Collection[C], key: bytes | None) -> C | None:
        if key is not None and any(c not in tried for c in self.candidates):
            for index in self._owners(hash64(key)):
                if self.candidates[index] not in tried:
                    return self.candidates[index]
        return super()._instead(now, tried, key)


def hash64(data: bytes) -> int:
    """Return 64 bits that depend on nothing but ``data``; Python's own hash differs in each process."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
