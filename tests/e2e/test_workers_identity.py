"""Agents of two processes whose identity and login are renewed, or revoked: every process follows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.test_locked_bus import expires
from tests.e2e.test_workers import get, worker
from tests.e2e.test_workers_failures import TWO, at_work, ends, failed, load
from tests.support.bars import bar, times
from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh, eventually

LIFETIME_S = 8


def same_svid(instance: Instance) -> bool:
    return bool(worker(instance)["svid"] == instance.page("/certs")["serial"])


@pytest.mark.timeout(120)
def test_identities_and_logins_are_renewed_under_load(tmp_path: Path, nats_server: NatsServer) -> None:
    lifetime = ("--svid-lifetime", f"{LIFETIME_S}s")
    with Mesh(tmp_path, nats_server, locked=True, authority=lifetime) as mesh:
        everybody = [mesh.instance("orders", f"orders-{number}", *TWO) for number in range(2)]
        client = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        everybody.append(client)
        before = {instance.name: worker(instance)["svid"] for instance in everybody}
        logins = {instance.name: expires(mesh, instance.name) for instance in everybody}
        pids = {instance.name: worker(instance)["pid"] for instance in everybody}
        seconds = times(2, 6) * LIFETIME_S
        assert failed(load(client, int(seconds * 150), lambda: None)) == []
        for instance in everybody:
            assert instance.page("/certs")["renewals"] >= 3
            assert worker(instance)["svid"] != before[instance.name]
            eventually(lambda: same_svid(instance), "the worker shows what the first process shows")  # noqa: B023
            assert worker(instance)["pid"] == pids[instance.name], "it is the worker of the beginning"
            assert instance is client or worker(instance)["served"] > 0
            assert expires(mesh, instance.name) > logins[instance.name] + LIFETIME_S
        for process in (mesh.authority, *(instance.agent for instance in everybody)):
            assert "BM3004" not in process.stderr, "nothing was denied"
            assert "was not shown the renewed login" not in process.stderr
        assert "Permissions Violation" not in nats_server.log
        connections = nats_server.monitor("connz?limit=100")["connections"]
        workers = [each for each in connections if each["name"].endswith(" worker 1")]
        assert len(workers) == len(everybody)
        ages = [each["uptime"] for each in workers]
        assert all("m" not in age and int(age.rstrip("s")) <= LIFETIME_S for age in ages), ages


def test_who_is_revoked_is_cut_off_in_every_process(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        orders = mesh.instance("orders", "orders-0", *TWO)
        thief = mesh.agent("shopper", "shopper-0", *TWO, "--upstreams", "orders")
        honest = mesh.agent("shopper", "shopper-1", *TWO, "--upstreams", "orders")

        # A caller, by whom each process of the instance has work.
        stolen, own = at_work(thief, "/?delay=15", 8), at_work(honest, "/?delay=3", 8)
        mesh.run("identity", "revoke", thief.page("/certs")["serial"])
        began = time.monotonic()
        assert ends(stolen) == {"503": 8}
        assert max(request.ended for request in stolen) - began < bar(1.0)
        assert ends(own) == {"200": 8}
        before = len(orders.seen())
        assert set(ends([*at_work(thief, "/", 4, "GET")])) <= {"503", "504"}
        assert len(orders.seen()) == before
        assert get(honest, "/", "orders") == 200

        # And the instance, with which each process of its caller has work.
        work = at_work(honest, "/?delay=15", 8)
        mesh.run("identity", "revoke", "spiffe://local/ns/default/svc/orders/i/orders-0")
        began = time.monotonic()
        assert ends(work) == {"503": 8}
        assert max(request.ended for request in work) - began < bar(1.0)
        before = len(orders.seen())
        assert set(ends(at_work(honest, "/", 4, "GET"))) <= {"503", "504"}
        assert len(orders.seen()) == before
        for process in (mesh.authority, orders.agent, thief.agent, honest.agent):
            assert "BM3004" not in process.stderr
