"""CLIENT_SIDE_WEIGHTED_ROUND_ROBIN in a real mesh: applications say how busy they are, requests follow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.bus import NatsServer
from tests.support.client import count_by
from tests.support.mesh import Mesh

DESTINATION = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: store}
spec:
  host: store
  trafficPolicy:
    loadBalancer: {simple: CLIENT_SIDE_WEIGHTED_ROUND_ROBIN}
"""
#: Longer than what a new reporter has to wait until it is believed.
LONGER_S = 12.5
REQUESTS = 400


@contextmanager
def application(name: str, utilisation: float) -> Iterator[str]:
    """Serve 100 requests per second, as it says, and be that busy with them."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 64 * 1024

        def do_GET(self) -> None:
            self.send_response(200)
            load = f"TEXT cpu_utilization={utilisation},rps_fractional=100"
            self.send_header("endpoint-load-metrics", load)
            body = json.dumps({"name": name}).encode()
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_an_instance_that_says_it_is_three_times_as_busy_gets_a_third(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with ExitStack() as stack, Mesh(tmp_path, nats_server, locked=True) as mesh:
        for name, utilisation in (("store-0", 0.25), ("store-1", 0.75)):
            mesh.agent("store", name, application=stack.enter_context(application(name, utilisation)))
        client = mesh.agent("shop", "shop-0", "--upstreams", "store")
        mesh.publish(DESTINATION)
        before = count_by(client.outbound, "store", REQUESTS)
        assert abs(before["store-0"] / REQUESTS - 0.5) <= 0.03, f"they are not believed yet: {before}"

        until = time.monotonic() + LONGER_S
        while time.monotonic() < until:
            count_by(client.outbound, "store", 10)
            time.sleep(0.5)
        after = count_by(client.outbound, "store", REQUESTS)
        assert abs(after["store-0"] / REQUESTS - 0.75) <= 0.03, after
