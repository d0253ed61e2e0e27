"""What a worker is told makes it a process of the same agent, with its part of what that may use."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import msgpack
import pytest

from busmesh.agent.definition import AgentDefinition
from busmesh.agent.process import Process
from busmesh.agent.setup import Setup
from busmesh.bus.bus import Bus
from busmesh.bus.options import BusOptions
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.holder import Identity
from busmesh.identity.store import AgentHome
from busmesh.names import ServiceName, SpiffeId, Subjects
from tests.identity.forge import svid

ADDRESS = ("127.0.0.1", 15001)
DEFINITION = {
    "service": "orders",
    "app": "http://127.0.0.1:9000",
    "workers": 3,
    "labels": {"version": "v2"},
    "limits": {"maxRequests": 10, "maxPending": 4, "maxConnections": 100},
}


@pytest.fixture
def first(tmp_path: Path) -> Process:
    """The first process of an agent whose identity is on disk."""
    ca = CertificateAuthority.create("local", time.time())
    identity = Identity(svid(ca, "orders", time.time()), ca.bundle)
    home = AgentHome(tmp_path)
    home.save_svid(identity.svid)
    home.save_trust(identity.bundle)
    options = BusOptions(("nats://a", "nats://b"), "first", "busmesh.local.inbox.x", tls_ca=tmp_path / "ca")
    definition = AgentDefinition.model_validate(DEFINITION)
    return Process(definition, Subjects("local"), identity, Bus(options), home, Random(1))


def told(first: Process, worker: int) -> Setup:
    """Send what a worker is told through what the pipe makes of it."""
    plain = msgpack.unpackb(msgpack.packb(Setup.of(first, worker, ADDRESS).to_plain()))
    return Setup.from_plain(plain)


def test_a_worker_is_the_same_instance_with_a_connection_of_its_own(first: Process) -> None:
    setup = told(first, 2)
    assert setup == Setup.of(first, 2, ADDRESS)
    assert setup.address == ADDRESS

    worker = setup.process()
    assert worker.id == first.id == SpiffeId.workload("local", ServiceName("orders"), first.instance)
    assert worker.definition == first.definition
    assert worker.identity.svid.fingerprint == first.identity.svid.fingerprint
    assert worker.origin == first.origin
    assert worker.resource == first.resource

    mine, theirs = worker.bus.options, first.bus.options
    assert (mine.servers, mine.tls_ca, mine.credentials) == (theirs.servers, theirs.tls_ca, None)
    assert mine.name != theirs.name
    assert mine.login is not None


def test_two_processes_write_to_no_file_alike(first: Process) -> None:
    logs = {first.trust_log, *(told(first, worker).process().trust_log for worker in (1, 2))}
    assert len(logs) == 3


def test_limits_are_divided_and_rounded_up(first: Process) -> None:
    for process in (first, told(first, 1).process()):
        assert process.shared
        assert (process.pool_limits.connections, process.pool_limits.pending) == (4, 2)
        assert process.max_active == 5, "a third of 14"
        assert process.listener_limits.connections == 34
