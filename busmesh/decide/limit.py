"""A rate limit in force: the buckets of its keys, and what became of its requests.

The nouns: a *limit* is what a document says; its *key* tells apart those who each get its whole rate (a
caller, a value of a header); a *slot* is the bucket of one key.

Who calls with ever new values of a header makes ever new keys, so a limit has a bounded number of slots. One
is reused only when its bucket is full again: a new bucket is full too, so nobody gains a token by being
forgotten. While no slot is free, all new keys have one more bucket in common. So a client that does this gets
as much as there are slots and one, and new keys beside it get little meanwhile; those that were there
before notice nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, NamedTuple

from busmesh.decide.match import Condition
from busmesh.decide.share import Share
from busmesh.decide.sharereport import KEY_BYTES
from busmesh.decide.sharing import Sharing
from busmesh.decide.tokenbucket import TokenBucket
from busmesh.names import ServiceName

Scope = Literal["local", "mesh"]


class Quota(NamedTuple):
    """So many requests per second on average, so many at once."""

    rate: float
    burst: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a limit's match: who calls, and what the request is; None for any."""

    caller: ServiceName | None = None
    namespace: str | None = None
    condition: Condition | None = None

    def concerns(self, caller: ServiceName) -> bool:
        return (self.caller is None or self.caller == caller) and (
            self.namespace is None or self.namespace == caller.namespace
        )


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """One limit of a document, compiled.

    Attributes:
        name: a label for refusals and telemetry.
        identity: says that two limits are the same, of two revisions and of two instances too.
        match: one entry must hold; without any the limit is for every request.
        per: what tells keys apart: "caller", "path", "header:<lower-case name>"; empty for one key for all.
        quotas: of callers that have one of their own.
        enforcing: whether it refuses; else it only counts what it would.
    """

    name: str
    identity: str
    quota: Quota
    match: tuple[Entry, ...] = ()
    per: tuple[str, ...] = ()
    scope: Scope = "local"
    enforcing: bool = True
    quotas: Mapping[ServiceName, Quota] = field(default_factory=dict)


def share_key(identity: str, key: bytes) -> bytes:
    """Return what all instances call this key of this limit; who hears it does not learn the key from it."""
    return blake2b(key, key=identity.encode()[:64], digest_size=KEY_BYTES).digest()


class Slot:
    """The bucket of one key; of a limit for the whole mesh it belongs to a share."""

    __slots__ = ("bucket", "share")

    def __init__(self, bucket: TokenBucket, share: Share | None = None) -> None:
        self.bucket = bucket
        self.share = share


class Table:
    """A limit in force: its slots, and what became of its requests.

    Attributes:
        allowed: requests that fell under it and passed.
        refused: those that it refused, or would have refused if it were enforcing.
        crowded: those whose key had to do with the shared slot.
    """

    __slots__ = ("_max_slots", "_overflow", "_sharing", "_slots", "allowed", "crowded", "limit", "refused")

    def __init__(self, limit: Limit, sharing: Sharing | None, max_slots: int) -> None:
        """Make it; without ``sharing`` each key has a bucket that nobody else takes from."""
        self.limit = limit
        self._sharing = sharing
        self._max_slots = max_slots
        self._slots: OrderedDict[bytes, Slot] = OrderedDict()
        self._overflow: Slot | None = None
        self.allowed = self.refused = self.crowded = 0

    def slot(self, key: bytes, quota: Quota, now: float) -> Slot:
        """Return the slot of a key, which has this quota."""
        slots = self._slots
        slot = slots.get(key)
        if slot is not None:
            slots.move_to_end(key)
            return slot
        if len(slots) >= self._max_slots:
            oldest = next(iter(slots.values()))
            if oldest.bucket.advance(now) < oldest.bucket.burst:
                self.crowded += 1
                if self._overflow is None:
                    self._overflow = self._new(b"", self.limit.quota, now)
                return self._overflow
            slots.popitem(last=False)
            self._forget(oldest, now)
        slot = slots[key] = self._new(key, quota, now)
        return slot

    def _new(self, key: bytes, quota: Quota, now: float) -> Slot:
        if self._sharing is None:
            return Slot(TokenBucket(quota.rate, quota.burst, now))
        share = self._sharing.open(share_key(self.limit.identity, key), quota.rate, quota.burst, now)
        return Slot(share.bucket, share)

    def offered(self, slot: Slot, now: float) -> None:
        """Count a request that this limit decides on for those who share it."""
        share = slot.share
        if share is not None:
            if not share.active and self._sharing is not None:
                self._sharing.activate(share, now)
            share.offered()

    def take(self, slot: Slot, now: float) -> None:
        """Let a request pass."""
        self.allowed += 1
        if slot.share is not None:
            slot.share.take(now)
        else:
            slot.bucket.take(now)

    def close(self, now: float) -> None:
        """Forget everything: the limit is no longer in force."""
        for slot in [*self._slots.values(), *([self._overflow] if self._overflow else [])]:
            self._forget(slot, now)
        self._slots.clear()
        self._overflow = None

    def _forget(self, slot: Slot, now: float) -> None:
        if self._sharing is not None and slot.share is not None and slot.share.active:
            self._sharing.close(slot.share, now)

    def __repr__(self) -> str:
        return (
            f"<Table {self.limit.name} keys={len(self._slots)} allowed={self.allowed} refused={self.refused}"
            f" crowded={self.crowded}>"
        )
