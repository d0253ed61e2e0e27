"""``busmesh check`` on a mesh of real processes: silent while all is well, and right about what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.e2e.test_split import VIRTUAL_SERVICE
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.mesh import Mesh, eventually
from tests.support.ports import free_port
from tests.support.processes import ROOT, Process, clean_environment

Found = dict[str, Any]


def check(mesh: Mesh, *words: str) -> tuple[int, list[Found]]:
    done = mesh.run("check", "-o", "json", *words, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def wrong(found: list[Found]) -> list[tuple[str, str]]:
    return [(each["group"], each["state"]) for each in found if each["state"] != "ok"]


def test_a_mesh_that_is_well_and_then_is_not(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        status, found = check(mesh)
        assert (status, wrong(found)) == (0, [("agents", "warning")]), "nobody is there yet"
        orders = mesh.instance("orders", "orders-0")
        mesh.agent("shopper", "shopper-0", "--upstreams", "orders")
        mesh.publish(VIRTUAL_SERVICE, options=("--allow-dangling",))

        status, found = check(mesh)
        assert (status, wrong(found)) == (0, []), found
        said = " | ".join(each["text"] for each in found)
        for what in (
            "it is locked",
            "answers and issues",
            "2 agents are ready",
            "revision 1 is in force at 2",
        ):
            assert what in said
        for_people = mesh.run("check", "-o", "table").stdout
        assert for_people.rstrip().endswith("all is well")
        assert "√" in for_people

        assert orders.application is not None
        orders.application.kill()
        eventually(lambda: orders.page("/readyz")["ready"] is False, "the agent notices")
        status, found = check(mesh, "--wait", "1s")
        assert (status, wrong(found)) == (1, [("agents", "failed")])
        [bad] = [each for each in found if each["state"] == "failed"]
        assert bad["text"] == "unhealthy: orders-0"
        assert "readyz" in bad["hint"]

        mesh.authority.kill()
        status, found = check(mesh)
        assert (status, wrong(found)) == (1, [("authority", "failed"), ("agents", "failed")])

        nats_server.kill()
        began = time.monotonic()
        status, found = check(mesh)
        assert time.monotonic() - began < bar(5.0)
        assert (status, wrong(found)) == (1, [("bus", "failed")])
        [bad] = [each for each in found if each["state"] == "failed"]
        assert (bad["code"], "busmesh up" in bad["hint"]) == ("BM3001", True)
        for_people = mesh.run("check", "-o", "table", check=False).stdout
        assert f"× BM3001 no answer from the bus at {mesh.url}" in for_people
        assert "      -> start one with `busmesh up`" in for_people


def test_a_bus_without_jetstream_and_one_that_hangs(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "bus", jetstream=False) as server, Mesh(tmp_path, server) as mesh:
        status, found = check(mesh)
        assert status == 1
        assert ("logs", "failed") in wrong(found)
        assert ("authority", "failed") not in wrong(found)
        assert "JetStream" in " ".join(each["hint"] for each in found if each["state"] == "failed")
        server.freeze()
        began = time.monotonic()
        status, found = check(mesh)
        server.thaw()
        assert time.monotonic() - began < bar(5.0)
        assert (status, wrong(found)) == (1, [("bus", "failed")])


def test_who_waits_is_told_when_nothing_fails_any_more(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        mesh.authority.terminate()
        waiting = mesh._process("check", "--wait", "30s", "--bus", mesh.url, "-o", "json")
        time.sleep(1.0)
        assert waiting.running
        mesh.start_authority()
        assert waiting.wait(30) == 0


def test_a_home_that_was_handed_out_is_all_that_another_machine_needs(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        mesh.agent("shopper", "shopper-0")
        for kind, words in {
            "board": ("bus", "login", "board", "--out"),
            "ann": ("identity", "issue", "ann", "--out"),
        }.items():
            mesh.run(*words, str(tmp_path / f"for-{kind}"), bus=False)
            elsewhere = tmp_path / "machine" / kind
            shutil.copytree(tmp_path / f"for-{kind}", elsewhere)
            for command in (("services", "--no-metrics"), ("check",)):
                done = busmesh(*command, "-o", "json", "--home", str(elsewhere))
                assert done.returncode == 0, (kind, command, done.stderr, done.stdout)
                assert done.stderr == ""
        published = busmesh(
            *("policy", "publish", "-", "--allow-dangling", "--home", str(tmp_path / "machine" / "ann")),
            stdin=VIRTUAL_SERVICE,
        )
        assert published.returncode == 0, published.stderr
        refused = busmesh(
            *("policy", "publish", "-", "--allow-dangling", "--home", str(tmp_path / "machine" / "board")),
            stdin=VIRTUAL_SERVICE,
        )
        assert refused.returncode != 0


def test_an_encrypted_bus_and_when_its_certificate_ends(tmp_path: Path, busmesh_home: Path) -> None:
    up = ("up", "--port", "0", "--tls")
    with Process.busmesh(*up, directory=tmp_path, home=busmesh_home) as mesh:
        mesh.ready()
        done = busmesh("check", "-o", "json", "--home", str(busmesh_home))
    assert done.returncode == 0
    said = " | ".join(json.loads(line)["text"] for line in done.stdout.splitlines())
    assert "the way to it is encrypted, by a certificate that is good for 36" in said


def test_nothing_at_all(tmp_path: Path) -> None:
    with Process.busmesh(
        *("check", "--bus", f"nats://127.0.0.1:{free_port()}", "-o", "json"),
        directory=tmp_path,
        home=tmp_path / "none",
    ) as nothing:
        assert nothing.wait(15) == 1
        found = [json.loads(line) for line in nothing.stdout]
    assert [(each["group"], each["code"]) for each in found] == [("home", "BM4501"), ("bus", "BM3001")]


def busmesh(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "busmesh", *words],
        cwd=ROOT,
        env=clean_environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
