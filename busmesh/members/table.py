"""The member table: what one agent believes of the instances that it follows.

Pure: every method takes the time and returns what changed. An announcement counts if its signer is the
instance that it speaks of, and if it is newer than what is known; so neither a forger nor an agent that was
frozen for a while and replaced meanwhile can bring an old state back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from busmesh.members.announcement import Announcement, State
from busmesh.names import ServiceName, SpiffeId

#: Announcements that may be missed before an instance is forgotten. It is not what finds a crash: "no
#: responders" and probes do that within milliseconds; this clears the table.
MISSES = 5
#: Instances of one service; more are refused, so that a flood of names cannot fill the memory.
MAX_PER_SERVICE = 4096


@dataclass(frozen=True, slots=True)
class Member:
    """One instance, as last announced."""

    announcement: Announcement
    heard: float  # monotonic seconds

    @property
    def ready(self) -> bool:
        return self.announcement.state is State.HEALTHY and self.announcement.serves

    def overdue(self, now: float) -> bool:
        return now - self.heard > self.announcement.interval * MISSES


class MemberTable:
    """Members by service and instance."""

    def __init__(self) -> None:
        self._services: dict[ServiceName, dict[str, Member]] = {}
        self.rejected = 0
        self.stale = 0

    def apply(self, announcement: Announcement, signer: SpiffeId, now: float) -> bool:
        """Take an announcement; True if it changed more than the time at which it was heard."""
        if not self.is_news(announcement, signer):
            return False
        members = self._services.setdefault(announcement.name, {})
        known = members.get(announcement.instance)
        if announcement.state is State.LEFT:
            # Kept until overdue, so that an older announcement still under way cannot revive it.
            members[announcement.instance] = Member(announcement, now)
            return known is not None and known.announcement.state is not State.LEFT
        members[announcement.instance] = Member(announcement, now)
        return known is None or _matters(announcement) != _matters(known.announcement)

    def is_news(self, announcement: Announcement, signer: SpiffeId) -> bool:
        """Say whether ``announcement`` counts: by the instance itself, and newer than what is known of it."""
        members = self._services.get(announcement.name, {})
        known = members.get(announcement.instance)
        if not announcement.is_by(signer) or (known is None and len(members) >= MAX_PER_SERVICE):
            self.rejected += 1
            return False
        if known is not None:
            old = known.announcement
            if (announcement.incarnation, announcement.sequence) <= (old.incarnation, old.sequence):
                self.stale += 1
                return False
        return True

    def expire(self, now: float) -> list[Announcement]:
        """Forget who has not been heard of for too long; return them."""
        gone = []
        for members in self._services.values():
            for instance, member in list(members.items()):
                if member.overdue(now):
                    del members[instance]
                    gone.append(member.announcement)
        return gone

    def excuse(self, now: float) -> None:
        """After an outage of the bus nobody is overdue: count from now."""
        for members in self._services.values():
            for instance, member in members.items():
                members[instance] = Member(member.announcement, now)

    def lost(self, service: ServiceName, instance: str, now: float) -> None:
        """Somebody said that the instance's agent is gone: believe it until it says otherwise.

        What it said last counts once more then, because an instance that lives and is asked repeats that.
        """
        members = self._services.get(service, {})
        member = members.get(instance)
        if member is not None and member.announcement.state is not State.LEFT:
            last = member.announcement
            left = last.model_copy(update={"state": State.LEFT, "sequence": last.sequence - 1})
            members[instance] = Member(left, now)

    def of(self, service: ServiceName) -> Iterator[Member]:
        return iter(self._services.get(service, {}).values())

    def all(self) -> Iterator[Member]:
        for members in self._services.values():
            yield from members.values()

    def forget(self, service: ServiceName) -> None:
        self._services.pop(service, None)

    def statistics(self) -> dict[str, int]:
        count = sum(len(members) for members in self._services.values())
        return {"members": count, "rejected": self.rejected, "stale": self.stale}

    def __repr__(self) -> str:
        return f"<MemberTable services={len(self._services)} {self.statistics()}>"


def _matters(announcement: Announcement) -> tuple[object, ...]:
    a = announcement
    return (a.incarnation, a.state, a.serves, a.labels, a.weight, a.locality)
