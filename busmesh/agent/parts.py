"""What the first process of an agent and its workers make alike."""

from __future__ import annotations

from busmesh.agent.definition import AgentDefinition
from busmesh.decide.origin import Origin
from busmesh.policy.fields import seconds
from busmesh.relay.refusals import Limits

ACCESS_EVENTS_PER_S = 100
#: Services that requests may name.
MAX_SERVICES = 2048
#: End users' tokens that are remembered as verified: about 2 KiB each.
MAX_TOKENS = 2048


def divided(limit: int, workers: int) -> int:
    """Return one worker's part of a limit, rounded up, so that none is left without a place."""
    return -(-limit // workers)


def listener_limits(definition: AgentDefinition) -> Limits:
    limits = definition.limits
    return Limits(
        body=limits.max_body or None,
        header_bytes=limits.max_header_bytes,
        header_count=limits.max_headers,
        header_timeout=seconds(limits.header_timeout),
        idle_timeout=seconds(limits.idle_timeout),
        min_rate=limits.min_rate,
        connections=divided(limits.max_connections, definition.workers),
    )


def origin_of(definition: AgentDefinition, instance: str) -> Origin:
    name = definition.name
    return Origin(f"{name.name}.{name.namespace}", instance, definition.locality, definition.labels)


def resource_of(definition: AgentDefinition, instance: str) -> dict[str, str]:
    """Return what OpenTelemetry calls the resource that spans come from."""
    name = definition.name
    return {
        "service.name": name.name,
        "service.namespace": name.namespace,
        "service.instance.id": instance,
        "service.version": definition.labels.get("version", ""),
    }
