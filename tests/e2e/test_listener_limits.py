"""What an agent's definition limits is limited at its listener."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.bus import NatsServer
from tests.support.mesh import Mesh


@pytest.mark.parametrize(
    ("options", "method", "headers", "body", "status", "error"),
    [
        (("--limits-max-body", "1000"), "POST", {}, b"x" * 1001, 413, "body_too_large"),
        (
            ("--limits-max-headers", "10"),
            "GET",
            {f"x-{n}": "1" for n in range(11)},
            b"",
            431,
            "too_many_headers",
        ),
        (("--limits-max-header-bytes", "2000"), "GET", {"x": "y" * 2001}, b"", 431, "headers_too_large"),
    ],
)
def test_limits_of_the_listener(
    tmp_path: Path,
    nats_server: NatsServer,
    options: tuple[str, ...],
    method: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    error: str,
) -> None:
    with Mesh(tmp_path, nats_server, locked=True) as mesh:
        client = mesh.agent("shopper", "shopper-0", *options)
        with closing(http.client.HTTPConnection(client.outbound, timeout=10)) as connection:
            connection.request(method, "/", body=body, headers={"Host": "orders", **headers})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["error"]) == (status, error)
