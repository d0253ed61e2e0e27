"""Shared evidence: tells the other callers of a service what this one sees of its instances, and hears them.

Only for services whose Destination asks for it. What a quorum sees failing is ejected here as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgpack

from busmesh.actors.actor import Actor
from busmesh.bus.bus import Bus
from busmesh.decide.ejection import ejectable
from busmesh.decide.evidence import Reporter
from busmesh.decide.report import MAX_BYTES, Report, Seen, merged, parse_report
from busmesh.errors import BusmeshError, BusUnavailable, RemoteProtocolError
from busmesh.identity.holder import Identity
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.members.versioned import unpacked
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.relay.destination.destination import Destination
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.telemetry.tally import Tally

log = logging.getLogger(__name__)

PURPOSE = "evidence"
#: An older report says nothing of now.
MAX_AGE_S = 10.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A report of another caller."""

    payload: bytes


class SharedEvidence(Actor[Heard]):
    """Publishes reports and carries out verdicts."""

    interval = 1.0
    capacity = 4096

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        identity: Identity,
        me: SpiffeId,
        upstreams: Upstreams,
        *,
        tells: bool = True,
    ) -> None:
        """Make it; a worker hears and judges, and leaves telling to its agent's first process."""
        super().__init__("evidence")
        self._bus = bus
        self._subjects = subjects
        self._identity = identity
        self._me = me
        self._tells = tells
        self._upstreams = upstreams
        self._subscribed: set[ServiceName] = set()
        self._refused = Tally(log, "reports of evidence")

    def _on_report(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self.mailbox.tell(Heard(payload), len(payload))

    async def receive(self, message: Heard) -> None:
        self._hear(message.payload)

    async def tick(self) -> None:
        now = time.monotonic()
        for service, destinations in self._sharing():
            if service not in self._subscribed:
                await self._bus.subscribe(self._subjects.evidence(service), self._on_report)
                self._subscribed.add(service)
            seen = merged(d.guard.detector.seen() for d in destinations if d.guard.detector is not None)
            self._take(service, self._me, seen, now)
            self._tell(Report(service, seen))
            for destination in destinations:
                self._judge(destination, now)

    def _sharing(self) -> Iterator[tuple[ServiceName, list[Destination]]]:
        """Yield the services whose callers share evidence, with the destinations that do."""
        by_service: dict[ServiceName, list[Destination]] = {}
        for destination in self._upstreams.destinations():
            if destination.guard.evidence is not None:
                by_service.setdefault(destination.target.service, []).append(destination)
        yield from by_service.items()

    def _tell(self, report: Report) -> None:
        if not (report.seen and self._tells):
            return
        body = msgpack.packb(report.to_plain())
        sealed = seal_signed(self._identity.svid, PURPOSE, body, time.time())
        try:
            self._bus.publish(self._subjects.evidence(report.service, self._me.instance), sealed)
        except BusUnavailable:
            return  # said again in a second

    def _hear(self, payload: bytes) -> None:
        try:
            signed = open_signed(payload, PURPOSE, self._identity.verifier, time.time(), max_age=MAX_AGE_S)
            if len(signed.body) > MAX_BYTES:
                raise RemoteProtocolError("a report of evidence of too many bytes")
            report = parse_report(unpacked(signed.body, "a report of evidence"))
        except BusmeshError as error:
            self._refused.add(error)
            return
        if signed.signer.id != self._me:
            self._take(report.service, signed.signer.id, report.seen, time.monotonic())

    def _take(self, service: ServiceName, who: SpiffeId, seen: Mapping[str, Seen], now: float) -> None:
        if who.service is None:
            return  # operators and authorities call nobody
        reporter = Reporter(who.service, who.instance)
        for destination in self._upstreams.destinations():
            if destination.target.service == service and destination.guard.evidence is not None:
                destination.guard.evidence.heard(reporter, seen, now)

    def _judge(self, destination: Destination, now: float) -> None:
        guard = destination.guard
        if guard.evidence is None or guard.detector is None:
            return
        instances = guard.detector.records
        allowed = ejectable(len(instances), guard.detector.policy.max_ejection_percent)
        for instance in guard.evidence.judge(allowed, instances, now):
            if not instances[instance].ejected:
                destination.condemn(instance, now)

    def statistics(self) -> dict[str, int]:
        return {"services": len(self._subscribed), "forged": self._refused.count}
