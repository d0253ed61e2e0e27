"""The pages of the admin endpoint: what this agent is, knows and does, as JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from busmesh import __version__
from busmesh.actors.supervisor import Supervisor
from busmesh.agent.admin import Page, Reply, as_json
from busmesh.agent.control import Control
from busmesh.agent.dataplane import DataPlane
from busmesh.agent.dryrun import DryRuns
from busmesh.agent.identity import Renewals
from busmesh.agent.policies import Policies
from busmesh.agent.process import Process
from busmesh.agent.readiness import Readiness
from busmesh.identity.holder import Identity
from busmesh.identity.trust import key_identifier
from busmesh.members.announcement import Announcement
from busmesh.telemetry.metrics import Registry


def pages_of(
    plane: DataPlane,
    control: Control,
    supervisor: Supervisor,
    readiness: Readiness,
    drain: Callable[[], None],
) -> dict[tuple[str, str], Page]:
    """Return the pages of an agent by (method, path).

    Args:
        plane: of its first process.
        control: what it decides once.
        supervisor: of its actors.
        readiness: what it awaits.
        drain: asks it to drain.
    """
    process, witness = plane.process, plane.witness
    return {
        ("GET", "/livez"): lambda: as_json({"alive": True}),
        ("GET", "/readyz"): lambda: _ready(readiness),
        ("GET", "/metrics"): lambda: _metrics(plane.registry),
        ("GET", "/config"): lambda: as_json(
            {
                **_config(process),
                "outbound": ":".join(map(str, plane.outbound_address)),
                "actors": supervisor.statistics(),
                "workers": control.workers.statistics(),
            }
        ),
        ("GET", "/members"): lambda: _members(plane, control.registrar.announcement),
        ("GET", "/policies"): lambda: _policies(plane.policies, control.dryruns),
        ("GET", "/authorization"): lambda: _authorization(plane),
        ("GET", "/breakers"): lambda: _breakers(plane),
        ("GET", "/certs"): lambda: _certificates(process.identity, control.renewals),
        ("POST", "/explain"): lambda: as_json({"traceparent": witness.expect(time.monotonic())}, 201),
        ("GET", "/explain"): lambda: as_json({"requests": witness.view(plane.policies.set, plane.caller)}),
        ("POST", "/drain"): lambda: _drain(drain),
    }


def _ready(readiness: Readiness) -> Reply:
    awaited = readiness.awaited()
    return as_json({"ready": not awaited, "awaited": awaited}, 503 if awaited else 200)


def _metrics(registry: Registry) -> Reply:
    return Reply(registry.prometheus().encode(), "text/plain; version=0.0.4; charset=utf-8")


#: What stands before the host in a URL: a login.
_LOGIN = re.compile(r"(?<=://)[^/@,]+(?=@)")


def _config(process: Process) -> dict[str, object]:
    definition = process.definition.model_dump(by_alias=True, mode="json")
    definition["bus"]["url"] = _LOGIN.sub("***", definition["bus"]["url"])
    return {
        "definition": definition,
        "instance": process.instance,
        "id": str(process.id),
        "version": __version__,
        "bus": process.bus.statistics(),
    }


def _members(plane: DataPlane, mine: Announcement) -> Reply:
    members = plane.members
    statistics: dict[str, object] = {
        **members.table.statistics(),
        "forged": members.forged,
        **plane.statistics(),
    }
    endpoints = [
        {
            "service": str(endpoint.service),
            "instance": endpoint.instance,
            "state": endpoint.state,
            "weight": endpoint.weight,
            "active": endpoint.active,
            "labels": dict(endpoint.labels),
        }
        for endpoint in plane.upstreams.endpoints()
    ]
    return as_json(
        {
            "self": mine.model_dump(mode="json"),
            "members": [member.announcement.model_dump(mode="json") for member in members.table.all()],
            "endpoints": endpoints,
            "statistics": statistics,
        }
    )


def _breakers(plane: DataPlane) -> Reply:
    """Which instances get requests, and what each destination holds against whom."""
    return as_json(
        {
            "endpoints": [
                {"service": str(endpoint.service), "instance": endpoint.instance, "state": endpoint.state}
                for endpoint in plane.upstreams.endpoints()
            ],
            "destinations": [destination.view() for destination in plane.upstreams.destinations()],
            "limits": plane.limiter.statistics(),
            "sharing": plane.limits.statistics(),
            "evidence": plane.evidence.statistics(),
        }
    )


def _authorization(plane: DataPlane) -> Reply:
    """Which documents say who may do what here, and whether the keys of token issuers are there."""
    access = plane.inbound.access if plane.inbound is not None else None
    return as_json(
        {
            "policies": [
                {"name": policy.name, "action": policy.action, "dry_run": policy.dry_run}
                for policy in (access.authorizer.policies if access is not None else ())
            ],
            "tokens": plane.tokens.statistics(),
            "keys": plane.keys.statistics(),
        }
    )


def _policies(policies: Policies, dryruns: DryRuns) -> Reply:
    return as_json(
        {
            "revision": policies.set.number,
            "digest": policies.set.digest,
            "documents": [document.plain for document in policies.set.documents.values()],
            "put_in": [policies.set.put_in.get(key) for key in policies.set.documents],
            "refused": policies.refused.model_dump(mode="json") if policies.refused is not None else None,
            "problem": policies.problem,
            "forged": policies.forged,
            "stale": policies.stale,
            "rejected": policies.rejected,
            "dry_run": dryruns.statistics(),
        }
    )


def _certificates(identity: Identity, renewals: Renewals) -> Reply:
    svid, bundle, verifier = identity.svid, identity.bundle, identity.verifier
    return as_json(
        {
            "id": str(svid.id),
            "serial": f"{svid.certificate.serial_number:x}",
            "issuer": svid.issuer,
            "revoked": identity.revoked,
            "fingerprint": svid.fingerprint,
            "not_before": svid.not_before,
            "not_after": svid.not_after,
            "seconds_left": round(svid.not_after - time.time()),
            "renewals": renewals.renewals,
            "failures": renewals.failures,
            "trust": {
                "version": bundle.version,
                "roots": [
                    {
                        "id": key_identifier(root).hex(),
                        "not_after": root.not_valid_after_utc.timestamp(),
                        "issues": key_identifier(root).hex() == bundle.issuer,
                    }
                    for root in bundle.roots
                ],
                "retired": [
                    {"id": key_identifier(root.certificate).hex(), "through": root.through}
                    for root in bundle.retired
                ],
                "revocations": [
                    {
                        "target": each.target,
                        "serial": f"{each.serial:x}" if each.serial else "",
                        "at": each.at_ms / 1000,
                        "until": each.until_ms / 1000,
                        "reason": each.reason,
                    }
                    for each in verifier.revocations
                ],
            },
        }
    )


def _drain(drain: Callable[[], None]) -> Reply:
    drain()
    return as_json({"draining": True}, 202)
