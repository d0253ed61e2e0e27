"""Did the policies arrive? What each agent says it has in force, against what was published last.

States and their names are those of ``istioctl proxy-status``, so that what people know applies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from busmesh.members.announcement import Announcement
from busmesh.names import ServiceName
from busmesh.operator.history import History
from busmesh.policy.revision import EMPTY


class Sync(StrEnum):
    """How far an agent is.

    SYNCED: it has the newest revision in force. STALE: another one, or another set under that number.
    REJECTED: it refused a newer one and keeps the last good set. MISSING: it was there and does not answer.
    """

    SYNCED = "SYNCED"
    STALE = "STALE"
    REJECTED = "REJECTED"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """One agent's state.

    Attributes:
        revision: in force there.
        age: seconds since the revision was made that decides the state: the one in force if SYNCED, the one
            refused if REJECTED, else the first that the agent lacks. None if that is not known.
        reason: why it is not SYNCED.
    """

    agent: str
    service: ServiceName
    revision: int
    state: Sync
    age: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Newest:
    """What every agent should have in force."""

    number: int = 0
    digest: str = EMPTY.digest


def newest(history: History | None, members: Iterable[Announcement]) -> Newest:
    """Return what counts as newest: the log's end; if the log cannot be read, the furthest of the agents.

    Args:
        history: None if the log cannot be read.
        members: who answered the roll call.
    """
    if history is not None:
        return Newest(history.current.number, history.current.digest)
    furthest = max(members, key=lambda member: member.revision, default=None)
    return Newest() if furthest is None else Newest(furthest.revision, furthest.digest)


def agent_status(member: Announcement, target: Newest, history: History, now: float) -> AgentStatus:
    """Return how far ``member`` is from ``target`` at ``now`` (unix seconds)."""

    def told(state: Sync, number: int, reason: str = "") -> AgentStatus:
        made = history.time_of(number)
        age = None if made is None else max(0.0, now - made)
        return AgentStatus(member.instance, member.name, member.revision, state, age, reason)

    if member.revision == target.number and member.digest in ("", target.digest):
        return told(Sync.SYNCED, member.revision)
    refused = member.refused
    # A refusal of what was never published is about junk that somebody put on the bus.
    if refused is not None and member.revision < refused.revision <= target.number:
        return told(Sync.REJECTED, refused.revision, f"{refused.code} {refused.reason}".strip())
    if member.revision == target.number:
        return told(Sync.STALE, member.revision, "it holds another set under this number")
    if member.revision > target.number:
        return told(Sync.STALE, 0, f"it is ahead of the log, which ends at {target.number}")
    lacks = target.number - member.revision
    reason = "it has no revision yet" if member.revision == 0 else f"{lacks} behind revision {target.number}"
    return told(Sync.STALE, member.revision + 1, reason)


def missing(member: Announcement) -> AgentStatus:
    """Return the status of a ``member`` that answered an earlier roll call and not this one."""
    return AgentStatus(
        member.instance, member.name, member.revision, Sync.MISSING, None, "it does not answer"
    )


def statuses(
    members: Iterable[Announcement],
    history: History | None,
    now: float,
    *,
    expected: Iterable[Announcement] = (),
) -> list[AgentStatus]:
    """Return the state of every agent, by service and instance.

    Args:
        members: who answered the roll call.
        history: the log; None if it cannot be read, and then what the agents have is compared.
        now: unix seconds.
        expected: who answered before; whoever of them is not among ``members`` is MISSING.
    """
    members = list(members)
    target = newest(history, members)
    found = [agent_status(member, target, history or History(), now) for member in members]
    present = {(member.name, member.instance) for member in members}
    found += [missing(member) for member in expected if (member.name, member.instance) not in present]
    return sorted(found, key=lambda status: (status.service, status.agent))
