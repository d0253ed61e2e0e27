"""Authorities on the wire: one takes over from another, and while there is none nobody notices."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.e2e.test_rotation import certificate, failed, under_load
from tests.support.bars import times
from tests.support.bus import NatsServer
from tests.support.mesh import Mesh, eventually

LIFETIME_S = 10


@pytest.mark.timeout(120)
def test_a_second_authority_goes_on_where_the_first_dies(tmp_path: Path, nats_server: NatsServer) -> None:
    """Both issue; either may be killed, and a rotation made in one home leaves the other without a say."""
    seconds = times(12, 40)
    with Mesh(tmp_path, nats_server, authority=("--svid-lifetime", f"{LIFETIME_S}s")) as mesh:
        first, second_home = mesh.authority, tmp_path / "second"
        shutil.copytree(mesh.home, second_home)
        second = mesh.start_authority("--name", "second", home=second_home)
        orders = mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        killed: list[int] = []

        def kill_first() -> None:
            time.sleep(2)
            first.kill()
            killed.extend(certificate(instance)["renewals"] for instance in (orders, client))

        assert failed(under_load(client, seconds * 100, kill_first)) == []
        for instance, before in zip((orders, client), killed, strict=True):
            shown = certificate(instance)
            assert shown["renewals"] > before, "the second one issues"
            assert shown["failures"] == 0
        second.terminate()
        first = mesh.start_authority("--name", "first")
        mesh.run("identity", "rotate", "--wait", "20s")
        again = mesh.start_authority("--name", "second", home=second_home)
        count = certificate(client)["renewals"]
        eventually(lambda: certificate(client)["renewals"] >= count + 1, "renewals go on", 20)
        issuers = {certificate(instance)["issuer"] for instance in (orders, client)}
        assert issuers == {certificate(client)["trust"]["roots"][0]["id"]}
        again.terminate()


@pytest.mark.timeout(120)
def test_without_an_authority_nobody_notices_but_the_operator(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    """It is gone from before renewal is due until nine tenths of the SVIDs' life are over."""
    lifetime = times(12, 40)
    with Mesh(tmp_path, nats_server, authority=("--svid-lifetime", f"{lifetime}s")) as mesh:
        orders = mesh.instance("orders", "orders-0")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        serial = certificate(client)["serial"]
        mesh.authority.kill()
        until = certificate(client)["not_after"]
        seconds = int(max(3.0, until - 0.1 * lifetime - time.time()))
        assert failed(under_load(client, seconds * 100)) == []
        missed = certificate(client)
        assert missed["serial"] == serial, "nobody could renew"
        assert missed["failures"] > 0
        shown = mesh.run("identity", "show", check=False)
        assert shown.returncode == 1
        assert shown.stdout.count("not renewed") == 2
        mesh.start_authority()
        assert failed(under_load(client, 300)) == []
        for instance in (orders, client):
            eventually(lambda i=instance: certificate(i)["failures"] == 0, "it is renewed")  # type: ignore[misc]
        assert certificate(client)["serial"] != serial
        assert mesh.run("identity", "show").stdout.count("not renewed") == 0


@pytest.mark.timeout(60)
def test_an_authority_learns_which_names_another_one_has_granted(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    """It was away while the name was granted; it must not give the same one to another service."""
    with Mesh(tmp_path, nats_server) as mesh:
        mesh.agent("shopper", "shopper-0")  # so that the register is not that of a new mesh
        second_home = tmp_path / "second"
        shutil.copytree(mesh.home, second_home)
        mesh.agent("orders", "orders-0")
        first = mesh.authority
        mesh.start_authority("--name", "second", home=second_home)
        first.kill()
        again = mesh.agent("shopper", "shopper-1", home=tmp_path / "elsewhere")
        assert again.agent.running, "the second one grants what is free"
        with pytest.raises(AssertionError, match="another service has an instance of this name"):
            mesh.agent("payments", "orders-0", home=tmp_path / "stranger")
