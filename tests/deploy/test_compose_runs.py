"""The compose file's own commands and definitions, run as processes of this machine.

No container runs here; but the commands, the hand-over of the join token, the definitions and the
applications are the file's, with only addresses, ports and folders replaced, as a container's network and
mounts would.
"""

from __future__ import annotations

import http.client
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.bus import configured_server
from tests.support.ports import free_port
from tests.support.processes import Process

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


class Containers:
    """Runs services of the compose file; folders that only volumes share are shared."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.listen = f"127.0.0.1:{free_port()}"
        self.places = {
            "nats://bus:4222": f"nats://{self.listen}",
            "/data": str(self._folder("data")),
            "/var/lib/busmesh-bus": str(self._folder("bus-config")),
            "/var/lib/busmesh-observer": str(self._folder("observer")),
            "/var/lib/busmesh-join": str(self._folder("join")),
            "/var/lib/busmesh": str(self._folder("authority")),
            "/policies": str(ROOT / "policies"),
        }

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        return folder

    def here(self, word: str) -> str:
        for inside, outside in self.places.items():
            if word == inside or word.startswith(f"{inside}/"):
                return outside + word.removeprefix(inside)
        return word

    def busmesh(self, name: str, words: list[str], home: Path) -> Process:
        process = Process.busmesh(*map(self.here, words), directory=self.folder, home=home, name=name)
        return self.stack.enter_context(process)

    def operator(self, *words: str) -> Process:
        return self.busmesh("operator", [*words], Path(self.here("/var/lib/busmesh")))

    def lock_and_start_the_bus(self) -> None:
        command = [word if word != "bus" else "127.0.0.1" for word in SERVICES["lock"]["command"][1:]]
        locked = self.operator("bus", *command, "--listen", self.listen)
        assert locked.wait() == 0, locked.stderr
        flag, config = SERVICES["bus"]["command"][1:3]
        assert flag == "--config"
        self.stack.enter_context(configured_server(Path(self.here(config))))

    def hand_over_the_join_token(self) -> None:
        subprocess.run([self.here(word) for word in SERVICES["join"]["entrypoint"]], check=True)

    def pair(self, name: str) -> int:
        """Start an application and its agent; return the application's port."""
        outbound, admin = free_port(), free_port()
        words = SERVICES[name]["entrypoint"][3:]
        words = [{"9100": "0", "0.0.0.0": "127.0.0.1"}.get(word, word) for word in words]
        application = Process.python(
            "busmesh.demo.shop",
            *words,
            directory=self.folder,
            name=name,
            env={"http_proxy": f"http://127.0.0.1:{outbound}"},
        )
        port: int = self.stack.enter_context(application).ready()["port"]
        agent = SERVICES[f"{name}-agent"]
        definition = self.folder / f"{name}.yaml"
        content = COMPOSE["configs"][agent["configs"][0]["source"]]["content"]
        definition.write_text(content.replace(":9100", f":{port}"))
        self.places["/etc/busmesh/agent.yaml"] = str(definition)
        shifted = ["--outbound", f"127.0.0.1:{outbound}", "--admin", f"127.0.0.1:{admin}"]
        home = self._folder(f"{name}-home")
        self.busmesh(f"{name}-agent", [*agent["command"], *shifted], home).ready()
        assert get(admin, "/readyz")[0] == 200
        return port


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Containers]:
    with ExitStack() as stack:
        yield Containers(tmp_path, stack)


def test_the_mesh_of_the_compose_file_works(containers: Containers) -> None:
    home = Path(containers.here("/var/lib/busmesh"))
    containers.lock_and_start_the_bus()
    containers.busmesh("authority", SERVICES["authority"]["command"], home).ready()
    containers.hand_over_the_join_token()
    web = [containers.pair(name) for name in ("payments", "orders-v1", "orders-v2", "web")][-1]
    publish = containers.operator("policy", "publish", "/policies/orders-split.yaml")
    assert publish.wait() == 0, publish.stderr
    versions: Counter[str] = Counter()
    for _ in range(200):
        status, body = get(web, "/")
        assert status == 200, body
        answer = json.loads(body)
        assert answer["below"]["below"]["service"] == "payments"
        versions[answer["below"]["version"]] += 1
    assert versions["v1"] == pytest.approx(160, abs=4)
    assert versions.total() == 200
    assert containers.operator(*SERVICES["observer"]["command"]).wait() == 0
    nothing = containers.folder / "telemetry-home"
    heard = containers.busmesh("telemetry", [*SERVICES["telemetry"]["command"], "--count", "1"], nothing)
    assert heard.wait() == 0, heard.stderr
