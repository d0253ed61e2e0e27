"""Services and instances as rows of plain data: who answered the roll call, and how they are doing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from busmesh.bus.bus import Bus
from busmesh.identity.verify import Verifier
from busmesh.members.announcement import Announcement, State
from busmesh.names import ServiceName, Subjects
from busmesh.operator.numbers import Numbers, Signals
from busmesh.operator.rollcall import ROLL_CALL_S, RollCall, call_roll

Row = dict[str, Any]
#: Agents publish their metrics once a second; a little more hears each of them at least once.
METRICS_S = 1.2


async def survey(
    bus: Bus, subjects: Subjects, verifier: Verifier, *, metrics: bool = True
) -> tuple[RollCall, Numbers]:
    """Call the roll and, unless ``metrics`` is False, listen to a second of metrics meanwhile."""
    numbers = Numbers()
    if not metrics:
        return await call_roll(bus, subjects, verifier), numbers
    listening = await bus.subscribe(subjects.signals("metrics"), numbers.hear)
    try:
        began = time.monotonic()
        roll = await call_roll(bus, subjects, verifier, timeout=ROLL_CALL_S)
        await asyncio.sleep(max(0.0, METRICS_S - (time.monotonic() - began)))
    finally:
        await bus.unsubscribe(listening)
    return roll, numbers


def service_rows(roll: RollCall, numbers: Numbers) -> list[Row]:
    """Return one row for each service, by name."""
    rows = []
    for name, members in sorted(roll.services().items()):
        serving = [member for member in members if member.serves]
        rows.append(
            {
                "name": str(name),
                "versions": sorted({member.labels.get("version", "") for member in members} - {""}),
                "ready": sum(member.state is State.HEALTHY for member in serving),
                "instances": len(serving),
                "clients": len(members) - len(serving),
                **_signals(numbers.service(name)),
            }
        )
    return rows


def instance_rows(
    members: Iterable[Announcement], numbers: Numbers, now: float, *, service: ServiceName | None = None
) -> list[Row]:
    """Return one row for each instance, or for those of one ``service``; ``now`` in unix seconds."""
    return [
        {
            "instance": member.instance,
            "service": str(member.name),
            "version": member.labels.get("version", ""),
            "state": str(member.state),
            "serves": member.serves,
            "weight": member.weight,
            "labels": dict(sorted(member.labels.items())),
            "locality": member.locality,
            "active": member.active,
            "processes": len(member.workers) or 1,
            "processes_ready": sum(member.workers) or 1,
            "revision": member.revision,
            "digest": member.digest,
            "age_s": round(max(0.0, now - member.incarnation / 1000), 3),
            "software": member.software,
            **_signals(numbers.instance(member.name, member.instance)),
        }
        for member in members
        if service is None or member.name == service
    ]


def _signals(signals: Signals) -> Row:
    p50, p95, p99 = signals.percentiles_ms()
    return {
        "success": None if signals.success is None else round(signals.success, 6),
        "rps": round(signals.rps, 3),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
    }
