"""Agents: ready, renewed, of one version, and with the policies in force that were published last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from busmesh.identity.alarms import late
from busmesh.identity.profile import BACKDATE_S
from busmesh.identity.trust import TrustBundle
from busmesh.members.announcement import Announcement, State
from busmesh.operator.diagnosis.verdict import OTHER_HOME, Check, failed, ok, warning
from busmesh.operator.history import History
from busmesh.operator.rollcall import RollCall
from busmesh.operator.status import Newest, Sync, newest, statuses
from busmesh.operator.wording import counted, named

#: An agent has a revision within this long after it was published, or something holds it up.
ARRIVES_S = 5.0
_RANK = {State.UNHEALTHY: 0, State.STARTING: 1, State.DRAINING: 2, State.HEALTHY: 3}


def check_agents(roll: RollCall, bundle: TrustBundle, software: str, now: float) -> list[Check]:
    """Look at who answered the roll call.

    Args:
        roll: what was answered.
        bundle: what the mesh believes.
        software: this busmesh's version.
        now: unix seconds.
    """
    found = _check_ready(roll)
    if not roll.members:
        return found
    overdue = [
        member.instance
        for member in roll.members
        if (shown := roll.certificates.get((member.name, member.instance))) is not None
        and late(shown.not_before + BACKDATE_S, shown.not_after, now)
    ]
    if overdue:
        text = f"{named(overdue)}: the SVID was not renewed in time"
        found.append(warning("agents", text, "is an authority up, and does it know them? see their logs"))
    else:
        found.append(ok("agents", "every SVID is renewed in time"))
    behind = [member.instance for member in roll.members if member.trust < bundle.version]
    if behind:
        text = f"{named(behind)} does not know trust bundle {bundle.version} yet"
        found.append(warning("agents", text, "busmesh identity show; does it reach the trust log?"))
    found.append(_check_versions(roll.members, software))
    return found


def _check_ready(roll: RollCall) -> list[Check]:
    if not roll.members:
        if roll.dropped > roll.astray:
            text = f"{counted(roll.dropped, 'agent answers', 'agents answer')} whom nobody here believes"
            return [failed("agents", text, OTHER_HOME)]
        return [warning("agents", "no agent answers", "start one: busmesh agent run FILE")]
    found = []
    if roll.dropped > roll.astray:
        text = f"{counted(roll.dropped - roll.astray, 'answer', 'answers')} by nobody who is believed"
        found.append(warning("agents", text, OTHER_HOME))
    ready = [member for member in roll.members if member.state is State.HEALTHY]
    if len(ready) == len(roll.members):
        found.append(ok("agents", f"{counted(len(ready), 'agent is', 'agents are')} ready"))
    for state in sorted({member.state for member in roll.members} - {State.HEALTHY}, key=_RANK.__getitem__):
        names = named(member.instance for member in roll.members if member.state is state)
        if state is State.UNHEALTHY:
            hint = "ask its agent what it waits for: curl http://ADMIN/readyz"
            found.append(failed("agents", f"unhealthy: {names}", hint))
        else:
            hint = "look again in a moment; else ask its agent: curl http://ADMIN/readyz"
            found.append(warning("agents", f"{state}: {names}", hint))
    away = [member.instance for member in roll.members if not all(member.workers)]
    if away:
        found.append(warning("agents", f"workers are missing: {named(away)}", "see the agent's log"))
    return found


def _check_versions(members: Iterable[Announcement], software: str) -> Check:
    counts = Counter(member.software or "an unknown one" for member in members)
    if set(counts) <= {software}:
        return ok("agents", f"all run busmesh {software}, as this command does")
    said = ", ".join(f"{version} ({number})" for version, number in sorted(counts.items()))
    return warning(
        "agents",
        f"busmesh here is {software}, agents run {said}",
        "upgrade what is behind: old and new work together",
    )


def check_policies(members: Sequence[Announcement], history: History | None, now: float) -> list[Check]:
    """Look whether every agent has in force what was published last.

    Args:
        members: who answered the roll call.
        history: of the policy log; None if it cannot be read, and then agents are compared with each other.
        now: unix seconds.
    """
    if not members:
        return []
    target: Newest = newest(history, members)
    told = [each for each in statuses(members, history, now) if each.state is not Sync.SYNCED]
    if not told:
        everybody = counted(len(members), "agent", "agents")
        if not target.number:
            return [ok("policies", f"none is published, and none is in force at {everybody}")]
        return [ok("policies", f"revision {target.number} is in force at {everybody}")]
    found = []
    rejected = [each for each in told if each.state is Sync.REJECTED]
    for reason, names in _by_reason((each.reason, each.agent) for each in rejected).items():
        text = f"{named(names)} refused a revision: {reason}"
        found.append(failed("policies", text, "mend it and publish again, or: busmesh policy rollback"))
    late_ones = [each for each in told if each.state is not Sync.REJECTED]
    fresh = [each for each in late_ones if each.age is not None and each.age < ARRIVES_S]
    for reason, names in _by_reason(
        (each.reason, each.agent) for each in late_ones if each not in fresh
    ).items():
        text = f"{named(names)}: {reason}"
        found.append(failed("policies", text, "busmesh policy status; does it reach the policy log?"))
    if fresh:
        text = f"{named(each.agent for each in fresh)}: revision {target.number} is on its way"
        found.append(warning("policies", text, "look again in a moment: busmesh policy status --watch"))
    return found


def _by_reason(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for reason, agent in pairs:
        found.setdefault(reason, []).append(agent)
    return found
