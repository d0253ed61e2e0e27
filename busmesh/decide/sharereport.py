"""What an instance tells the others of limits that they share: for each key its demand and what it admitted.

What was admitted is a count since the beginning, so a lost report costs nothing once the next one is there.
A report is plain data that whoever sends it may encode as it likes; it comes from another agent, so nothing
of it is believed before it is checked.

What it costs: packed by msgpack a report has 17 bytes, and 24 for each key with traffic. At ten a second
that is 2.6 kB/s from each instance for 10 keys and 31 kB/s for the 128 that it may have; without traffic it
is one a second. Each other instance reads it in 3 us a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from busmesh.errors import RemoteProtocolError

VERSION = 1
#: Bytes that name a key: a digest, because a key may be made of a header's value, which is nobody's business.
KEY_BYTES = 8
#: Keys in one report.
MAX_ENTRIES = 128
#: Far above what a full report has; to be checked before it is decoded.
MAX_BYTES = 8 * 1024
#: Requests per second that an instance may claim: far above what one can have.
MAX_DEMAND = 10**6
_MAX_COUNT = 2**53
#: What is no count travels in thousandths, as an integer: shorter than a double, and always finite.
_MILLI = 1000
_MOST = MAX_DEMAND * _MILLI


class Entry(NamedTuple):
    """One key in a report.

    Attributes:
        demand: requests per second that came for it, admitted or not.
        admitted: how many were, since that agent began to count.
        balance: of its account of the whole limit, in requests; see `busmesh.decide.share`.
    """

    demand: float
    admitted: int
    balance: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """All that one agent says at once.

    Attributes:
        born: tells the runs of one agent apart, the later one is greater.
        sequence: grows with each report of a run.
        entries: by key; a key that is missing has no traffic there.
    """

    born: int
    sequence: int
    entries: Mapping[bytes, Entry]

    def to_plain(self) -> list[object]:
        return [
            VERSION,
            self.born,
            self.sequence,
            [
                [key, _written(entry.demand), entry.admitted, _written(entry.balance)]
                for key, entry in self.entries.items()
            ],
        ]


def parse_report(value: object) -> Report:
    """Read a report that anybody may have made.

    Raises:
        RemoteProtocolError: it is none, of another version, or larger than any.
    """
    match value:
        case [int(version), _, _, _] if version != VERSION:
            raise RemoteProtocolError(f"a report of version {version % 10**6}; this is version {VERSION}")
        case [int(), int(born), int(sequence), list(rows)] if _count(born) and _count(sequence):
            if len(rows) > MAX_ENTRIES:
                raise RemoteProtocolError(f"a report of more than {MAX_ENTRIES} keys")
            entries = dict(map(_entry, rows))
            if len(entries) == len(rows):
                return Report(born, sequence, entries)
    raise RemoteProtocolError("a report that no agent writes")


def _entry(row: object) -> tuple[bytes, Entry]:
    match row:
        case [bytes(key), int(demand), int(admitted), int(balance)] if (
            len(key) == KEY_BYTES and 0 <= demand <= _MOST and abs(balance) <= _MOST and _count(admitted)
        ):
            return key, Entry(demand / _MILLI, admitted, balance / _MILLI)
    raise RemoteProtocolError("a report with a key that no agent writes")


def _written(number: float) -> int:
    return max(-_MOST, min(round(number * _MILLI), _MOST))


def _count(number: int) -> bool:
    return 0 <= number < _MAX_COUNT
