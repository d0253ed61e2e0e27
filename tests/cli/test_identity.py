"""``busmesh identity`` as a person types it: against a real bus, with doubles for the agents only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from busmesh.authority.founding import found
from busmesh.cli.main import main
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.store import Context, Home
from busmesh.identity.trust import TrustBundle, key_identifier
from busmesh.identity.trustlog import seal_bundle
from busmesh.operator import trusting
from busmesh.operator.trusting import publish_entry
from tests.operator.fakes import MESH, FakeMesh, fake_mesh
from tests.support.bus import NatsServer

Said = tuple[int, str, str]
Session = Callable[[FakeMesh, Callable[..., Coroutine[Any, Any, Said]]], Coroutine[Any, Any, None]]
DAY_S = 86400.0


@pytest.fixture
def lifetime_s() -> float:
    return 3652 * DAY_S


@pytest.fixture
def in_mesh(
    nats_server: NatsServer, busmesh_home: Path, capsys: pytest.CaptureFixture[str], lifetime_s: float
) -> Callable[[Session], None]:
    """Run a session that may type commands in the home of the authority."""
    ca = CertificateAuthority.create(MESH, time.time(), lifetime_s=lifetime_s)

    async def busmesh(*words: str) -> Said:
        capsys.readouterr()
        status = await asyncio.to_thread(main, words)
        return status, *capsys.readouterr()

    def play(session: Session) -> None:
        async def scene() -> None:
            async with fake_mesh(nats_server, ca) as mesh:
                home = Home(busmesh_home)
                home.save_authority(ca)
                found(home, MESH, "ann", time.time())
                home.save_context(Context(nats_server.url, MESH))
                await session(mesh, busmesh)

        asyncio.run(scene())

    return play


def rows(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def test_show(in_mesh: Callable[[Session], None]) -> None:
    async def session(mesh: FakeMesh, busmesh: Callable[..., Coroutine[Any, Any, Said]]) -> None:
        agent = await mesh.agent("orders", "orders-0")
        status, said, complaint = await busmesh("identity", "show", "-o", "json")
        assert (status, complaint) == (0, "")
        root, operator, svid = rows(said)
        name = key_identifier(mesh.ca.certificate).hex()
        assert (root["what"], root["id"], root["state"], root["trust"]) == ("root", name, "issues", 1)
        assert (operator["id"], operator["state"]) == (f"spiffe://{MESH}/operator/ann", "ok")
        assert (svid["id"], svid["issuer"]) == (str(agent.svid.id), name)
        assert svid["state"] == "old trust", "a double believes nothing"
        assert svid["serial"] == f"{agent.svid.certificate.serial_number:x}"
        status, table, _ = await busmesh("identity", "show", "-o", "table")
        assert table.splitlines()[0].split() == [
            *("WHAT", "ID", "LEFT", "TRUST", "ISSUER", "STATE", "REASON")
        ]

    in_mesh(session)


@pytest.mark.parametrize("lifetime_s", [20.5 * DAY_S])
def test_what_ends_soon_is_said_by_every_command(in_mesh: Callable[[Session], None]) -> None:
    async def session(mesh: FakeMesh, busmesh: Callable[..., Coroutine[Any, Any, Said]]) -> None:
        await mesh.agent("orders", "orders-0")
        status, _, complaint = await busmesh("services", "--no-metrics", "-o", "json")
        assert status == 0
        assert "ends in less than 30 days: busmesh identity rotate" in complaint
        status, said, _ = await busmesh("identity", "show", "-o", "json")
        assert status == 1
        assert rows(said)[0]["state"] == "ends soon"

    in_mesh(session)


def test_issue_and_trust(in_mesh: Callable[[Session], None], tmp_path: Path) -> None:
    async def session(mesh: FakeMesh, busmesh: Callable[..., Coroutine[Any, Any, Said]]) -> None:
        other = tmp_path / "for-bob"
        status, said, _ = await busmesh("identity", "issue", "bob", "--lifetime", "1h", "--out", str(other))
        assert status == 0
        assert f"spiffe://{MESH}/operator/bob" in said
        home = Home(other)
        assert home.operators() == ["bob"]
        assert home.operator("bob").not_after == pytest.approx(time.time() + 3600, abs=60)
        assert (other / "operator" / "bob.key").stat().st_mode & 0o777 == 0o600
        following = CertificateAuthority.create(MESH, time.time())
        both = TrustBundle(MESH, (mesh.ca.certificate, following.certificate), 2)
        await publish_entry(mesh.bus, mesh.subjects, seal_bundle(mesh.ca, both, time.time()))
        status, said, complaint = await busmesh("identity", "trust", "--home", str(other))
        assert status == 0
        assert said == both.to_pem().decode()
        assert "trust bundle 2 replaces 1" in complaint
        assert home.trust(MESH) == both
        # One that was in force before does not come back.
        stale = replace(mesh.ca.bundle, version=1)
        await publish_entry(mesh.bus, mesh.subjects, seal_bundle(mesh.ca, stale, time.time()))
        assert (await busmesh("identity", "trust", "--home", str(other)))[1] == both.to_pem().decode()
        status, _, complaint = await busmesh("identity", "issue", "eve", "--home", str(other))
        assert status != 0
        assert "BM4501" in complaint, "only the home with the root issues"

    in_mesh(session)


def test_a_key_that_others_can_read_is_refused(
    in_mesh: Callable[[Session], None], busmesh_home: Path
) -> None:
    async def session(mesh: FakeMesh, busmesh: Callable[..., Coroutine[Any, Any, Said]]) -> None:
        for path, mode in ((busmesh_home / "ca" / "root.key", 0o644), (busmesh_home / "ca", 0o755)):
            before = path.stat().st_mode
            path.chmod(mode)
            status, _, complaint = await busmesh("identity", "issue", "bob")
            assert status != 0
            assert "BM4502" in complaint
            assert str(path) in complaint
            path.chmod(before)
        assert (await busmesh("identity", "issue", "bob"))[0] == 0

    in_mesh(session)


def test_a_drill_that_nobody_heeds(
    in_mesh: Callable[[Session], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def session(mesh: FakeMesh, busmesh: Callable[..., Coroutine[Any, Any, Said]]) -> None:
        await mesh.agent("orders", "orders-0")
        gone = await mesh.agent("orders", "orders-1")
        status, said, complaint = await busmesh("identity", "drill", "--wait", "0s", "-o", "json")
        assert status == 1
        assert [row["state"] for row in rows(said)] == ["old SVID", "old SVID"]
        assert "2 did not" in complaint
        monkeypatch.setattr(trusting, "TELL_EVERY_S", 0.3)
        status, _, complaint = await busmesh("identity", "rotate", "--step", "--wait", "1s")
        assert status == 1
        assert "waiting for 2 of 2 agents: orders-0, orders-1" in complaint
        gone.frozen = True
        status, _, complaint = await busmesh("identity", "rotate", "--agents", "2", "--wait", "0s")
        assert status == 1
        assert "1 of 1 agents do not yet hold trust bundle 1" in complaint
        assert "orders-0" in complaint

    in_mesh(session)


@pytest.mark.parametrize(
    ("target", "code"),
    [("orders", "BM4122"), ("spiffe://other/operator/x", "BM4122"), (f"spiffe://{MESH}", "BM4122")],
)
def test_nobody_is_revoked(in_mesh: Callable[[Session], None], target: str, code: str) -> None:
    async def session(mesh: FakeMesh, busmesh: Callable[..., Coroutine[Any, Any, Said]]) -> None:
        status, _, complaint = await busmesh("identity", "revoke", target)
        assert status == 2
        assert code in complaint

    in_mesh(session)
