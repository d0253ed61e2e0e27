"""A dry run as an operator sees it: begin it, gather what the agents say, end it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from busmesh.bus.bus import Bus
from busmesh.decide.dryrun import Difference, most_frequent
from busmesh.errors import BusmeshError, IdentityError
from busmesh.identity.dryruns import DryRun, open_dry_run, seal_dry_run
from busmesh.identity.signed import open_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.members.announcement import Announcement
from busmesh.members.dryreport import PURPOSE, DryReport, decode
from busmesh.names import ServiceName, Subjects
from busmesh.policy.revision import Revision

#: Begun again so often, for agents that join and for messages that were lost; who knows it passes over it.
REPEAT_S = 1.0
#: For the last reports.
FAREWELL_S = 0.5
#: An agent ends by itself this long after it should have been told to.
GRACE_S = 5.0
MAX_AGE_S = 15.0
#: Agents whose reports are kept.
MAX_REPORTERS = 10_000

Who = tuple[ServiceName, str]


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a dry run.

    Attributes:
        reports: the last one of each agent.
        silent: agents that were there and said nothing.
        dropped: reports that proved nothing.
    """

    reports: dict[Who, DryReport]
    silent: tuple[Who, ...] = ()
    dropped: int = 0

    @property
    def seen(self) -> int:
        return sum(report.seen for report in self.reports.values())

    @property
    def compared(self) -> int:
        return sum(report.compared for report in self.reports.values())

    @property
    def others(self) -> int:
        return sum(report.others for report in self.reports.values())

    @property
    def trouble(self) -> dict[Who, DryReport]:
        """Agents that could not compare, or not to the end."""
        return {who: report for who, report in self.reports.items() if report.code}

    def differences(self) -> list[tuple[ServiceName, Difference, int]]:
        """Return (caller, how requests differ, how many), the most frequent first."""
        found: dict[ServiceName, Counter[Difference]] = {}
        for (service, _), report in self.reports.items():
            counts = found.setdefault(service, Counter())
            for one in report.differences:
                counts[one.difference] += one.count
        rows = [
            (service, difference, count)
            for service, counts in sorted(found.items())
            for difference, count in most_frequent(counts.items())
        ]
        return sorted(rows, key=lambda row: -row[2])


@dataclass
class Reports:
    """The reports on one dry run, as they come.

    Attributes:
        latest: of each agent.
        dropped: what proved nothing.
    """

    verifier: Verifier
    id: str
    latest: dict[Who, DryReport] = field(default_factory=dict)
    dropped: int = 0

    def hear(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take one message from the bus."""
        self.take(payload, time.time())

    def take(self, payload: bytes, now: float) -> None:
        """Take one signed report, from anybody; ``now`` in unix seconds."""
        try:
            signed = open_signed(payload, PURPOSE, self.verifier, now, max_age=MAX_AGE_S)
            report = decode(signed.body)
        except BusmeshError:
            self.dropped += 1
            return
        signer = signed.signer.id
        if report.id != self.id:
            return  # of another dry run
        if signer.service is None:
            self.dropped += 1
            return
        who = (signer.service, signer.instance)
        known = self.latest.get(who)
        if known is None and len(self.latest) >= MAX_REPORTERS:
            self.dropped += 1
        elif known is None or known.stand == "comparing":  # what has ended keeps the reason it ended for
            self.latest[who] = report

    def over(self, expected: Collection[Who]) -> bool:
        """Say whether every expected agent has ended or refused."""
        return bool(expected) and all(
            who in self.latest and self.latest[who].stand != "comparing" for who in expected
        )


async def dry_run(
    bus: Bus,
    subjects: Subjects,
    verifier: Verifier,
    svid: Svid,
    revision: Revision,
    members: Collection[Announcement],
    seconds: float,
    stop: asyncio.Event,
) -> Found:
    """Have every agent hold ``revision`` against what is in force, for ``seconds``; nothing comes into force.

    Args:
        bus: connected.
        subjects: of the mesh.
        verifier: holds its roots.
        svid: the operator's.
        revision: as it would be published.
        members: who is there.
        seconds: at most an hour.
        stop: ends it before.

    Raises:
        IdentityError: no agent would believe this operator.
    """
    expected = [(member.name, member.instance) for member in members]
    name = secrets.token_hex(8)
    now = time.time()
    ends_ms = int((now + seconds + GRACE_S) * 1000)
    entry = seal_dry_run(svid, DryRun(name, ends_ms, revision), now)
    try:
        open_dry_run(entry, verifier, now)
    except IdentityError as error:
        message = f"no agent would take this dry run: {error.message}"
        raise IdentityError(message, code=error.code, hint=error.hint) from None
    reports = Reports(verifier, name)
    listening = await bus.subscribe(subjects.dry_reports, reports.hear)
    until = time.monotonic() + seconds
    try:
        await bus.round_trip()  # from here on nothing is missed
        while (left := until - time.monotonic()) > 0 and not reports.over(expected) and not stop.is_set():
            bus.publish(subjects.dry_run, entry)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(REPEAT_S, left)):
                    await stop.wait()
    finally:
        with contextlib.suppress(BusmeshError):
            bus.publish(subjects.dry_run, seal_dry_run(svid, DryRun(name, ends_ms, None), time.time()))
            await bus.round_trip()
    farewell = time.monotonic() + FAREWELL_S
    while time.monotonic() < farewell and not reports.over(expected):  # noqa: ASYNC110 - half a second at most
        await asyncio.sleep(0.02)
    await bus.unsubscribe(listening)
    silent = tuple(who for who in expected if who not in reports.latest)
    return Found(reports.latest, silent, reports.dropped)
