"""One process of an agent: whose it is, what it holds, and its part of what the agent may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from busmesh.agent.definition import AgentDefinition
from busmesh.bus.bus import Bus
from busmesh.decide.origin import Origin
from busmesh.identity.holder import Identity
from busmesh.identity.store import AgentHome
from busmesh.names import SpiffeId, Subjects
from busmesh.policy.fields import seconds
from busmesh.relay.application.pool import PoolLimits
from busmesh.relay.client.refusals import Limits


@dataclass(frozen=True, slots=True, repr=False)
class Process:
    """What all parts of one process are made from.

    Attributes:
        definition: of the agent.
        subjects: of the mesh.
        identity: of the instance, as this process holds it.
        bus: this process's own connection.
        home: where the agent keeps what it needs again.
        rng: for balancing and jitter, not for secrets.
        worker: 0 for the first process, else which of the workers beside it this is.
    """

    definition: AgentDefinition
    subjects: Subjects
    identity: Identity
    bus: Bus
    home: AgentHome
    rng: Random
    worker: int = 0

    @property
    def id(self) -> SpiffeId:
        return self.identity.id

    @property
    def instance(self) -> str:
        return self.identity.id.instance

    @property
    def shared(self) -> bool:
        """Whether the instance has other processes than this one."""
        return self.definition.workers > 1

    @property
    def origin(self) -> Origin:
        """Who calls, as balancers see it."""
        name = self.definition.name
        return Origin(
            f"{name.name}.{name.namespace}", self.instance, self.definition.locality, self.definition.labels
        )

    @property
    def version(self) -> str:
        return self.definition.labels.get("version", "")

    @property
    def resource(self) -> dict[str, str]:
        """What OpenTelemetry calls the resource that spans come from."""
        name = self.definition.name
        return {
            "service.name": name.name,
            "service.namespace": name.namespace,
            "service.instance.id": self.instance,
            "service.version": self.version,
        }

    @property
    def trust_log(self) -> Path:
        """Where this process keeps what it knows of the trust log: two must not write to one file."""
        log = self.home.trust_log
        return log.with_name(f"worker-{self.worker}-{log.name}") if self.worker else log

    # -- this process's part of the agent's limits ---------------------------------------------------

    @property
    def listener_limits(self) -> Limits:
        limits = self.definition.limits
        return Limits(
            body=limits.max_body or None,
            header_bytes=limits.max_header_bytes,
            header_count=limits.max_headers,
            header_timeout=seconds(limits.header_timeout),
            idle_timeout=seconds(limits.idle_timeout),
            min_rate=limits.min_rate,
            connections=self._part(limits.max_connections),
        )

    @property
    def pool_limits(self) -> PoolLimits:
        limits = self.definition.limits
        return PoolLimits(self._part(limits.max_requests), self._part(limits.max_pending))

    @property
    def max_active(self) -> int:
        """Requests of others that may be here at once: at work or waiting for the application."""
        limits = self.definition.limits
        return self._part(limits.max_requests + limits.max_pending)

    def _part(self, limit: int) -> int:
        """Return one process's part of a limit, rounded up, so that none is left without a place."""
        return -(-limit // self.definition.workers)

    def __repr__(self) -> str:
        return f"<Process {self.worker} of {self.definition.workers} of {self.id}>"
