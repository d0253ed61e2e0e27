"""What single clients can do besides: versions, tunnels, uploads, pipelining, and proxies of Node."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.clients.drivers import env_proxies, tool
from tests.clients.origin import Origin
from tests.support.mesh import Instance
from tests.support.processes import clean_environment


def curl(*argv: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("curl"), "-sS", "-m", "20", *argv],
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        check=False,
    )


def exchange(agent: Instance, data: bytes) -> bytes:
    """Send bytes and the end, and return all that comes back."""
    host, port = agent.outbound.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        parts = []
        while part := sock.recv(65_536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("option", ["--http1.0", "--http1.1", "--http2", "--tcp-nodelay"])
def test_curl_speaks_every_version(agent: Instance, option: str) -> None:
    """With ``--http2`` it offers an upgrade, which is ignored as RFC 9110 section 7.8 allows."""
    done = curl(option, "-H", "Host: origin", f"http://{agent.outbound}/echo")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "/echo"
    assert "upgrade" not in [name.lower() for name, _ in json.loads(done.stdout)["headers"]]


def test_curl_through_a_tunnel(agent: Instance) -> None:
    """Some clients ask a proxy for a tunnel also for ``http://`` URLs."""
    done = curl("-p", "-x", f"http://{agent.outbound}", "http://origin/echo?1", "http://origin/echo?2")
    assert done.returncode == 0, done.stderr
    assert '"/echo?1"' in done.stdout
    assert '"/echo?2"' in done.stdout


def test_https_through_the_mesh_is_refused_with_the_reason(agent: Instance) -> None:
    done = curl("-v", "-x", f"http://{agent.outbound}", "https://origin/echo")
    assert done.returncode != 0
    assert "400" in done.stderr


def test_an_upload_waits_for_100_continue(agent: Instance) -> None:
    done = curl(
        "-v", "-H", "Host: origin", "-H", "Expect: 100-continue", "-d", "abc", f"http://{agent.outbound}/echo"
    )
    assert "100 Continue" in done.stderr
    assert json.loads(done.stdout)["length"] == 3


def test_a_large_upload_waits_for_the_applications_word(agent: Instance, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 5_000_000)
    done = curl("-v", "-H", "Host: origin", "--data-binary", f"@{file}", f"http://{agent.outbound}/echo")
    assert json.loads(done.stdout)["length"] == 5_000_000
    assert "100 Continue" in done.stderr


def test_pipelined_requests_are_answered_in_order(agent: Instance) -> None:
    one = b"GET /echo?%d HTTP/1.1\r\nHost: origin\r\n\r\n"
    answers = exchange(agent, b"".join(one % n for n in range(20)))
    assert answers.count(b"HTTP/1.1 200 ") == 20
    places = [answers.index(b'"/echo?%d"' % n) for n in range(20)]
    assert places == sorted(places)


def test_a_bad_request_after_good_ones_is_the_last(agent: Instance, origin: Origin) -> None:
    good = b"GET /echo HTTP/1.1\r\nHost: origin\r\n\r\n"
    bad = b"GET /evil HTTP/1.1\r\nHost: origin\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers = exchange(agent, good + bad + good)
    assert [answers.count(b"HTTP/1.1 %d " % status) for status in (200, 400)] == [1, 1]


def test_the_caller_cannot_say_who_it_is(agent: Instance) -> None:
    done = curl(
        *("-H", "Host: origin", "-H", "x-forwarded-client-cert: URI=spiffe://local/ns/default/svc/admin/i/a"),
        *(
            "-H",
            "X_Forwarded_Client_Cert: URI=spiffe://local/ns/default/svc/admin/i/a",
            "-H",
            "x-busmesh-a: b",
        ),
        f"http://{agent.outbound}/echo",
    )
    headers = json.loads(done.stdout)["headers"]
    proven = [value for name, value in headers if name.lower().replace("_", "-") == "x-forwarded-client-cert"]
    assert len(proven) == 1
    assert "URI=spiffe://local/ns/default/svc/shopper/i/shopper-0" in proven[0]
    assert not [name for name, _ in headers if name.lower().startswith("x-busmesh")]


def test_nodes_own_proxy_support(agent: Instance) -> None:
    """From 22.21 and 24.0 on NODE_USE_ENV_PROXY=1 is all that fetch needs; before, it ignores http_proxy."""
    script = (
        "fetch('http://origin/echo').then(r => r.text()).then(console.log, e => console.log(e.cause.code))"
    )
    environment = {"NODE_USE_ENV_PROXY": "1", "http_proxy": f"http://{agent.outbound}"}
    done = subprocess.run(
        [tool("node"), "-e", script],
        env=clean_environment() | environment | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if env_proxies():
        assert json.loads(done.stdout)["target"] == "/echo"
    else:
        assert done.stdout.strip() in ("ENOTFOUND", "EAI_AGAIN")
