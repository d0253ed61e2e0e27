"""All limits that this instance shares with the others of its service, and what is known of those others.

Its owner calls `tick` each ``PERIOD_S``, sends what `report` returns to the other instances and hands what
they send, once it is proven who sent it, to `hear`. Only keys with traffic are reported; what is kept is
bounded in every direction. A tick takes 2 ms for 128 keys and 20 peers.

Instances that do not hear each other, because the bus is divided, cannot share: each side gives out the
whole limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from busmesh.decide.share import NEWCOMER, PERIOD_S, Share
from busmesh.decide.sharereport import MAX_ENTRIES, Entry, Report

#: A share without a request for so long is no longer reported, once its bucket is full.
IDLE_S = 2.0
#: Between two reports that say nothing but that this instance is there.
QUIET_PERIOD_S = 1.0
#: What a peer said of its keys counts for so long: with one report in ten lost, one of 100,000 times it was
#: alive.
STALE_S = 5 * PERIOD_S
#: A peer that is silent for so long is gone, and the limit divided among fewer.
GONE_S = 3 * QUIET_PERIOD_S
#: An agent has heard the others after so long, if there are any: their reports come each period, the last
#: was lost.
SETTLE_S = 3 * PERIOD_S


@dataclass(slots=True)
class Peer:
    """Another instance, as it was heard last."""

    heard: float
    report: Report


class Sharing:
    """The agent's table of shares and peers.

    Attributes:
        refused: shares that had to stay alone because the table was full.
        ignored: reports that came late, twice, or from more peers than there may be.
    """

    __slots__ = (
        "_active",
        "_born",
        "_crowded",
        "_max_keys",
        "_max_peers",
        "_peers",
        "_sent",
        "_sequence",
        "_since",
        "ignored",
        "refused",
    )

    def __init__(self, *, born: int, now: float, max_keys: int = MAX_ENTRIES, max_peers: int = 256) -> None:
        """Make an empty table.

        Args:
            born: greater than in each earlier run of this agent: milliseconds of its start, for example.
            now: seconds.
            max_keys: shares that are reported at once; one more keeps to its equal part of the limit.
            max_peers: other instances; more are not listened to.
        """
        if not 0 < max_keys <= MAX_ENTRIES:
            raise ValueError(f"a report has 1 to {MAX_ENTRIES} keys, not {max_keys}")
        self._born = born
        self._sequence = 0
        self._max_keys = max_keys
        self._max_peers = max_peers
        self._active: dict[bytes, Share] = {}
        self._peers: dict[str, Peer] = {}
        self._crowded = False
        self.ignored = self.refused = 0
        self.begin(now)

    def begin(self, now: float) -> None:
        """Begin anew: at first, and after a time without the bus, nobody can have been heard."""
        self._since = now
        self._sent = -QUIET_PERIOD_S + now

    @property
    def instances(self) -> int:
        """How many share the limits, as far as is known: this one and the peers."""
        return 1 + len(self._peers)

    def settled(self, now: float) -> bool:
        """Whether the others have been heard, if there are any."""
        return now - self._since >= SETTLE_S

    # -- requests --------------------------------------------------------------------------------

    def open(self, key: bytes, total: float, burst: float, now: float) -> Share:
        """Make a share for a key that has met its first request."""
        return Share(key, total, burst, self._part(now), now)

    def activate(self, share: Share, now: float) -> None:
        """Tell the others of a share from now on, if there is room: call it for one that is not active."""
        replaced = self._active.get(share.key)
        if replaced is not None:
            self.close(replaced, now)
        if len(self._active) < self._max_keys or self._make_room(now):
            self._active[share.key] = share
            share.begin(self._part(now), now)
        else:
            share.keep_to(self._part(now), now)
            self.refused += 1

    def _make_room(self, now: float) -> bool:
        """Close the share that has been idle longest; sought once in a period at most."""
        if not self._crowded:
            idlest = max(self._active.values(), key=lambda share: share.idle(now))
            if idlest.idle(now) > IDLE_S:
                self.close(idlest, now)
                return True
            self._crowded = True
        return False

    def close(self, share: Share, now: float) -> None:
        """Share it no longer: it is at rest or forgotten, and keeps to its equal part."""
        share.active = False
        share.keep_to(self._part(now), now)
        if self._active.get(share.key) is share:
            del self._active[share.key]

    def _part(self, now: float) -> float:
        part = 1.0 / self.instances
        return part if self.settled(now) else min(part, NEWCOMER)

    # -- the others ------------------------------------------------------------------------------

    def hear(self, peer: str, report: Report, now: float) -> None:
        """Take a report of another instance, ``peer``, whose word it was proven to be."""
        known = self._peers.get(peer)
        if known is None and len(self._peers) >= self._max_peers:
            self.ignored += 1
        elif known is None:
            self._peers[peer] = Peer(now, report)
        elif (report.born, report.sequence) > (known.report.born, known.report.sequence):
            known.heard, known.report = now, report
        else:
            self.ignored += 1

    def forget(self, peer: str) -> None:
        """Hear that an instance has left: no need to wait until it is gone by its silence."""
        self._peers.pop(peer, None)

    # -- time ------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Set the rate of every share for the next period."""
        self._crowded = False
        for name in [name for name, peer in self._peers.items() if now - peer.heard > GONE_S]:
            del self._peers[name]
        fresh = {
            name: peer.report.entries for name, peer in self._peers.items() if now - peer.heard <= STALE_S
        }
        settled = self.settled(now)
        for key, share in list(self._active.items()):
            if share.idle(now) > IDLE_S and share.full(now):
                self.close(share, now)
                continue
            reports: dict[str, Entry] = {}
            for name, entries in fresh.items():
                if (entry := entries.get(key)) is not None:
                    reports[name] = entry
            share.tick(now, reports, self.instances, settled=settled)

    def report(self, now: float) -> Report | None:
        """Return what the others are to be told now, after `tick`; None if that has time."""
        if not self._active and now - self._sent < QUIET_PERIOD_S:
            return None
        self._sent = now
        self._sequence += 1
        entries = {
            key: Entry(share.demand, share.admitted, share.balance) for key, share in self._active.items()
        }
        return Report(self._born, self._sequence, entries)

    def statistics(self) -> dict[str, int]:
        return {
            "keys": len(self._active),
            "peers": len(self._peers),
            "refused": self.refused,
            "ignored": self.ignored,
        }

    def __repr__(self) -> str:
        return f"<Sharing keys={len(self._active)} peers={len(self._peers)} refused={self.refused}>"
