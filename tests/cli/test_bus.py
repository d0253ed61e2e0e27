"""``busmesh bus``: what it writes runs in a real server, and members of the mesh find their way to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from busmesh.identity.store import Home
from tests.support.bus import configured_server
from tests.support.client import Caller
from tests.support.http import EchoApp
from tests.support.ports import free_port
from tests.support.processes import Process

Start = Callable[..., Process]
ADDRESSES = ("--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0")


@pytest.mark.parametrize("encryption", [(), ("--tls",)])
def test_a_mesh_runs_on_a_server_of_ones_own(
    busmesh: Start, busmesh_home: Path, tmp_path: Path, echo_app: EchoApp, encryption: tuple[str, ...]
) -> None:
    config = tmp_path / "nats.conf"
    listen = f"127.0.0.1:{free_port()}"
    written = busmesh("bus", "config", "--listen", listen, *encryption, "--file", str(config))
    assert written.wait() == 0
    seeds = Home(busmesh_home).bus_accounts().seeds()
    assert not [name for name, seed in seeds.items() if seed in config.read_text()], "it holds no secret"
    token = tmp_path / "copied-token"
    with configured_server(config):
        busmesh("authority", "run").ready()
        shutil.copy(busmesh_home / "join-token", token)
        join = ("--join", str(token), *ADDRESSES)
        served = ("--service", "orders", "--app", echo_app.url)
        busmesh("agent", "run", *served, *join, home=tmp_path / "one").ready()
        calling = ("--service", "shopper", "--upstreams", "orders")
        outbound = busmesh("agent", "run", *calling, *join, home=tmp_path / "two").ready()["outbound"]
        caller = Caller(outbound, "orders")
        assert caller.call("/")[0] == 200
        caller.close()


def test_who_only_looks_sees_the_services_and_publishes_nothing(
    busmesh: Start, busmesh_home: Path, tmp_path: Path
) -> None:
    url = busmesh("up", "--port", "0").ready()["bus"]
    elsewhere = tmp_path / "board"
    elsewhere.mkdir(mode=0o700)
    creds = elsewhere / "board.creds"
    made = busmesh("bus", "login", "board", "--for", "1h", "--file", str(creds))
    assert made.wait() == 0
    assert creds.stat().st_mode & 0o777 == 0o600
    shutil.copy(busmesh_home / "trust.crt", elsewhere / "trust.crt")
    looking = ("--bus", url, "--creds", str(creds))
    services = busmesh("services", *looking, home=elsewhere)
    assert services.wait() == 0, services.stderr
    blind = busmesh("services", "--bus", url, home=elsewhere)
    assert blind.wait() == 4
    assert "BM3002" in blind.stderr
    assert "--creds" in blind.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--host", "a\nlogin zzz"),
        ("--host", "a b"),
        ("--listen", "0.0.0.0; authorization {} ; x:4222"),
        ("--listen", "0.0.0.0\n:4222"),
    ],
)
def test_what_is_no_address_reaches_neither_configuration_nor_token(
    busmesh: Start, busmesh_home: Path, words: tuple[str, ...]
) -> None:
    refused = busmesh("bus", "config", *words)
    assert refused.wait() == 2
    assert "BM301" in refused.stderr
    assert not (busmesh_home / "join-token").exists()
