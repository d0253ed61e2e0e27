"""``busmesh policy`` as a person types it: against a real bus, with doubles for the agents only."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from busmesh.cli.main import main
from busmesh.identity.ca import CertificateAuthority
from busmesh.yamlfile import read_yaml
from tests.operator.fakes import MESH, FakeMesh, fake_mesh
from tests.support.bus import NatsServer
from tests.support.processes import ROOT, clean_environment

SPLIT = """\
# The split that everybody begins with.
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: orders
spec:
  hosts: [orders]
  http:
  - route:
    - {destination: {host: orders, subset: v1}, weight: 80}
    - {destination: {host: orders, subset: v2}, weight: 20}
"""
PLAIN = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: web}
spec: {hosts: [web], http: [{timeout: 1s, route: [{destination: {host: web}}]}]}
"""


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(MESH, time.time())


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Terminal:
    """Types commands in a mesh whose agents live in this process's event loop."""

    def __init__(self, mesh: FakeMesh, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.mesh = mesh
        self.home = home
        self._capsys = capsys

    async def __call__(self, *words: str) -> Done:
        self._capsys.readouterr()
        status = await asyncio.to_thread(main, words)
        return Done(status, *self._capsys.readouterr())


Session = Callable[[Terminal], Awaitable[None]]


@pytest.fixture
def in_mesh(
    nats_server: NatsServer,
    ca: CertificateAuthority,
    busmesh_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Session], None]:
    """Run a session in a mesh with agents orders-v1-0 and orders-v2-0 and the operator ann."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "split.yaml").write_text(SPLIT)

    def play(session: Session) -> None:
        async def scene() -> None:
            async with fake_mesh(nats_server, ca) as mesh:
                mesh.fill_home(busmesh_home, "ann")
                await mesh.agent("orders", "orders-v1-0", version="v1")
                await mesh.agent("orders", "orders-v2-0", version="v2")
                await session(Terminal(mesh, busmesh_home, capsys))

        asyncio.run(scene())

    return play


def test_from_publishing_to_rollback(in_mesh: Callable[[Session], None], tmp_path: Path) -> None:
    async def session(busmesh: Terminal) -> None:
        done = await busmesh("policy", "publish", "split.yaml", "--reason", "v2 gets 20 %", "-o", "table")
        assert done.status == 0, done.err
        assert done.out.startswith("revision 1 published by ann: 1 put; 2 of 2 agents have it after ")
        assert len(done.out.splitlines()) == 1

        again = await busmesh("policy", "publish", "split.yaml", "-o", "table")
        assert (again.status, again.out) == (
            0,
            "nothing to change: it is published just so, as of revision 1\n",
        )

        (tmp_path / "split.yaml").write_text(SPLIT.replace("80", "50").replace("20}", "50}"))
        changes = await busmesh("policy", "diff", "split.yaml", "--exit-code", "-o", "table")
        assert changes.status == 1
        assert {"-      weight: 80", "+      weight: 50"} <= set(changes.out.splitlines())
        second = await busmesh("policy", "publish", ".", "-v", "-o", "table")
        assert "orders-v1-0  orders          2  SYNCED" in second.out
        assert (await busmesh("policy", "diff", "split.yaml", "--exit-code", "-o", "table")).status == 0

        [listed] = (await busmesh("policy", "list")).rows
        assert (listed["kind"], listed["name"], listed["revision"]) == ("Route", "orders", 2)
        assert listed["services"] == ["orders"]
        assert listed["written_as"] == "networking.istio.io/v1alpha3 VirtualService"

        got = await busmesh("policy", "get", "virtualservice", "orders", "--revision", "1")
        assert [document.data for document in read_yaml(got.out.encode(), "out")] == [
            document.data for document in read_yaml(SPLIT.encode(), "in")
        ]
        as_json = json.loads((await busmesh("policy", "get", "route/orders", "-o", "json")).out)
        assert as_json["spec"]["http"][0]["route"][0]["weight"] == 50

        deleted = await busmesh("policy", "delete", "route/orders", "-o", "json")
        assert deleted.rows[0]["removed"] == ["Route/orders"]
        assert [agent["state"] for agent in deleted.rows[0]["agents"]] == ["SYNCED", "SYNCED"]
        back = await busmesh("policy", "rollback", "1", "-o", "json")
        assert (back.status, back.rows[0]["revision"], back.rows[0]["reason"]) == (0, 4, "back to revision 1")

        history = (await busmesh("policy", "history")).rows
        assert [row["revision"] for row in history] == [1, 2, 3, 4]
        assert [row["author"] for row in history] == ["ann"] * 4
        assert history[0]["reason"] == "v2 gets 20 %"
        assert history[3]["digest"] == history[0]["digest"] != history[1]["digest"]
        assert [row["revision"] for row in (await busmesh("policy", "history", "--last", "1")).rows] == [4]
        table = await busmesh("policy", "history", "-o", "table")
        assert table.out.splitlines()[0].split() == [
            *("REVISION", "TIME", "AUTHOR", "DIGEST", "PUT", "REMOVED", "REASON"),
        ]
        assert history[0]["digest"][:12] in table.out

    in_mesh(session)


def test_a_refused_bundle_names_the_line_and_changes_nothing(
    in_mesh: Callable[[Session], None], tmp_path: Path
) -> None:
    async def session(busmesh: Terminal) -> None:
        (tmp_path / "good.yaml").write_text(PLAIN)
        (tmp_path / "bad.yaml").write_text(SPLIT.replace("subset: v2", "subset: v3"))
        done = await busmesh("policy", "publish", "good.yaml", "bad.yaml", "-o", "table")
        assert done.status == 5
        assert 'bad.yaml:11:44: BM2103 subset "v3" of orders has no instances' in done.err
        assert "--allow-dangling" in done.err
        assert (await busmesh("policy", "list")).rows == []

        live = await busmesh("policy", "validate", "bad.yaml", "--live")
        assert live.status == 5
        assert [(row["code"], row["level"], row["line"]) for row in live.rows] == [("BM2103", "error", 11)]
        offline = await busmesh("policy", "validate", "bad.yaml", "-o", "table")
        assert (offline.status, offline.out) == (0, "1 document is valid\n")
        assert "warning BM2103" in offline.err

        allowed = await busmesh("policy", "publish", "bad.yaml", "--allow-dangling", "-o", "table")
        assert allowed.status == 0
        assert "warning BM2103" in allowed.err

    in_mesh(session)


def test_an_agent_that_refuses_makes_it_fail_and_is_named(in_mesh: Callable[[Session], None]) -> None:
    async def session(busmesh: Terminal) -> None:
        picky = await busmesh.mesh.agent("web", "web-0")
        picky.refuses = ("BM1205", "unknown \x1b[31mkind")
        done = await busmesh("policy", "publish", "split.yaml", "-o", "table")
        assert done.status == 1
        lines = done.out.splitlines()
        assert lines[0].startswith("revision 1 published by ann: 1 put; 2 of 3 agents have it after ")
        assert lines[1].split() == ["AGENT", "SERVICE", "REVISION", "STATE", "AGE", "REASON"]
        assert len(lines) == 3
        assert lines[2].split()[:4] == ["web-0", "web", "0", "REJECTED"]
        assert "BM1205" in lines[2]
        assert "\x1b" not in done.out
        assert "BM2307 revision 1 is published, but 1 of 3 agents do not have it" in done.err

        status = await busmesh("policy", "status")
        assert [(row["agent"], row["state"], row["revision"]) for row in status.rows] == [
            ("orders-v1-0", "SYNCED", 1),
            ("orders-v2-0", "SYNCED", 1),
            ("web-0", "REJECTED", 0),
        ]
        assert status.status == 0

    in_mesh(session)


def test_waiting_may_be_left_out_or_end(in_mesh: Callable[[Session], None]) -> None:
    async def session(busmesh: Terminal) -> None:
        dead = await busmesh.mesh.agent("web", "web-0")
        dead.deaf = True
        told = await busmesh("policy", "publish", "split.yaml", "--wait", "0s", "-o", "table")
        assert (told.status, told.out) == (0, "revision 1 published by ann: 1 put; 3 agents were told\n")
        done = await busmesh("policy", "delete", "route/orders", "--wait", "300ms")
        assert done.status == 1
        assert [agent["state"] for agent in done.rows[0]["agents"]] == ["SYNCED", "SYNCED", "STALE"]
        assert done.rows[0]["waited_ms"] >= 299, "the clock of an event loop counts in milliseconds"
        assert (await busmesh("policy", "publish", "split.yaml", "--wait", "soon")).status == 2

    in_mesh(session)


def test_what_is_not_there_is_not_found(in_mesh: Callable[[Session], None]) -> None:
    async def session(busmesh: Terminal) -> None:
        assert (await busmesh("policy", "get", "route", "orders")).status == 6
        assert (await busmesh("policy", "delete", "route/orders")).status == 6
        assert (await busmesh("policy", "rollback", "7")).status == 6
        for text in ("abc", "-1", "1.5", "\u0663", "9" * 16):
            wrong = await busmesh("policy", "rollback", "--", text)
            assert wrong.status == 2
            assert "is no revision" in wrong.err
            assert "busmesh policy history lists them" in wrong.err
        assert (await busmesh("policy", "get", "route/orders", "--revision", "0")).status == 2
        assert (await busmesh("policy", "publish", "absent.yaml")).status == 5
        assert (await busmesh("policy", "get", "rout/orders")).status == 5
        assert (await busmesh("policy", "get", "a", "b", "c")).status == 2
        empty = await busmesh("policy", "list", "-o", "table")
        assert (empty.status, empty.out) == (0, "")
        assert "no policy is published" in empty.err

    in_mesh(session)


def test_a_namespace_may_be_given_either_way(in_mesh: Callable[[Session], None], tmp_path: Path) -> None:
    async def session(busmesh: Terminal) -> None:
        text = SPLIT.replace("  name: orders\n", "  name: orders\n  namespace: shop\n")
        (tmp_path / "shop.yaml").write_text(text)
        assert (await busmesh("policy", "publish", "shop.yaml", "--allow-dangling")).status == 0
        for words in (
            ["route/shop/orders"],
            ["route", "orders", "-n", "shop"],
            ["route/orders", "-n", "shop"],
        ):
            assert (await busmesh("policy", "get", *words)).status == 0
        assert (await busmesh("policy", "get", "route/orders")).status == 6

    in_mesh(session)


def test_who_signs(in_mesh: Callable[[Session], None]) -> None:
    async def session(busmesh: Terminal) -> None:
        busmesh.mesh.fill_home(busmesh.home, "bob")
        unclear = await busmesh("policy", "publish", "split.yaml")
        assert unclear.status == 2
        assert "--as ann" in unclear.err
        done = await busmesh("policy", "publish", "split.yaml", "--as", "bob")
        assert (done.status, done.rows[0]["author"]) == (0, "bob")
        assert (await busmesh("policy", "publish", "split.yaml", "--as", "eve")).status == 6

    in_mesh(session)


def test_a_stream_of_documents_from_standard_input(
    nats_server: NatsServer, ca: CertificateAuthority, busmesh_home: Path
) -> None:
    async def scene() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            mesh.fill_home(busmesh_home, "ann")
            agent = await mesh.agent("orders", "orders-v1-0", version="v1")
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "busmesh", "policy", "publish", "-", "--allow-dangling"],
                cwd=ROOT,
                env=clean_environment({"BUSMESH_HOME": str(busmesh_home)}),
                input=f"{SPLIT}---\n{SPLIT.replace('orders', 'web')}",
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["put"] == ["Route/orders", "Route/web"]
            assert len(agent.set.documents) == 2

    asyncio.run(scene())


def test_without_a_bus_or_a_home(
    nats_server: NatsServer, ca: CertificateAuthority, busmesh_home: Path, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "split.yaml"
    file.write_text(SPLIT)
    assert main(["policy", "publish", str(file)]) == 6
    assert "busmesh up" in capsys.readouterr().err
    FakeMesh(nats_server, ca).fill_home(busmesh_home)
    assert main(["policy", "publish", str(file)]) == 6
    assert "BM2309" in capsys.readouterr().err
    assert main(["policy", "list", "--bus", "127.0.0.1:1"]) == 3


def test_a_home_of_another_mesh(
    nats_server: NatsServer, ca: CertificateAuthority, busmesh_home: Path, capsys: Any
) -> None:
    FakeMesh(nats_server, ca).fill_home(busmesh_home)
    assert main(["policy", "list", "--mesh", "prod"]) == 2
    said = capsys.readouterr().err
    assert "BM2312" in said
    assert "not 'prod'" in said


def test_validate_needs_no_mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(SPLIT)
    bad.write_text(SPLIT.replace("80", "70") + "  colour: red\n")
    assert main(["policy", "validate", str(good), "-o", "table"]) == 0
    capsys.readouterr()
    assert main(["policy", "validate", str(good), str(bad)]) == 5
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(Path(row["file"]).name, row["level"]) for row in rows] == [("bad.yaml", "error")]
    assert rows[0]["path"] == "spec.colour"
    assert main(["policy", "validate", str(bad), "-o", "table"]) == 5
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "bad.yaml:12:3" in shown.err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "schema"]) == 0
    kinds = capsys.readouterr().out.split()
    assert {"Route", "VirtualService"} <= set(kinds)
    for kind in kinds:
        assert main(["policy", "schema", kind.lower()]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["$schema"].startswith("https://json-schema.org/")
        assert main(["policy", "schema", kind, "-o", "yaml"]) == 0
        [document] = read_yaml(capsys.readouterr().out.encode(), "out")
        assert document.data == found
    assert main(["policy", "schema", "Ruote"]) == 6
