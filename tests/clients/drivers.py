"""The clients under test behind one face: a list of requests goes in, a list of what came back comes out."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import httpx2
import requests

from tests.support.processes import clean_environment

#: ``proxy``: http_proxy and http://service/path; ``direct``: the agent's address and ``Host: service``;
#: ``none``: the application itself, to compare with.
WAYS = ("proxy", "direct")
TIMEOUT_S = 20


@dataclass(frozen=True)
class Ask:
    """One request. ``chunked`` sends the body without saying its length."""

    path: str = "/echo"
    method: str = "GET"
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = False
    follow: bool = False


@dataclass(frozen=True)
class Got:
    """One response, as the client shows it: some take a ``content-encoding`` off, some join headers."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    url: str = ""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Where:
    """Where requests go: over an agent, or (``way`` none) to the application at ``agent``."""

    way: str
    agent: str
    service: str = "origin"
    admin: str | None = None

    @property
    def base(self) -> str:
        return f"http://{self.service}" if self.way == "proxy" else f"http://{self.agent}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Host": self.service} if self.way == "direct" else {}

    @property
    def proxies(self) -> dict[str, str]:
        return {"http_proxy": f"http://{self.agent}"} if self.way == "proxy" else {}

    def connections(self) -> int:
        """How many connections of clients the agent counts."""
        if self.admin is None:
            return 0
        with urllib.request.urlopen(f"http://{self.admin}/members", timeout=5) as answer:
            return int(json.load(answer)["statistics"]["listener"]["connections"])


class Client(Protocol):
    """One client.

    Attributes:
        name: for the test's id.
        raw: whether it shows header names as they came, each line by itself.
        decodes: whether it takes gzip off by itself.
    """

    name: str
    raw: bool
    decodes: bool

    def send(self, where: Where, asks: Sequence[Ask]) -> tuple[list[Got], int]:
        """Send the requests, one after the other; return the responses and the connections at the end."""


def tool(name: str) -> str:
    """Return the path of a program that the tests need.

    Raises:
        AssertionError: it is not installed, and what to do.
    """
    found = shutil.which(name)
    assert found is not None, (
        f"{name} is not on PATH; it is a client that must work with the mesh: install it"
    )
    return found


class Curl:
    """curl, all requests in one process so that it may keep its connection."""

    name = "curl"
    raw = True
    decodes = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def send(self, where: Where, asks: Sequence[Ask]) -> tuple[list[Got], int]:
        argv = [tool("curl")]
        for number, ask in enumerate(asks):
            argv += ["--next"] if number else []
            argv += self._options(where, ask, number)
        done = subprocess.run(
            argv, env=clean_environment(where.proxies), capture_output=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, (argv, done.stderr.decode())
        made = [line.split(b" ", 2) for line in done.stdout.splitlines()]
        got = [
            self._read(number, ask, int(status), url.decode())
            for number, (ask, (status, _, url)) in enumerate(zip(asks, made, strict=True))
        ]
        return got, sum(int(connections) for _, connections, _ in made)

    def _options(self, where: Where, ask: Ask, number: int) -> list[str]:
        self._file(number, "body").unlink(missing_ok=True)
        options = ["-sS", "-m", str(TIMEOUT_S), "--path-as-is", "--globoff", where.base + ask.path]
        options += ["-o", str(self._file(number, "body")), "-D", str(self._file(number, "head"))]
        options += ["-w", "%{http_code} %{num_connects} %{url_effective}\n"]
        options += ["-I"] if ask.method == "HEAD" else ["-X", ask.method]
        options += ["-L"] if ask.follow else []
        for name, value in {**where.headers, **ask.headers}.items():
            options += ["-H", f"{name}: {value}"]
        if ask.body is not None:
            file = self._file(number, "upload")
            file.write_bytes(ask.body)
            options += ["--data-binary", f"@{file}"]
            options += ["-H", "Transfer-Encoding: chunked"] if ask.chunked else []
        return options

    def _file(self, number: int, what: str) -> Path:
        return self._directory / f"{number}.{what}"

    def _read(self, number: int, ask: Ask, status: int, url: str) -> Got:
        heads, body = self._file(number, "head").read_bytes(), self._file(number, "body")
        lines = heads.decode("latin-1").strip("\r\n").split("\r\n\r\n")[-1].split("\r\n")[1:]
        headers = [(name, value.strip(" ")) for name, _, value in (line.partition(":") for line in lines)]
        data = body.read_bytes() if body.exists() else b""
        if ask.method == "HEAD":
            data = data.removeprefix(heads)  # curl -I writes them there as well
        return Got(status, headers, data, url)


class Requests:
    """The library ``requests``; the proxy comes from the environment, as it does for most."""

    name = "requests"
    raw = True
    decodes = False  # read here below the level that does

    def send(self, where: Where, asks: Sequence[Ask]) -> tuple[list[Got], int]:
        with requests.Session() as session:
            session.trust_env = False
            session.proxies = {"http": f"http://{where.agent}"} if where.way == "proxy" else {}
            got = [self._one(session, where, ask) for ask in asks]
            return got, where.connections()

    def _one(self, session: requests.Session, where: Where, ask: Ask) -> Got:
        body = pieces(ask.body) if ask.chunked and ask.body is not None else ask.body
        answer = session.request(
            ask.method,
            where.base + ask.path,
            headers={**where.headers, **ask.headers},
            data=body,
            allow_redirects=ask.follow,
            stream=True,
            timeout=TIMEOUT_S,
        )
        data = answer.raw.read(decode_content=False)
        return Got(answer.status_code, list(answer.raw.headers.items()), data, answer.url)


class Httpx2:
    """The library ``httpx2``."""

    name = "httpx2"
    raw = True
    decodes = False

    def send(self, where: Where, asks: Sequence[Ask]) -> tuple[list[Got], int]:
        proxy = f"http://{where.agent}" if where.way == "proxy" else None
        with httpx2.Client(proxy=proxy, trust_env=False, timeout=TIMEOUT_S) as client:
            got = [self._one(client, where, ask) for ask in asks]
            return got, where.connections()

    def _one(self, client: httpx2.Client, where: Where, ask: Ask) -> Got:
        body = pieces(ask.body) if ask.chunked and ask.body is not None else ask.body
        with client.stream(
            ask.method,
            where.base + ask.path,
            headers={**where.headers, **ask.headers},
            content=body,
            follow_redirects=ask.follow,
        ) as answer:
            data = b"".join(answer.iter_raw())
            headers = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw
            ]
            return Got(answer.status_code, headers, data, str(answer.url))


class Node:
    """Node: its module ``http``, or the global ``fetch``."""

    def __init__(self, engine: str) -> None:
        self.name = f"node-{engine}"
        self.raw = engine == "http"
        self.decodes = engine == "fetch"
        self._engine = engine

    def send(self, where: Where, asks: Sequence[Ask]) -> tuple[list[Got], int]:
        told = {
            "engine": self._engine,
            "way": where.way,
            "agent": where.agent,
            "service": where.service,
            "admin": where.admin,
            "asks": [
                {
                    "path": ask.path,
                    "method": ask.method,
                    "headers": dict(ask.headers),
                    "body": None if ask.body is None else base64.b64encode(ask.body).decode(),
                    "chunked": ask.chunked,
                    "follow": ask.follow,
                }
                for ask in asks
            ],
        }
        done = subprocess.run(
            [tool("node"), str(Path(__file__).with_name("client.cjs"))],
            input=json.dumps(told),
            env=clean_environment(self._environment(where)),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        failed = [one["error"] for one in said["got"] if "error" in one]
        assert not failed, failed
        got = [
            Got(
                one["status"],
                [tuple(pair) for pair in one["headers"]],
                base64.b64decode(one["body"]),
                one["url"],
            )
            for one in said["got"]
        ]
        return got, said["connections"]

    def _environment(self, where: Where) -> dict[str, str]:
        if self._engine == "http" or where.way != "proxy" or not env_proxies():
            return {}
        return {**where.proxies, "no_proxy": "127.0.0.1", "NODE_USE_ENV_PROXY": "1"}


@cache
def env_proxies() -> bool:
    """Say whether this Node's fetch takes http_proxy from the environment (22.21, 24.0 and later)."""
    version = subprocess.run([tool("node"), "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = (int(part) for part in version.strip().lstrip("v").split(".")[:2])
    return major >= 24 or (major, minor) >= (22, 21)


def pieces(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), 10_000):
        yield body[at : at + 10_000]
