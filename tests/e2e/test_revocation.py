"""Revocation on the wire: within a second nobody talks to who was revoked, and streams under way are cut."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from busmesh.identity.holder import Identity
from busmesh.identity.store import Home
from tests.e2e.test_rotation import refused
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.client import Caller, at_rate
from tests.support.mesh import Instance, Mesh, eventually

SERVICE = "spiffe://local/ns/default/svc/orders"


def revocations(instance: Instance) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = instance.page("/certs")["trust"]["revocations"]
    return found


def status(client: Instance) -> int:
    """Send one request to orders."""
    caller = Caller(client.outbound, "orders")
    try:
        return caller.call("/")[0]
    finally:
        caller.close()


def last_request(instance: Instance) -> float:
    """Return when the application got its last request, in unix seconds."""
    return max((entry["at"] for entry in instance.seen()), default=0.0)


@contextmanager
def under_way(client: Instance) -> Iterator[list[Any]]:
    """Have a request at work that takes 15 s; yield where its status and end will stand; wait for it."""
    caller, done = Caller(client.outbound, "orders"), list[Any]()

    def wait() -> None:
        try:
            done.append(caller.call("/?delay=15", method="POST")[0])
        except (OSError, http.client.HTTPException) as error:
            done.append(error)
        done.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.5)
    yield done
    waiting.join(15)
    caller.close()


def test_a_revoked_instance_gets_no_request_after_a_second(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        victim, other = (mesh.instance("orders", f"orders-{number}") for number in range(2))
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")

        begun = []

        def revoke() -> None:
            begun.append(time.time())
            mesh.run("identity", "revoke", f"{SERVICE}/i/orders-0", "--reason", "key leaked")

        async def load() -> list[int]:
            timer = threading.Timer(0.5, revoke)
            timer.start()
            results = []
            while timer.is_alive():
                results += await at_rate(client.outbound, "orders", rate=100, count=50)
            results += await at_rate(client.outbound, "orders", rate=100, count=300)
            return [result.status for result in results]

        assert set(asyncio.run(load())) == {200}
        (heeded,) = revocations(client)
        assert heeded["reason"] == "key leaked"
        print(f"the last request {last_request(victim) - begun[0]:.2f} s after the command was given")
        assert 0 < last_request(victim) < begun[0] + bar(1.0), "the time of the command is counted"
        assert last_request(other) > heeded["at"] + 2.0
        state = [e["state"] for e in client.page("/members")["endpoints"] if e["instance"] == "orders-0"]
        assert state != ["usable"]
        assert client.page("/members")["statistics"]["forged"] > 0, "what it announces since is refused"
        # It knows itself, and comes back when it is started again: its join token is another proof.
        eventually(lambda: victim.page("/certs")["revoked"] is True, "the instance knows that it was revoked")
        ready = victim.page("/readyz")
        assert ready["ready"] is False
        assert "was revoked" in str(ready)
        assert mesh.run("identity", "show", "-o", "json").stdout.count('"revoked"') == 1


def test_a_stream_under_way_is_cut(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        assert status(client) == 200
        with under_way(client) as done:
            began = time.monotonic()
            mesh.run("identity", "revoke", SERVICE)
        answer, cut = done
        assert answer == 503
        print(f"cut {cut - began:.2f} s after the command was given")
        assert cut - began < bar(1.0), "the time of the command is counted"


def test_a_caller_that_was_revoked_is_refused(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        orders = mesh.instance("orders", "orders-0")
        thief = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        honest = mesh.agent("shopper", "shopper-1", "--upstreams", "orders")
        assert status(thief) == 200
        serial = thief.page("/certs")["serial"]
        with under_way(thief) as done:
            began = time.monotonic()
            mesh.run("identity", "revoke", serial)
        answer, cut = done
        assert answer == 503
        print(f"cut {cut - began:.2f} s after the command was given")
        assert cut - began < bar(1.0), "what it had under way was cut"
        began = time.monotonic()
        before = len(orders.seen())
        assert status(thief) in (503, 504)
        assert time.monotonic() - began < bar(5.0)
        assert len(orders.seen()) == before
        assert status(honest) == 200
        stolen = Home(mesh.home).agent("shopper-0").svid()
        assert f"{stolen.certificate.serial_number:x}" == serial
        asyncio.run(refused(nats_server, Identity(stolen, Home(mesh.home).trust("local"))))
        # Started again it joins by its join token, under another number.
        thief.agent.terminate()
        again = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        assert again.page("/certs")["serial"] != serial
        assert status(again) == 200


def test_an_agent_that_was_away_and_a_bus_that_forgot(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        mesh.instance("orders", "orders-0")
        away = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        away.agent.terminate()
        mesh.run("identity", "revoke", f"{SERVICE}/i/orders-0")
        nats_server.restart(keep_store=False)
        back = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        eventually(lambda: len(revocations(back)) == 1, "the log was given back")


def test_an_operator_may_not_revoke_another(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        agent = mesh.agent("shopper", "shopper-0")
        mesh.run("identity", "issue", "eve")
        mesh.run("identity", "issue", "bob")
        assert mesh.run("identity", "revoke", "spiffe://local/operator/eve").returncode == 0
        eventually(lambda: len(revocations(agent)) == 1, "the root revoked eve")
        route = ("policy", "publish", "policies/orders-split.yaml", "--allow-dangling")
        failed = mesh.run(*route, "--as", "eve", check=False)
        assert failed.returncode == 4
        assert "BM4306" in failed.stderr
        assert mesh.run(*route, "--as", "bob").returncode == 0
        refused = mesh.run("identity", "revoke", f"{SERVICE}/i/orders-0", "--as", "eve", check=False)
        assert refused.returncode == 4
        assert len(revocations(agent)) == 1
