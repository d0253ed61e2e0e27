"""The seed's policy, word for word: 80 % to v1, 20 % to v2, after restarts as well."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.bus import NatsServer
from tests.support.client import count_by
from tests.support.mesh import Mesh, eventually

VIRTUAL_SERVICE = """\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: product-service
spec:
  hosts:
  - product-service
  http:
  - route:
    - destination:
        host: product-service
        subset: v1
      weight: 80
    - destination:
        host: product-service
        subset: v2
      weight: 20
"""
REQUESTS = 2000


def assert_split(answered: Counter[str]) -> None:
    v1 = sum(count for name, count in answered.items() if name.startswith("product-v1"))
    v2 = sum(count for name, count in answered.items() if name.startswith("product-v2"))
    assert v1 + v2 == REQUESTS, f"some failed: {answered}"
    assert abs(v1 / REQUESTS - 0.80) <= 0.015, answered


def test_the_seeds_virtual_service_splits_80_to_20_also_after_restarts(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        for version in ("v1", "v2"):
            mesh.instance("product-service", f"product-{version}-0", "--labels", f"version={version}")
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "product-service")
        mesh.publish(VIRTUAL_SERVICE)
        assert_split(count_by(client.outbound, "product-service", REQUESTS))

        assert client.agent.terminate() == 0
        nats_server.restart(keep_store=True)
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "product-service")
        assert client.page("/policies")["revision"] == 1
        eventually(
            lambda: len([e for e in client.page("/members")["endpoints"] if e["state"] == "usable"]) == 2,
            "both instances are usable again",
        )
        assert_split(count_by(client.outbound, "product-service", REQUESTS))
