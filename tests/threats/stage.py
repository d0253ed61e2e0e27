"""A mesh that stands while several threats are tried on it."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busmesh.identity.store import Home
from busmesh.identity.svid import Svid
from tests.security.rogue import Rogue
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.memory import Growth
from tests.support.mesh import Instance, Mesh, eventually
from tests.threats.middle import Middle

MESH = "local"
MEMBER = "busmesh.local.member.default.orders.orders-0"
RELAY = "busmesh.local.relay.orders-0"
REPLY = "busmesh.local.reply.shop-0.0.orders-0"
#: version, kind, session, counter, stream of a frame.
HEADER = struct.Struct("!BBQQQ")


@dataclass
class Stage:
    """An instance of ``orders``, a caller, and a rogue with all rights on the bus.

    Attributes:
        application: where the instance's application listens.
        middle: sits between the caller's agent and the bus.
    """

    bus: NatsServer
    mesh: Mesh
    middle: Middle
    application: str
    orders: Instance
    shop: Instance
    rogue: Rogue

    @contextmanager
    def caller(self) -> Iterator[Caller]:
        with closing(Caller(self.shop.outbound, "orders")) as caller:
            yield caller

    def hits(self) -> Counter[str]:
        """Return how often each id reached the application."""
        return Counter(entry["id"] for entry in self.orders.seen() if entry["id"])

    def growth(self) -> Growth:
        """Watch the memory of both agents from now on."""
        return Growth(self.shop.agent.pid, self.orders.agent.pid)

    def svid(self, instance: str) -> Svid:
        """Return an agent's own key and certificate, as a thief would find them."""
        return Home(self.mesh.home).agent(instance).svid()

    def address(self) -> tuple[str, int]:
        """Return where the caller's agent listens."""
        host, _, port = self.shop.outbound.rpartition(":")
        return host, int(port)

    def restart_orders(self) -> None:
        """Replace the instance's agent by a new process; the application goes on."""
        self.orders.agent.kill()
        fresh = _beside(self.mesh, self.application)
        self.orders.agent, self.orders.outbound, self.orders.admin = fresh.agent, fresh.outbound, fresh.admin

    def restart_shop(self) -> None:
        """Replace the caller's agent by a new process, behind the one in the middle."""
        if self.shop.agent.running:
            self.shop.agent.kill()
        self.mesh.url = self.middle.url
        self.shop = self.mesh.agent("shop", "shop-0", "--upstreams", "orders")
        self.mesh.url = self.bus.url

    def operator(self) -> Svid:
        return Home(self.mesh.home).operator("root")

    def record(self, subject: str, act: Callable[[], Any], enough: int = 1) -> list[bytes]:
        """Return the payloads heard on ``subject`` while something is done."""
        heard: list[bytes] = []
        with Rogue(self.bus.port, subject, lambda *message: heard.append(message[3])):
            act()
            eventually(lambda: len(heard) >= enough, f"something is heard on {subject}")
        return heard


def statistics(instance: Instance, part: str) -> dict[str, int]:
    """Return what one part of an agent has counted."""
    found: dict[str, int] = instance.page("/members")["statistics"][part]
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _beside(mesh: Mesh, application: str) -> Instance:
    return mesh.agent("orders", "orders-0", "--health-path", "/healthz", application=application)


@contextmanager
def standing(directory: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        bus = stack.enter_context(NatsServer(directory / "bus"))
        mesh = stack.enter_context(Mesh(directory, bus))
        middle = stack.enter_context(Middle(bus.port))
        process, url, record = mesh.recorder("orders-0")
        orders = _beside(mesh, url)
        orders.application, orders.record = process, record
        mesh.agent("evil", "evil-0")
        mesh.url = middle.url
        shop = mesh.agent("shop", "shop-0", "--upstreams", "orders")
        mesh.url = bus.url
        yield Stage(bus, mesh, middle, url, orders, shop, stack.enter_context(Rogue(bus.port)))
