"""Limits for the whole mesh: tells the other instances of this service what came here, and hears of them.

Ten messages a second go out while there is traffic under such a limit, one a second while there is none, and
none at all without such a limit.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import msgpack

from busmesh.actors.actor import Actor
from busmesh.bus.bus import Bus
from busmesh.decide.ratelimit import RateLimiter
from busmesh.decide.share import PERIOD_S
from busmesh.decide.sharereport import MAX_BYTES, parse_report
from busmesh.decide.sharing import Sharing
from busmesh.errors import BusmeshError, BusUnavailable, RemoteProtocolError
from busmesh.identity.holder import Identity
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.members.versioned import unpacked
from busmesh.names import MAX_WORKERS, SpiffeId, Subjects
from busmesh.telemetry.tally import Tally

log = logging.getLogger(__name__)

PURPOSE = "limits"
#: An older report says nothing of now.
MAX_AGE_S = 5.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of another instance."""

    payload: bytes


class BusBack:
    """The bus is connected again: what the others did meanwhile is not known."""


class LimitSharing(Actor[Heard | BusBack]):
    """Owns what is known of the others' part in shared limits."""

    interval = PERIOD_S
    capacity = 1024

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        identity: Identity,
        me: SpiffeId,
        sharing: Sharing,
        limiter: RateLimiter,
        worker: int = 0,
    ) -> None:
        """Make it; each worker of an instance shares as if it were an instance of its own."""
        super().__init__("limits")
        assert me.service is not None, "an agent has a service"
        self._bus = bus
        self._identity = identity
        self._me = me
        self._worker = worker
        self._heard_on = subjects.limits(me.service)
        self._told_on = subjects.limits(me.service, me.instance)
        self._sharing = sharing
        self._limiter = limiter
        self._listening = False
        self._refused = Tally(log, "reports of limits")

    def _on_report(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self.mailbox.tell(Heard(payload), len(payload))

    async def receive(self, message: Heard | BusBack) -> None:
        match message:
            case Heard(payload):
                self._hear(payload)
            case BusBack():
                self._sharing.begin(time.monotonic())

    async def tick(self) -> None:
        if not self._limiter.shared:
            return
        if not self._listening:
            await self._bus.subscribe(self._heard_on, self._on_report)
            self._listening = True
        now = time.monotonic()
        self._sharing.tick(now)
        report = self._sharing.report(now)
        if report is not None:
            plain = report.to_plain()
            body = msgpack.packb([self._worker, plain] if self._worker else plain)
            try:
                self._bus.publish(self._told_on, seal_signed(self._identity.svid, PURPOSE, body, time.time()))
            except BusUnavailable:
                return  # the next one says all

    def _hear(self, payload: bytes) -> None:
        try:
            signed = open_signed(payload, PURPOSE, self._identity.verifier, time.time(), max_age=MAX_AGE_S)
            signer = signed.signer.id
            if signer.service != self._me.service:
                raise RemoteProtocolError(f"{signer} is no instance of {self._me.service}")
            if len(signed.body) > MAX_BYTES:
                raise RemoteProtocolError("a report of limits of too many bytes")
            worker, plain = _worker_of(unpacked(signed.body, "a report of limits"))
            if signer.instance == self._me.instance and worker == self._worker:
                return
            report = parse_report(plain)
        except BusmeshError as error:
            self._refused.add(error)
            return
        who = f"{signer.instance}/{worker}" if worker else signer.instance
        self._sharing.hear(who, report, time.monotonic())

    def statistics(self) -> dict[str, int]:
        return {**self._sharing.statistics(), "forged": self._refused.count}


def _worker_of(value: object) -> tuple[int, object]:
    """Read which worker of its instance made a report; the first one does not say."""
    match value:
        case [int(worker), list(plain)] if 0 < worker < MAX_WORKERS:
            return worker, plain
    return 0, value
