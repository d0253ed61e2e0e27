"""``consistentHash.ringHash``: each instance has points on a ring, a key belongs to the next (Karger 1997).

Envoy gives an instance as many points as its share of the ring, so that when one of ten goes, the others get
more points each and take keys from one another. Here the number depends on the instance's own weight alone,
and what one leaves behind is all that moves.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from struct import unpack

from busmesh.decide.balance.base import C
from busmesh.decide.balance.hashing import Hashed, Members

DEFAULT_RING_SIZE = 1024
#: An instance of this weight, which is what it announces unless told otherwise, has a quarter of the least
#: ring size; so four of them fill the least ring. With 256 points the load is even within 6 %.
WHOLE_WEIGHT = 100
#: Points of all instances together. Beyond, each has half of its points, as often as needed: with 256 points,
#: from the 257th instance on. Making a ring of that many takes 30 ms.
MOST_POINTS = 65536
#: A point is 44 bits of position and 16 bits that say whose it is: one list, which sorts by itself, and whose
#: numbers are short enough for Python to compare quickly.
OWNER_BITS = 16
OWNER_MASK = (1 << OWNER_BITS) - 1


class Ring(Hashed[C]):
    """The sorted points of all candidates."""

    def _lay_out(self, members: Members, size: int) -> None:
        self._points = ring(members, size)

    def _owner(self, hashed: int) -> int:
        points = self._points
        at = bisect_left(points, hashed >> 20 << OWNER_BITS)
        return points[at if at < len(points) else 0] & OWNER_MASK

    def _owners(self, hashed: int) -> Iterator[int]:
        points = self._points
        at = bisect_left(points, hashed >> 20 << OWNER_BITS)
        for index in chain(range(at, len(points)), range(at)):
            yield points[index] & OWNER_MASK


@lru_cache(maxsize=8)
def ring(members: Members, size: int) -> array[int]:
    """Return the sorted points of a ring; remembered, because instances go and come back."""
    counts = points_per_member([weight for _, weight in members], size)
    points: list[int] = []
    for owner, ((name, _), count) in enumerate(zip(members, counts, strict=True)):
        points += [position >> 20 << OWNER_BITS | owner for position in positions(name, count)]
    points.sort()
    return array("Q", points)


def points_per_member(weights: list[int], size: int, most: int = MOST_POINTS) -> list[int]:
    """Return how many points each instance has: by its own weight, unless all together would be too many."""
    whole = -(-size // 4)
    while whole > 1 and sum(weights) * whole > most * WHOLE_WEIGHT:
        whole //= 2
    return [max(1, weight * whole // WHOLE_WEIGHT) for weight in weights]


def positions(name: str, count: int) -> list[int]:
    """Return where an instance has its points, 64 bits each; more of them begin with the fewer."""
    found: list[int] = []
    for number in range(-(-count // 8)):
        found += unpack(">8Q", blake2b(b"%d:%b" % (number, name.encode())).digest())
    return found[:count]
