"""How long what this agent's identity rests on still lasts, as metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

from busmesh.identity.holder import Identity
from busmesh.telemetry.metrics import Registry


def register_identity(registry: Registry, identity: Identity, renewals: Callable[[], int]) -> None:
    """Add the metrics of ``identity`` to ``registry``; each is read when somebody asks."""

    def left() -> dict[tuple[str, ...], float]:
        now, svid, roots = time.time(), identity.svid, identity.bundle.roots
        root = min(each.not_valid_after_utc.timestamp() for each in roots)
        return {("svid",): svid.not_after - now, ("root",): root - now}

    registry.gauge_table(
        "busmesh_identity_seconds_left",
        "Seconds until the SVID, and the first root of the trust bundle to end, expire.",
        ("what",),
        left,
    )
    registry.counter_from("busmesh_identity_renewals_total", "SVIDs fetched since the start.", renewals)
    registry.gauge(
        "busmesh_identity_trust_version", "Version of the trust bundle.", lambda: identity.bundle.version
    )
    registry.gauge(
        "busmesh_identity_revocations",
        "Revocations that are heeded.",
        lambda: len(identity.verifier.revocations),
    )
