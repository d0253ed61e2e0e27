"""The test suite of the ``requests`` library gives the same result through the mesh as without it.

It was written by people who have never heard of busmesh, about cookies, redirects, authentication, encodings,
uploads, timeouts and malformed answers; what a mesh gets wrong about HTTP, one of its 600 tests notices. The
suite runs twice in an environment of its own, once straight to httpbin and once by way of two agents, and the
outcomes are compared test by test. The service is called ``localhost``, so that the URL of the caller's agent
names it by itself: the suite need not know that a mesh is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.bus import NatsServer
from tests.support.mesh import Mesh
from tests.support.ports import free_port
from tests.support.processes import clean_environment

PLUGIN = Path(__file__).parent / "requests_suite"
#: httpbin has one thread, and four tests leave it asleep for ten seconds each: the last request waits longer
#: than a service is granted by default.
PATIENT = """
apiVersion: busmesh/v1
kind: Route
metadata: {name: localhost}
spec:
  hosts: [localhost]
  http:
    - route: [{destination: {host: localhost}}]
      timeout: 60s
"""
#: Tests that differ, and why.
KNOWN_DIFFERENCES = {
    "tests/test_requests.py::TestRequests::test_proxy_authorization_preserved_on_request": (
        "Proxy-Authorization is for the next proxy, which the agent is: it goes no further (RFC 9110, 11.7.2)"
    ),
}


@dataclass
class Suite:
    """The unpacked source distribution and an interpreter that has what its tests need."""

    directory: Path
    python: Path

    def run(self, outcomes: Path, **env: str) -> dict[str, dict[str, str]]:
        """Run the suite and return the outcome of each test."""
        options = ["-q", "-p", "plugin", "-p", "no:cacheprovider", "tests"]
        own = {"PYTHONPATH": str(PLUGIN), "PROOF_OUTCOMES": str(outcomes), **env}
        done = subprocess.run(
            [str(self.python), "-m", "pytest", *options],
            cwd=self.directory,
            env={**clean_environment(), **own},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        print(done.stdout[-1000:])
        found: dict[str, dict[str, str]] = json.loads(outcomes.read_text())
        return found


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """The suite of the version that is installed here, with what it says it needs."""
    pip = ["-m", "pip", "--disable-pip-version-check", "-qq"]
    wanted = f"requests=={version('requests')}"
    download = ["download", "--no-deps", "--no-binary", "requests", "--dest", str(tmp_path), wanted]
    subprocess.run([sys.executable, *pip, *download], check=True)
    [archive] = tmp_path.glob("requests-*.tar.gz")
    with tarfile.open(archive) as file:
        # Known from 3.11.4 on; what comes from the package index is run here anyway.
        file.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    directory = archive.with_name(archive.name.removesuffix(".tar.gz"))
    needs = tomllib.loads((directory / "pyproject.toml").read_text())["dependency-groups"]["test"]
    others = [need for need in needs if not need.startswith("requests[")]
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([str(python), *pip, "install", f"{directory}[socks]", *others], check=True)
    return Suite(directory, python)


@pytest.mark.timeout(1200)
def proof_of_the_same_result(suite: Suite, tmp_path: Path, nats_server: NatsServer) -> None:
    plain = suite.run(tmp_path / "plain.json")
    port = free_port()
    with Mesh(tmp_path, nats_server) as mesh:
        for service in ("localhost", "httpbin.org"):  # one test writes the second into its Host header
            mesh.agent(service, f"{service}-0".replace(".", "-"), application=f"http://127.0.0.1:{port}")
        client = mesh.agent("caller", "caller-0", "--upstreams", "localhost")
        mesh.publish(PATIENT)
        url = f"http://localhost:{client.outbound.rpartition(':')[2]}"
        meshed = suite.run(tmp_path / "meshed.json", HTTPBIN_HTTP_PORT=str(port), PROOF_URL=url)
        carried = client.metric("busmesh_requests_total")
    print("plain: ", Counter(result["outcome"] for result in plain.values()))
    print("meshed:", Counter(result["outcome"] for result in meshed.values()))
    print("requests that the caller's agent has carried:", carried)
    nothing = {"outcome": "absent", "why": ""}
    differences = {
        test: (plain.get(test, nothing)["outcome"], meshed.get(test, nothing))
        for test in sorted(plain.keys() | meshed.keys())
        if plain.get(test, nothing)["outcome"] != meshed.get(test, nothing)["outcome"]
    }
    for test, (before, after) in differences.items():
        print(f"\n{test}: {before} -> {after['outcome']}\n{after['why']}")
    assert len(plain) > 500
    assert carried > 200
    assert differences.keys() == KNOWN_DIFFERENCES.keys()
