"""T8 by gunicorn's corpora: their bytes go to a real agent, and the application beyond the bus counts.

What one parser refuses may still leave something on a connection that another part takes for a request. So
each case is sent as it is, addressed to a service that there is, between two legal requests, and in pieces;
and what counts is what the application got, of which there may never be one more than is legal.
"""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import pytest

from tests.support import corpus
from tests.support.bus import NatsServer
from tests.support.corpus import INVALID, REFUSED, VALID, WAIVED, WAIVED_WITH_HOST, with_host
from tests.support.http import EchoApp, Received
from tests.support.mesh import Mesh, eventually

#: Whatever host a case names is one that a request could come through to.
ROUTE = f"""
apiVersion: busmesh/v1
kind: Route
metadata: {{name: corpus}}
spec:
  hosts: [{", ".join(corpus.HOSTS)}]
  http:
    - route: [{{destination: {{host: {corpus.SERVICE}}}}}]
"""
QUIET_S = 0.3
TIMEOUT_S = 12.0
#: Status lines of answers; an interim one may tell a client that closed its half whether it is still there.
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) ")
#: What a URL has before the part that is left of it on its way to an application (RFC 9112 section 3.2.1).
_ORIGIN = re.compile(r"http://[^/]*")


@dataclass
class Heard:
    """What became of the bytes of one connection."""

    answers: bytes
    came: list[Received]

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in _STATUS.findall(self.answers)]

    @property
    def targets(self) -> list[str]:
        """Return what the application was asked for."""
        return [request.target for request in self.came]

    @property
    def refused(self) -> bool:
        """Say whether it ends with a refusal that an agent wrote."""
        said = self.statuses[-1]
        return (400 <= said < 500 or said in (501, 505)) and b"\r\nx-busmesh-flags: " in self.answers


@dataclass
class Line:
    """An agent that listens, and the application that its requests reach by way of the bus."""

    address: tuple[str, int]
    app: EchoApp

    def send(self, *pieces: bytes) -> Heard:
        """Send bytes on a fresh connection until the agent closes it.

        Who has heard something, or nothing for a while, says that no more comes; then it does.
        """
        before = self.app.count
        with closing(socket.create_connection(self.address, timeout=TIMEOUT_S)) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                with suppress(ConnectionError):  # it has heard enough, and what it said can still be read
                    client.sendall(piece)
                time.sleep(0.001 if len(pieces) > 1 else 0)
            answers = _receive(client)
        assert self.app.misread == 0, "the application got what it does not take for a request"
        return Heard(answers, list(self.app.received)[before:])


def _receive(client: socket.socket) -> bytes:
    answers = b""
    client.settimeout(QUIET_S)
    with suppress(TimeoutError):
        answers = client.recv(65536)
    client.settimeout(TIMEOUT_S)
    with suppress(OSError):
        client.shutdown(socket.SHUT_WR)
    while data := client.recv(65536):
        answers += data
    return answers


def legal(target: str, host: str = corpus.SERVICE) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    directory = tmp_path_factory.mktemp("corpus")
    with (
        NatsServer(directory / "bus") as bus,
        Mesh(directory, bus, locked=True) as mesh,
        EchoApp() as app,
    ):
        mesh.agent(corpus.SERVICE, "orders-0", "--health-path", "/healthz", application=app.url)
        shop = mesh.agent("shop", "shop-0", "--upstreams", corpus.SERVICE)
        mesh.publish(ROUTE)
        host, _, port = shop.outbound.rpartition(":")
        standing = Line((host, int(port)), app)
        for name in (corpus.SERVICE, *corpus.HOSTS):
            asked = legal("/", name)
            eventually(lambda asked=asked: standing.send(asked).statuses == [200], f"{name} answers")  # type: ignore[misc]
        yield standing


def settle(line: Line, pieces: Sequence[bytes], waived: bool) -> None:
    """Send one case and see that the agent refuses it, or if it is waived that it comes through once."""
    heard = line.send(*pieces)
    assert len(heard.statuses) == 1, heard
    assert len(heard.came) == waived, heard
    assert heard.refused is not waived, heard
    control = line.send(legal("/control"))
    assert (control.statuses, control.targets) == ([200], ["/control"])


@pytest.mark.parametrize("name", INVALID)
def test_t08_an_invalid_request_reaches_nobody(line: Line, name: str) -> None:
    settle(line, [INVALID[name]], name in WAIVED)
    settle(line, [with_host(INVALID[name])], name in WAIVED_WITH_HOST)


@pytest.mark.parametrize("name", INVALID)
def test_t08_an_invalid_request_that_comes_line_by_line_reaches_nobody(line: Line, name: str) -> None:
    settle(line, with_host(INVALID[name]).splitlines(keepends=True), name in WAIVED_WITH_HOST)


@pytest.mark.parametrize("name", INVALID)
def test_t08_legal_requests_around_an_invalid_one(line: Line, name: str) -> None:
    """What comes before is served; what comes after only if the case was taken and the line lives on."""
    data = with_host(INVALID[name])
    heard = line.send(legal("/before") + data + legal("/after"))
    if name not in WAIVED_WITH_HOST:
        assert (heard.targets, heard.statuses[0], len(heard.statuses)) == (["/before"], 200, 2), heard
        assert heard.refused
        return
    lives = b" HTTP/1.0\r\n" not in data
    assert heard.statuses == [200] * (2 + lives), heard
    assert len(heard.came) == 2 + lives
    assert (heard.targets[0], heard.targets[-1] == "/after") == ("/before", lives)


def test_t08_at_least_75_of_81_are_refused() -> None:
    assert len(INVALID) == 81
    assert len(INVALID) - len(WAIVED) >= corpus.GOAL


@pytest.mark.parametrize("name", VALID)
def test_t08_a_valid_request_comes_through_and_nothing_else(line: Line, name: str) -> None:
    """As many requests as it has, each with its method, target and body; or none, for a written reason."""
    case = VALID[name]
    heard = line.send(case.addressed())
    if name in REFUSED:
        assert heard.refused, heard
        assert heard.came == []
        return
    came = [(request.method, request.target, request.body_sha256) for request in heard.came]
    assert came == [
        (wanted.method, _ORIGIN.sub("", wanted.target), hashlib.sha256(wanted.body).hexdigest())
        for wanted in case.requests
    ]
    assert heard.statuses == [200] * len(case.requests)
