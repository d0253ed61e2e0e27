"""Rate limits of one instance: which of them a request falls under, and whether it may pass.

They are asked by the agent of the instance that receives, after it has proven who calls: there a caller
cannot evade them. A request passes if every limit that it falls under has a token for it; else it takes
none, so what one limit refuses does not use up another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from busmesh.decide.limit import Limit, Quota, Slot, Table
from busmesh.decide.match import Condition, any_of, header_value
from busmesh.decide.request import RequestHead
from busmesh.decide.sharing import Sharing
from busmesh.names import ServiceName

#: Slots of one limit that has keys: about half a KiB each, twice that for the whole mesh.
MAX_SLOTS = 1024
#: Callers whose limits are worked out once; they are identities that the authority gave out.
MAX_CALLERS = 1024
#: A longer part of a key is kept as its digest.
MAX_PART = 64
#: "Retry-After" never says more than a day.
MAX_RETRY_AFTER_S = 86400


class Verdict(NamedTuple):
    """What a request hears.

    Attributes:
        allowed: whether it may go on.
        limit: the limit that refused it or, of a request that is allowed, that would if it were enforcing.
        wait: seconds until a token is there, if nobody else takes it.
    """

    allowed: bool
    limit: str = ""
    wait: float = 0.0


ALLOWED = Verdict(True)


def retry_after(wait: float) -> int:
    """Return the seconds that a ``Retry-After`` says (RFC 9110 section 10.2.3): whole, and at least 1."""
    return max(1, min(math.ceil(wait), MAX_RETRY_AFTER_S))


#: What tells the keys of a limit apart in the head of a request.
Part = Callable[[RequestHead], bytes]


class Plan(NamedTuple):
    """A limit as it meets one caller: everything that follows from who calls is settled."""

    table: Table
    condition: Condition | None
    prefix: bytes
    parts: tuple[Part, ...]
    quota: Quota

    def key(self, head: RequestHead) -> bytes:
        key = self.prefix
        for part in self.parts:
            text = part(head)
            key += b"\0" + (text if len(text) <= MAX_PART else blake2b(text, digest_size=16).digest())
        return key


class RateLimiter:
    """Every limit of this instance, in force over revisions.

    Args:
        sharing: where limits for the whole mesh are shared.
        local: where those of one instance are, if several processes make it up.
        max_slots: keys that one limit tells apart at a time.
    """

    def __init__(self, sharing: Sharing, *, local: Sharing | None = None, max_slots: int = MAX_SLOTS) -> None:
        self._sharing = sharing
        self._local = local
        self._max_slots = max_slots
        self._tables: tuple[Table, ...] = ()
        self._plans: dict[ServiceName, tuple[Plan, ...]] = {}

    def apply(self, limits: Sequence[Limit], now: float) -> None:
        """Put the limits of a new revision in force; those that stood in the last one keep their buckets."""
        shared = self.shared
        before = {table.limit.identity: table for table in self._tables}
        tables = []
        for limit in limits:
            table = before.pop(limit.identity, None)
            if table is None:
                table = Table(limit, self._sharing if limit.scope == "mesh" else self._local, self._max_slots)
            table.limit = limit  # its conditions are closures, made anew with each revision
            tables.append(table)
        for table in before.values():
            table.close(now)
        self._tables = tuple(tables)
        self._plans = {}
        if self.shared and not shared:
            self._sharing.begin(now)

    @property
    def idle(self) -> bool:
        """Whether there is no limit at all."""
        return not self._tables

    @property
    def shared(self) -> bool:
        """Whether a limit is for the whole mesh, so that others must be told and heard."""
        return any(table.limit.scope == "mesh" for table in self._tables)

    def check(self, caller: ServiceName, head: RequestHead, now: float) -> Verdict:
        """Say whether a request may pass, and take its tokens if so.

        Args:
            caller: the service whose identity the caller's agent has proven.
            head: of the request.
            now: monotonic seconds.
        """
        plans = self._plans.get(caller)
        if plans is None:
            plans = self._plan(caller)
        if not plans:
            return ALLOWED
        verdict = ALLOWED
        passed: list[tuple[Table, Slot]] = []
        for plan in plans:
            table, condition, *_ = plan
            if condition is not None and not condition(head):
                continue
            slot = table.slot(plan.key(head), plan.quota, now)
            wait = slot.bucket.wait(now)
            if wait <= 0.0:
                passed.append((table, slot))
                continue
            table.refused += 1
            table.offered(slot, now)
            if table.limit.enforcing:
                return Verdict(False, table.limit.name, wait)
            verdict = Verdict(True, table.limit.name, wait)
        for table, slot in passed:
            table.offered(slot, now)
            table.take(slot, now)
        return verdict

    def _plan(self, caller: ServiceName) -> tuple[Plan, ...]:
        if len(self._plans) >= MAX_CALLERS:
            del self._plans[next(iter(self._plans))]
        plans = self._plans[caller] = tuple(_plans(self._tables, caller))
        return plans

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return what became of the requests of each limit, by its name."""
        return {
            table.limit.name: {
                "allowed": table.allowed,
                "refused": table.refused,
                "crowded": table.crowded,
            }
            for table in self._tables
        }

    def __repr__(self) -> str:
        return f"<RateLimiter limits={len(self._tables)} callers={len(self._plans)}>"


def _plans(tables: Iterable[Table], caller: ServiceName) -> Iterator[Plan]:
    for table in tables:
        limit = table.limit
        entries = [entry.condition for entry in limit.match if entry.concerns(caller)]
        if limit.match and not entries:
            continue
        yield Plan(
            table,
            any_of(entries) if entries else None,
            f"{caller.name}.{caller.namespace}".encode() if "caller" in limit.per else b"",
            tuple(_part(word) for word in limit.per if word != "caller"),
            limit.quotas.get(caller, limit.quota),
        )


def _part(word: str) -> Part:
    if word == "path":
        return _path
    return partial(_header, name=word.removeprefix("header:").encode())


def _path(head: RequestHead) -> bytes:
    return head.target.partition(b"?")[0]


def _header(head: RequestHead, name: bytes) -> bytes:
    """Return the header's value. Without it, b"": leaving it out must not evade the limit."""
    return header_value(head.block, name) or b""
