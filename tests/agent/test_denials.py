"""What telemetry tells of requests that a policy refused: which rule it was, and nothing of them."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import cast

from busmesh.agent.observer import Observer
from busmesh.agent.witness import Witness
from busmesh.decide.authz.engine import Decision
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.relay.inbound.peer import Peer
from busmesh.telemetry.access import AccessLog
from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.trace import Tracer
from busmesh.wire.frame import Session
from busmesh.wire.http import WireRequest

ME = SpiffeId.workload("local", ServiceName("orders"), "orders-1")
SHOP = SpiffeId.workload("local", ServiceName("shop"), "shop-1")
DENIED = Decision(False, 403, "denied", "Authorization/a", 2, "rule 2 of Authorization/a denies it")


def test_a_denial_is_counted_by_its_rule_and_told_in_an_access_event() -> None:
    registry, access = Registry(), AccessLog(0.0, Random(1), 100)
    observer = Observer(
        registry,
        access,
        Tracer({}, Random(1), ratio=0.0),
        ME,
        "",
        cast(Witness, SimpleNamespace(records={})),
    )
    session = Session(1, SHOP, send=(b"k" * 32, b"n" * 12), receive=(b"l" * 32, b"m" * 12), started=0.0)
    peer = Peer(session, Subjects(), ME, "print")
    request = WireRequest(5000, 0, b"GET", b"/secret-path", b"Host: a\r\n", b"")

    observer.judged(peer, request, DENIED)
    allowed = Decision(True, code="no_policy", shadow=DENIED, audits=("Authorization/w",))
    observer.judged(peer, request, allowed)

    [event] = access.drain()
    assert (event["status"], event["flags"], event["detail"]) == (403, "RBAC", DENIED.reason)
    assert event["source_principal"] == str(SHOP)
    assert "secret" not in str(event)
    text = registry.prometheus()
    labels = 'policy="Authorization/a",rule="2"'
    assert f'busmesh_authorization_denied_total{{{labels},reason="denied"}} 1' in text
    assert f'busmesh_authorization_dry_run_total{{{labels},result="denied"}} 1' in text
    assert 'busmesh_authorization_audited_total{policy="Authorization/w"} 1' in text
