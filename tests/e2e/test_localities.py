"""Istio's tasks "Locality failover" and "Locality weighted distribution", word for word, in a real mesh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.bus import NatsServer
from tests.support.client import count_by
from tests.support.mesh import Instance, Mesh, eventually
from tests.support.threaded import Threaded

FAILOVER = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: helloworld
spec:
  host: helloworld.sample.svc.cluster.local
  trafficPolicy:
    connectionPool:
      http:
        maxRequestsPerConnection: 1
    loadBalancer:
      simple: ROUND_ROBIN
      localityLbSetting:
        enabled: true
        failover:
          - from: region1
            to: region2
    outlierDetection:
      consecutive5xxErrors: 1
      interval: 1s
      baseEjectionTime: 1m
"""
DISTRIBUTION = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: helloworld
spec:
  host: helloworld.sample.svc.cluster.local
  trafficPolicy:
    loadBalancer:
      localityLbSetting:
        enabled: true
        distribute:
        - from: region1/zone1/*
          to:
            "region1/zone1/*": 70
            "region1/zone2/*": 20
            "region3/zone4/*": 10
    outlierDetection:
      consecutive5xxErrors: 100
      interval: 1s
      baseEjectionTime: 1m
"""
LOCALITIES = ("region1/zone1", "region1/zone2", "region2/zone3", "region3/zone4")
REQUESTS = 2000
Sample = tuple[Mesh, Instance, dict[str, Instance]]


@pytest.fixture
def sample(tmp_path: Path, nats_server: NatsServer) -> Iterator[Sample]:
    """The four localities of Istio's task, an instance in each, and a client in the first."""
    with ExitStack() as stack, Mesh(tmp_path, nats_server) as mesh:
        instances = {}
        for locality in LOCALITIES:
            app = stack.enter_context(Threaded(locality).serving())
            name = "helloworld-" + locality.replace("/", "-")
            instances[locality] = mesh.agent(
                "helloworld.sample", name, "--locality", locality, application=app.url
            )
        client = mesh.agent(
            "client.sample", "client-0", "--locality", LOCALITIES[0], "--upstreams", "helloworld"
        )
        yield mesh, client, instances


def test_each_locality_that_goes_leaves_its_traffic_to_the_next(sample: Sample) -> None:
    mesh, client, instances = sample
    mesh.publish(FAILOVER)
    for locality in LOCALITIES:
        eventually(
            lambda locality=locality: set(count_by(client.outbound, "helloworld", 1)) == {locality},  # type: ignore[misc]
            f"{locality} is next",
        )
        assert count_by(client.outbound, "helloworld", 100) == {locality: 100}
        assert instances[locality].agent.terminate() == 0
    assert count_by(client.outbound, "helloworld", 5) == {"503": 5}


def test_localities_get_as_much_as_is_written(sample: Sample) -> None:
    mesh, client, _ = sample
    mesh.publish(DISTRIBUTION)
    answered = count_by(client.outbound, "helloworld", REQUESTS)
    shares = {locality: count / REQUESTS for locality, count in answered.items()}
    assert shares.keys() == {"region1/zone1", "region1/zone2", "region3/zone4"}
    for locality, share in (("region1/zone1", 0.7), ("region1/zone2", 0.2), ("region3/zone4", 0.1)):
        assert abs(shares[locality] - share) <= 0.04, shares
