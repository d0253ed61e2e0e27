"""Join tokens of a mesh that runs: whom they let in, and that a withdrawn one lets in nobody."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.mesh import Mesh, eventually
from tests.support.processes import Process

ADDRESSES = ("--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0")


def joining(mesh: Mesh, service: str, name: str, token: str) -> Process:
    """Start an agent on a machine that has this token's file and nothing else."""
    return Process.busmesh(
        *("agent", "run", "--service", service, "--instance", name, "--join", token, *ADDRESSES),
        directory=mesh.directory,
        home=mesh.directory / f"machine-{name}",
        name=name,
    )


def heeded(mesh: Mesh, what: str) -> None:
    """Wait until the authority says that it heeds it: it reads its home once a second."""
    eventually(lambda: what in mesh.authority.stderr, what, bar(1.5))


def refused(mesh: Mesh, service: str, name: str, token: str) -> str:
    """Have an agent try to join; return what it says when it gives up."""
    with joining(mesh, service, name, token) as agent:
        assert agent.wait(30) == 4
        return agent.stderr


def test_a_token_lets_in_whom_it_is_for_until_it_is_withdrawn(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:

        def token(*words: str) -> str:
            return mesh.run("identity", "token", *words, bus=False).stdout

        made = json.loads(
            token("create", "orders", "--expires", "10m", "--file", str(tmp_path / "orders.token"))
        )
        file = str(tmp_path / "orders.token")
        with joining(mesh, "orders", "orders-0", file) as agent:
            agent.ready()
            why = refused(mesh, "payments", "payments-0", file)
            assert "BM4205" in why
            assert "is not for this service" in why

            token("delete", made["token"])
            heeded(mesh, f"join token {made['token']} was withdrawn")
            heeded(mesh, "shut out: the bus refuses 1 logins")
            why = refused(mesh, "orders", "orders-1", file)
            assert "BM3002" in why
            assert "nor taken back? a newcomer needs the whole file of a join token that still lets in" in why
            assert agent.running, "who has joined stays"
            done = mesh.run("instances", "orders", "-o", "json")
            assert json.loads(done.stdout)["instance"] == "orders-0"


def test_a_token_that_was_narrowed_or_has_ended_lets_nobody_else_in(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        own = str(mesh.home / "join-token")
        name = Path(own).read_text().split(".")[3]
        mesh.run("identity", "token", "narrow", name, "orders", bus=False)
        heeded(mesh, f"join token {name} was changed: it lets in orders in default")
        bus = {"BUSMESH_BUS": nats_server.url}
        with Process.busmesh(
            *("agent", "run", "--service", "orders", "--instance", "orders-0", "--join", own, *ADDRESSES),
            directory=tmp_path,
            home=tmp_path / "one",
            env=bus,
        ) as agent:
            agent.ready()
        mesh.run("identity", "token", "narrow", name, "--expires", "0s", bus=False)
        eventually(lambda: mesh.authority.stderr.count(f"{name} was changed") == 2, "it is heeded", bar(1.5))
        with Process.busmesh(
            *("agent", "run", "--service", "orders", "--instance", "orders-1", "--join", own, *ADDRESSES),
            directory=tmp_path,
            home=tmp_path / "two",
            env=bus,
        ) as agent:
            assert agent.wait(30) == 4
            assert "the join token has expired" in agent.stderr
