"""A locked bus, a caller and a service on it, and whoever has stolen the login of another service.

The thief holds all that lies in the home of ``parcel-0``: its login, and its key and certificate. A wiretap
hears the whole bus, as its operator could: it shows that what the thief sent was on the bus, and the thief is
told by it what passes, which the login alone would not tell.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from busmesh.bus.jwt import Permissions
from busmesh.bus.login import Credentials, Login
from busmesh.identity.signed import open_signed
from busmesh.identity.store import Home
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.members.announcement import Announcement, decode
from tests.security.rogue import Rogue
from tests.support.bus import NatsServer
from tests.support.client import Caller
from tests.support.mesh import Instance, Mesh, eventually

ROOT = "busmesh.local"
MEMBER = f"{ROOT}.member.default.orders.orders-0"
OWN = f"{ROOT}.member.default.parcel.parcel-0"
RELAY = f"{ROOT}.relay.orders-0"
SESSION = f"{ROOT}.session.orders-0"
#: Where the thief may answer the caller, and where only the service itself may.
ANSWER = f"{ROOT}.reply.shop-0.0.parcel-0"
INBOX = f"{ROOT}.inbox.parcel-0.stolen.0"

POLICIES = (
    """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    outlierDetection:
      consecutive5xxErrors: 5
      maxEjectionPercent: 100
      sharedEvidence: {quorumPercent: 50}
""",
    """\
apiVersion: busmesh/v1
kind: RateLimit
metadata: {name: orders}
spec:
  host: orders
  limits:
  - {name: all, requests: 100000, scope: mesh}
""",
)
CALLS = 100
_NAMES = count()


class Heard(NamedTuple):
    """A message on the bus."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes


@dataclass
class Calls:
    """What the caller's client was answered while something was done."""

    names: list[str] = field(default_factory=list)
    wrong: list[object] = field(default_factory=list)


@dataclass
class Stolen:
    """What stands, and what was stolen.

    Attributes:
        thief: a raw client with the stolen login.
        svid: the stolen key and certificate.
        verifier: the roots, which anybody knows.
        legal: the requests that the application is to get, by the id of each.
    """

    bus: NatsServer
    mesh: Mesh
    orders: Instance
    parcel: Instance
    shop: Instance
    thief: Rogue
    svid: Svid
    verifier: Verifier
    wire: deque[Heard]
    watchers: list[Callable[[Heard], None]]
    legal: Counter[str] = field(default_factory=Counter)

    # -- what the thief has ------------------------------------------------------------------------

    def another(self) -> Rogue:
        """Return one more connection by the stolen login."""
        return Rogue(self.bus.port, f"{ROOT}.inbox.parcel-0.>", login=_login(self.mesh))

    def recorded(self, subject: str, sender: str = "") -> list[Heard]:
        """Return what the wiretap has heard on a subject."""
        return [heard for heard in list(self.wire) if heard.subject == subject and sender in heard.reply]

    def announced(self) -> tuple[bytes, Announcement]:
        """Return the service's own announcement of now, sealed and read."""
        eventually(lambda: bool(self.recorded(MEMBER)), "the service announces itself")
        sealed = self.recorded(MEMBER)[-1].payload
        return sealed, decode(open_signed(sealed, "member", self.verifier, time.time()).body)

    def restart_shop(self) -> None:
        """Replace the caller's agent by a new process, which begins its sessions anew."""
        self.shop.agent.kill()
        self.shop = _shop(self.mesh)

    # -- what must not change ----------------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """Return what everybody believes of the service, and what is in force."""
        shop, orders = self.shop.page("/members"), self.orders.page("/members")
        mine = [said for said in (*shop["members"], orders["self"]) if said["service"] == "orders"]
        passing = {"sequence", "active", "load"}
        return {
            "announced": [{k: v for k, v in said.items() if k not in passing} for said in mine],
            "endpoints": [{**said, "active": 0} for said in shop["endpoints"] if said["service"] == "orders"],
            "policies": [
                {k: self._page(who, "/policies")[k] for k in ("revision", "digest", "documents", "refused")}
                for who in (self.shop, self.orders)
            ],
            "trust": [self._page(who, "/certs")["trust"] for who in (self.shop, self.orders)],
            "reconnects": [
                self._page(who, "/config")["bus"]["reconnects"] for who in (self.shop, self.orders)
            ],
            "held": [
                said["held"]
                for said in self._page(self.shop, "/breakers")["destinations"]
                if said["destination"].startswith("orders")
            ],
        }

    @staticmethod
    def _page(who: Instance, path: str) -> dict[str, Any]:
        page: dict[str, Any] = who.page(path)
        return page

    def counted(self, where: str) -> int:
        """Return the sum of counters of what was refused, each written ``instance/page:name.name``."""
        total = 0
        for each in where.split():
            instance, _, rest = each.partition("/")
            page, _, path = rest.partition(":")
            value: Any = getattr(self, instance).page(f"/{page}")
            for name in path.split("."):
                value = value[name]
            total += int(value)
        return total

    @contextmanager
    def calling(self) -> Iterator[Calls]:
        """Have the caller's client call the service while something is done, and check the answers."""
        calls = Calls()

        def run() -> None:
            with closing(Caller(self.shop.outbound, "orders")) as caller:
                for _ in range(CALLS):
                    name = f"legal-{next(_NAMES)}"
                    calls.names.append(name)
                    status, answer, _ = caller.call("/", method="POST", body=name.encode(), x_id=name)
                    got = (answer.get("name"), answer.get("echo")) if status == 200 else answer
                    if got != ("orders-0", name):
                        calls.wrong.append((status, got))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield calls
        finally:
            thread.join()
            self.legal.update(calls.names)

    def hits(self) -> Counter[str]:
        """Return how often each request reached the application."""
        return Counter(entry["id"] for entry in self.orders.seen())

    @contextmanager
    def watching(self, watcher: Callable[[Heard], None]) -> Iterator[None]:
        """Have the thief told of each message on the bus as it passes."""
        self.watchers.append(watcher)
        try:
            yield
        finally:
            self.watchers.remove(watcher)


def _shop(mesh: Mesh) -> Instance:
    return mesh.agent("shop", "shop-0", "--upstreams", "orders,parcel")


def _login(mesh: Mesh) -> Login:
    return Login(Credentials.parse((mesh.home / "agents" / "parcel-0" / "bus.creds").read_text()))


@contextmanager
def standing(directory: Path) -> Iterator[Stolen]:
    with ExitStack() as stack:
        bus = stack.enter_context(NatsServer(directory / "bus"))
        mesh = stack.enter_context(Mesh(directory, bus, locked=True))
        wire: deque[Heard] = deque(maxlen=50_000)
        watchers: list[Callable[[Heard], None]] = []

        def hear(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
            heard = Heard(subject.decode("latin-1"), reply.decode("latin-1"), headers, payload)
            wire.append(heard)
            for watcher in watchers:
                watcher(heard)

        accounts = Home(mesh.home).bus_accounts()
        everything = accounts.credentials("wiretap", Permissions((), (">",)))
        stack.enter_context(Rogue(bus.port, ">", hear, Login(everything)))
        orders = mesh.instance("orders", "orders-0")
        parcel = mesh.instance("parcel", "parcel-0", "--upstreams", "orders")
        shop = _shop(mesh)
        mesh.publish(*POLICIES)
        home = Home(mesh.home)
        thief = stack.enter_context(
            Rogue(bus.port, f"{ROOT}.inbox.parcel-0.>", lambda *_: None, _login(mesh))
        )
        svid, verifier = home.agent("parcel-0").svid(), Verifier(home.trust("local"))
        made = Stolen(bus, mesh, orders, parcel, shop, thief, svid, verifier, wire, watchers)
        with made.calling() as calls:
            pass
        assert calls.wrong == []
        yield made
