"""Operators of a real mesh: each has a key and a scope, and the log says who, when and why."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.bus import NatsServer
from tests.support.mesh import Mesh

ROUTE = """\
apiVersion: busmesh/v1
kind: Route
metadata: {{name: orders, namespace: {namespace}}}
spec:
  hosts: [orders]
  http:
  - timeout: 3s
    route:
    - destination: {{host: orders}}
"""


def test_an_operator_changes_what_is_in_scope_and_nothing_else(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        agent = mesh.agent("orders", "orders-0")
        said = mesh.run("identity", "issue", "bea", "--namespace", "shop", "--kind", "VirtualService").stdout
        assert "namespaces=shop;kinds=Route" in said

        def publish(namespace: str) -> tuple[int, str]:
            options = ("--as", "bea", "--reason", "a try", "--allow-dangling")
            done = mesh.run(
                "policy", "publish", "-", *options, stdin=ROUTE.format(namespace=namespace), check=False
            )
            return done.returncode, done.stderr

        status, error = publish("default")
        assert status != 0
        assert "BM4308" in error
        assert agent.page("/policies")["revision"] == 0
        assert publish("shop")[0] == 0
        assert agent.page("/policies")["revision"] == 1
        entry = json.loads(mesh.run("policy", "history", "-o", "json").stdout)
        assert (entry["author"], entry["reason"]) == ("bea", "a try")

        strange = mesh.run("identity", "issue", "eve", "--kind", "Everything", check=False)
        assert strange.returncode == 2
        assert "BM6010" in strange.stderr
