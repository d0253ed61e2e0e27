"""Explanations of a real mesh: by the policies in force, and of a request that was made."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Mesh, eventually

DOCUMENTS = (
    """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
  - name: canary
    match: [{headers: {x-canary: {exact: always}}, uri: {prefix: /orders}}]
    timeout: 200ms
    route: [{destination: {host: orders, subset: v2}}]
  - name: shops
    match: [{caller: shop}]
    route: [{destination: {host: orders, subset: v1}}]
  - name: web
    match: [{caller: web}]
    timeout: 3s
    route: [{destination: {host: orders}}]
""",
    """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: orders}
spec:
  host: orders
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}
""",
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder: Path = tmp_path_factory.mktemp("explain")
    with NatsServer(folder / "bus") as bus, Mesh(folder, bus, locked=True) as mesh:
        for version in ("v1", "v2"):
            mesh.instance("orders", f"orders-{version}", "--labels", f"version={version}")
        mesh.publish(*DOCUMENTS)
        yield mesh


def explained(mesh: Mesh, *words: str, status: int = 0) -> Any:
    done = mesh.run(*words, "-o", "json", check=False)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def test_the_policies_in_force(mesh: Mesh) -> None:
    found = explained(mesh, *"policy explain orders GET /orders/7 --from web --header x-canary=never".split())
    assert found["revision"] == 1
    assert found["document"] == {"name": "Route/orders", "revision": 1}
    assert [(row["rule"], row["verdict"]) for row in found["rules"]] == [
        ("canary", "does not match"),
        ("shops", "does not match"),
        ("web", "taken"),
    ]
    assert found["rules"][0]["why"] == ["header x-canary is 'never', wanted: 'always'"]
    assert found["taken"]["timeout_s"] == 3.0
    [destination] = found["destinations"]
    assert {one["instance"]: one["share"] for one in destination["instances"]} == {
        "orders-v1": 50.0,
        "orders-v2": 50.0,
    }
    nobody = explained(mesh, *"policy explain orders GET / --from other".split(), status=1)
    assert nobody["taken"] is None


def test_a_call_through_an_agent_that_has_ejected_an_instance(mesh: Mesh) -> None:
    client = mesh.agent("web", "web-0", "--upstreams", "orders")
    caller = Caller(client.outbound, "orders")
    eventually(
        lambda: len([one for one in client.page("/breakers")["endpoints"] if one["state"] == "usable"]) == 2,
        "both are usable",
    )
    for _ in range(2):
        assert caller.call("/orders?delay=1", x_canary="always")[0] == 504
    eventually(
        lambda: any("orders-v2" in d["held"] for d in client.page("/breakers")["destinations"]),
        "it is ejected",
    )
    found = explained(
        mesh, *f"call orders /orders -H x-canary:always --explain --agent {client.admin}".split(), status=1
    )
    assert (found["rule"], found["status"], found["flags"], found["tries"]) == ("canary", 503, "UH", [])
    assert found["destination"]["held"] == {"orders-v2": "ejected"}

    slow = threading.Thread(target=caller.call, args=("/?delay=2",))
    slow.start()
    eventually(
        lambda: sum(one["active"] for one in client.page("/members")["endpoints"]) == 1, "one is under way"
    )
    found = explained(mesh, *f"call orders / --explain --agent {client.admin}".split())
    slow.join()
    caller.close()
    assert found["rule"] == found["explanation"]["taken"]["rule"] == "web"
    assert found["destination"]["destination"] == "orders.default"
    [one] = found["tries"]
    assert "next in turn" in one["why"]
    rows = {row["instance"]: row for row in one["candidates"]}
    assert sum(row["active"] for row in rows.values()) == 1
    assert (rows[one["instance"]]["share"], rows[one["instance"]]["state"]) == (50.0, "usable")


def test_a_call_by_an_agent_of_its_own(mesh: Mesh) -> None:
    found = explained(mesh, *"call orders /orders/7 --explain --as shop".split())
    assert found["rule"] == "shops"
    assert found["explanation"]["document"] == {"name": "Route/orders", "revision": 1}
    assert [one["instance"] for one in found["tries"]] == ["orders-v1"]
    refused = explained(mesh, *"call orders / --explain --as other".split(), status=1)
    assert refused["status"] == 404
    assert refused["explanation"]["document"] == {"name": "Route/orders", "revision": 1}
    assert [row["verdict"] for row in refused["explanation"]["rules"]] == ["does not match"] * 3
    nowhere = explained(mesh, *"call orders / --explain -H host:not.a.name.of.any".split(), status=1)
    assert (nowhere["status"], nowhere["explanation"]) == (404, None)
    done = mesh.run(*"call orders / --explain --as other -o table".split(), check=False)
    assert "no rule matches" in done.stdout
    done = mesh.run(*"call orders /orders/7 --explain --as shop -o table".split())
    assert "*  orders-v1" in done.stdout


def test_nobody_else_is_written_down(mesh: Mesh) -> None:
    client = mesh.agent("web", "web-1", "--upstreams", "orders")
    traceparent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    caller = Caller(client.outbound, "orders")
    caller.call("/", traceparent=traceparent)
    caller.close()
    assert client.page("/explain") == {"requests": []}
