"""A pytest plugin for a foreign test suite: tells each test's outcome, and may move httpbin into the mesh.

It is loaded by an interpreter that knows nothing of busmesh, so it imports nothing of it. pytest-httpbin
still starts the real server in the test process, on the port that HTTPBIN_HTTP_PORT names; with PROOF_URL set
the suite is told that address instead of the server's own. PROOF_OUTCOMES names the file that is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest_httpbin.serve

_outcomes: dict[str, dict[str, str]] = {}


def pytest_configure() -> None:
    # The server lets five connections wait. Some tests have its only thread sleep for ten seconds: health
    # checks, one each half second, would then be turned away, and the service be taken for dead.
    pytest_httpbin.serve.WSGIServer.request_queue_size = 128
    address = os.environ.get("PROOF_URL")
    if not address:
        return
    own = pytest_httpbin.serve.Server.url.fget

    def url(server: Any) -> str:
        return address if server.protocol == "http" else own(server)

    pytest_httpbin.serve.Server.url = property(url)


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the worst of set-up, call and tear-down, and the text of what failed."""
    outcome = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
    if outcome == "passed" and (report.when != "call" or report.nodeid in _outcomes):
        return
    if report.failed or report.nodeid not in _outcomes:
        why = report.longreprtext[-2000:] if report.failed else ""
        _outcomes[report.nodeid] = {"outcome": outcome, "why": why}


def pytest_sessionfinish() -> None:
    Path(os.environ["PROOF_OUTCOMES"]).write_text(json.dumps(_outcomes))
