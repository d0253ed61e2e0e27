"""A dry run on live traffic: what would change is counted, nothing changes, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus import NatsServer
from tests.support.client import count_by
from tests.support.mesh import Instance, Mesh, eventually

ROUTE = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
  - name: all
    route:
    - {destination: {host: orders, subset: v1}, weight: 90}
    - {destination: {host: orders, subset: v2}, weight: 10}
"""
MORE = ROUTE.replace("90", "70").replace("10", "30")


@pytest.fixture
def mesh(tmp_path: Path, nats_server: NatsServer) -> Iterator[Mesh]:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        for version in ("v1", "v2"):
            mesh.instance("orders", f"orders-{version}", "--labels", f"version={version}")
        mesh.publish(ROUTE)
        yield mesh


@contextmanager
def traffic(client: Instance) -> Iterator[Counter[str]]:
    """Send requests until the block ends; count who answered."""
    answered: Counter[str] = Counter()
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            answered.update(count_by(client.outbound, "orders", 20))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield answered
    finally:
        over.set()
        thread.join()


def dry_run(mesh: Mesh, document: str, *options: str, check: bool = True) -> Any:
    done = mesh.run(
        "policy", "publish", "-", "--dry-run", "-o", "json", *options, stdin=document, check=check
    )
    return json.loads(done.stdout)


def test_requests_that_would_go_elsewhere_are_counted_and_go_where_they_went(mesh: Mesh) -> None:
    client = mesh.agent("web", "web-0", "--upstreams", "orders")
    with traffic(client) as answered:
        found = dry_run(mesh, MORE, "--for", "3s")
        assert client.page("/policies")["dry_run"]["under_way"] is False, "the command has ended it"
    (row,) = found["differences"]
    assert (row["caller"], row["goes_before"], row["goes_after"]) == (
        "web",
        "orders.default/v1",
        "orders.default/v2",
    )
    assert (row["rule_before"], row["rule_after"], row["refused"]) == ("all", "all", "")
    assert found["compared"] > 100
    assert abs(row["count"] / found["compared"] - 0.20) < 0.05
    share = answered["orders-v1"] / answered.total()
    assert abs(share - 0.90) < 0.02, answered
    assert client.page("/policies")["revision"] == 1
    assert found["trouble"] == found["silent"] == []


def test_what_would_be_refused(mesh: Mesh) -> None:
    client = mesh.agent("web", "web-0", "--upstreams", "orders")
    nobody = ROUTE.replace("subset: v2", "subset: v3").replace("name: all", "name: all\n    timeout: 1s")
    with traffic(client):
        found = dry_run(mesh, nobody, "--for", "2s", "--allow-dangling")
    rows = {row["goes_after"]: row for row in found["differences"]}
    assert rows["orders.default/v1"]["settings"] == ["timeout"]
    assert rows["orders.default/v1"]["refused"] == ""
    assert rows["orders.default/v3"]["refused"] == "503 no_healthy_upstream"
    assert sum(row["count"] for row in rows.values()) == found["compared"]


def test_a_command_that_is_killed_leaves_nothing(mesh: Mesh) -> None:
    client = mesh.agent("web", "web-0", "--upstreams", "orders")
    document = mesh.directory / "more.yaml"
    document.write_text(MORE)
    command = mesh._process(
        *("policy", "publish", str(document), "--dry-run", "--for", "1s", "--bus", mesh.url)
    )
    eventually(lambda: client.page("/policies")["dry_run"]["under_way"], "it has begun")
    command.kill()
    began = time.monotonic()
    eventually(lambda: not client.page("/policies")["dry_run"]["under_way"], "it ends by itself")
    assert time.monotonic() - began < 9


def test_ctrl_c_ends_it_and_shows_what_there_is(mesh: Mesh) -> None:
    client = mesh.agent("web", "web-0", "--upstreams", "orders")
    document = mesh.directory / "more.yaml"
    document.write_text(MORE)
    with traffic(client):
        command = mesh._process(
            *("policy", "publish", str(document), "--dry-run", "--for", "1h", "--bus", mesh.url, "-o", "json")
        )
        eventually(lambda: client.page("/policies")["dry_run"].get("compared", 0) > 50, "it compares")
        command.signal(signal.SIGINT)
        found = command.event(lambda line: "differences" in line)
        assert command.wait() == 0
    assert found["differences"][0]["count"] > 0
    assert not client.page("/policies")["dry_run"]["under_way"]


def test_a_revision_that_comes_into_force_ends_it(mesh: Mesh) -> None:
    client = mesh.agent("web", "web-0", "--upstreams", "orders")

    def publish_meanwhile() -> None:
        eventually(lambda: client.page("/policies")["dry_run"]["under_way"], "the dry run is under way")
        mesh.publish(ROUTE.replace("name: all", "name: every"))

    with traffic(client):
        publishing = threading.Thread(target=publish_meanwhile)
        publishing.start()
        began = time.monotonic()
        found = dry_run(mesh, MORE, "--for", "25s", check=False)
        publishing.join()
    assert time.monotonic() - began < 20
    assert {one["code"] for one in found["trouble"]} == {"BM2314"}
