"""The telemetry actor: once a second, what happened goes out as JSON on the telemetry subjects."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from busmesh.actors.actor import Actor, Address
from busmesh.bus.address import SubjectAddress
from busmesh.bus.bus import Bus
from busmesh.names import ServiceName, Subjects
from busmesh.telemetry.access import AccessLog
from busmesh.telemetry.events import EventLog
from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.trace import Tracer

INTERVAL_S = 1.0
SIGNALS = ("metrics", "traces", "access", "events")


def _json(message: Mapping[str, object]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


class Telemetry(Actor[None]):
    """Publishes; it receives nothing, because the request path counts where it stands."""

    interval = INTERVAL_S
    capacity = 1

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        service: ServiceName,
        instance: str,
        *,
        registry: Registry,
        access: AccessLog,
        events: EventLog,
        tracer: Tracer,
    ) -> None:
        super().__init__("telemetry")
        self._origin = {"namespace": service.namespace, "service": service.name, "instance": instance}
        self._registry = registry
        self._access = access
        self._events = events
        self._tracer = tracer
        self._ticked = time.monotonic()
        self._to: dict[str, Address[Mapping[str, object]]] = {
            signal: SubjectAddress(bus, subjects.telemetry(signal, service, instance), _json)
            for signal in SIGNALS
        }

    async def tick(self) -> None:
        now, ticked = time.time(), time.monotonic()
        elapsed, self._ticked = ticked - self._ticked, ticked
        self._to["metrics"].tell(self._registry.tick(now, elapsed))
        if access := self._access.drain():
            self._to["access"].tell({**self._origin, "events": access})
        if events := self._events.drain():
            self._to["events"].tell({**self._origin, "events": events})
        if spans := self._tracer.drain():
            self._to["traces"].tell(spans)

    def forward(self, signal: str, events: Sequence[object]) -> None:
        """Publish what happened in another process of this agent."""
        self._to[signal].tell({**self._origin, "events": events})

    def forward_spans(self, spans: Mapping[str, object]) -> None:
        self._to["traces"].tell(spans)

    async def stopped(self) -> None:
        await self.tick()
