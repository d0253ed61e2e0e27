"""The pages of the admin endpoint: what this agent is, knows and does, as JSON."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from busmesh import __version__
from busmesh.agent.admin import Page, Reply, as_json
from busmesh.identity.trust import key_identifier

if TYPE_CHECKING:
    from busmesh.agent.agent import Agent


def pages_of(agent: Agent) -> dict[tuple[str, str], Page]:
    """Return the pages of ``agent`` by (method, path)."""
    return {
        ("GET", "/livez"): lambda: as_json({"alive": True}),
        ("GET", "/readyz"): lambda: _ready(agent),
        ("GET", "/metrics"): lambda: Reply(
            agent.registry.prometheus().encode(), "text/plain; version=0.0.4; charset=utf-8"
        ),
        ("GET", "/config"): lambda: _config(agent),
        ("GET", "/members"): lambda: _members(agent),
        ("GET", "/policies"): lambda: _policies(agent),
        ("GET", "/authorization"): lambda: _authorization(agent),
        ("GET", "/breakers"): lambda: _breakers(agent),
        ("GET", "/certs"): lambda: _certificates(agent),
        ("POST", "/explain"): lambda: as_json({"traceparent": agent.witness.expect(time.monotonic())}, 201),
        ("GET", "/explain"): lambda: as_json(
            {"requests": agent.witness.view(agent.policies.set, agent.caller)}
        ),
        ("POST", "/drain"): lambda: _drain(agent),
    }


def _ready(agent: Agent) -> Reply:
    awaited = agent.readiness.awaited()
    return as_json({"ready": not awaited, "awaited": awaited}, 503 if awaited else 200)


#: What stands before the host in a URL: a login.
_LOGIN = re.compile(r"(?<=://)[^/@,]+(?=@)")


def _config(agent: Agent) -> Reply:
    definition = agent.definition.model_dump(by_alias=True, mode="json")
    definition["bus"]["url"] = _LOGIN.sub("***", definition["bus"]["url"])
    return as_json(
        {
            "definition": definition,
            "instance": agent.instance,
            "id": str(agent.id),
            "outbound": ":".join(map(str, agent.outbound_address)),
            "version": __version__,
            "bus": agent.bus.statistics(),
            "actors": agent.supervisor.statistics(),
            "workers": agent.workers.statistics() if agent.workers is not None else [],
        }
    )


def _members(agent: Agent) -> Reply:
    members = agent.members
    statistics: dict[str, object] = {
        **members.table.statistics(),
        "forged": members.forged,
        "outbound": agent.outbound.statistics(),
        "listener": agent.listener.statistics(),
        "sessions": agent.sessions.statistics(),
    }
    if agent.inbound is not None and agent.application is not None:
        statistics["inbound"] = agent.inbound.statistics()
        statistics["application"] = agent.application.statistics()
        statistics["handshakes"] = agent.acceptor.statistics()
    endpoints = [
        {
            "service": str(endpoint.service),
            "instance": endpoint.instance,
            "state": endpoint.state,
            "weight": endpoint.weight,
            "active": endpoint.active,
            "labels": dict(endpoint.labels),
        }
        for endpoint in agent.upstreams.endpoints()
    ]
    return as_json(
        {
            "self": agent.registrar.announcement.model_dump(mode="json"),
            "members": [member.announcement.model_dump(mode="json") for member in members.table.all()],
            "endpoints": endpoints,
            "statistics": statistics,
        }
    )


def _breakers(agent: Agent) -> Reply:
    """Which instances get requests, and what each destination holds against whom."""
    return as_json(
        {
            "endpoints": [
                {"service": str(endpoint.service), "instance": endpoint.instance, "state": endpoint.state}
                for endpoint in agent.upstreams.endpoints()
            ],
            "destinations": [destination.view() for destination in agent.upstreams.destinations()],
            "limits": agent.limiter.statistics(),
            "sharing": agent.limits.statistics(),
            "evidence": agent.evidence.statistics(),
        }
    )


def _authorization(agent: Agent) -> Reply:
    """Which documents say who may do what here, and whether the keys of token issuers are there."""
    access = agent.inbound.access if agent.inbound is not None else None
    return as_json(
        {
            "policies": [
                {"name": policy.name, "action": policy.action, "dry_run": policy.dry_run}
                for policy in (access.authorizer.policies if access is not None else ())
            ],
            "tokens": agent.tokens.statistics(),
            "keys": agent.keys.statistics(),
        }
    )


def _policies(agent: Agent) -> Reply:
    policies = agent.policies
    return as_json(
        {
            "revision": policies.set.number,
            "digest": policies.set.digest,
            "documents": [document.plain for document in policies.set.documents.values()],
            "refused": policies.refused.model_dump(mode="json") if policies.refused is not None else None,
            "problem": policies.problem,
            "dry_run": agent.dryruns.statistics(),
        }
    )


def _certificates(agent: Agent) -> Reply:
    svid, bundle, verifier = agent.identity.svid, agent.identity.bundle, agent.identity.verifier
    return as_json(
        {
            "id": str(svid.id),
            "serial": f"{svid.certificate.serial_number:x}",
            "issuer": svid.issuer,
            "revoked": agent.identity.revoked,
            "fingerprint": svid.fingerprint,
            "not_before": svid.not_before,
            "not_after": svid.not_after,
            "seconds_left": round(svid.not_after - time.time()),
            "renewals": agent.renewals.renewals,
            "failures": agent.renewals.failures,
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


def _drain(agent: Agent) -> Reply:
    agent.drain_requested.set()
    return as_json({"draining": True}, 202)
