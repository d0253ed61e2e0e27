"""One caller and any number of instances on a bus without a network: time and order belong to the test.

What is published waits in the bus until the test lets it through, so that a test may lose, repeat, change or
delay any message. Sessions, frames, header blocks and everything above them are the real ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import pytest

from busmesh.bus.bus import Bus
from busmesh.decide.authz.engine import Decision
from busmesh.decide.route import Rule, ServicePolicy, Target
from busmesh.decide.split import Split
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.documents import parse_documents
from busmesh.policy.revision import PolicySet
from busmesh.policy.snapshot import Snapshot
from busmesh.relay.application.pool import Application
from busmesh.relay.client.connection import Connection
from busmesh.relay.client.listener import Listener
from busmesh.relay.destination import upstream as upstream_module
from busmesh.relay.destination import upstreams as upstreams_module
from busmesh.relay.destination.destination import Destination
from busmesh.relay.destination.upstream import Endpoint, Knowledge
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.inbound import access as access_module
from busmesh.relay.inbound import inbound as inbound_module
from busmesh.relay.inbound import peer as peer_module
from busmesh.relay.inbound import work as work_module
from busmesh.relay.inbound.inbound import Inbound
from busmesh.relay.inbound.peer import Peer
from busmesh.relay.inbound.work import Work
from busmesh.relay.outbound import actions as actions_module
from busmesh.relay.outbound import outbound as outbound_module
from busmesh.relay.outbound import waiting as waiting_module
from busmesh.relay.outbound.outbound import Outbound
from busmesh.relay.tries import streams as streams_module
from busmesh.relay.tries import tries as tries_module
from busmesh.relay.tries.exchange import Exchange
from busmesh.wire.frame import Session
from busmesh.wire.http import WireRequest
from tests.relay.apps import FakeApp, WiredApp
from tests.relay.transcript import request
from tests.relay.wires import FakeTransport, Response, responses

ME = "shop-1"
NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
TICK_S = 0.01


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class ManualTicker:
    """Stands in for the ticker: ticks when the world's time passes."""

    made: list[ManualTicker | ManualAlarm]
    clock: Clock

    def __init__(self, interval: float, work: Callable[[float], bool]) -> None:
        self.interval = interval
        self.work = work
        self.awake = False
        self.due = 0.0
        self.made.append(self)

    def wake(self) -> None:
        if not self.awake:
            self.awake = True
            self.due = self.clock.now + self.interval

    def tick(self, now: float) -> None:
        if self.awake and now >= self.due - TICK_S / 2:
            self.awake = False
            if self.work(now):
                self.wake()


class Lot(Random):
    """Draws what the test says: at 0, no pause before a retry, and every percentage above 0 hits."""

    drawn = 0.0

    def random(self) -> float:
        return self.drawn


class ManualAlarm:
    """Stands in for the alarm: rings when the world's time has come."""

    def __init__(self, ring: Callable[[float], float | None]) -> None:
        self.ring = ring
        self.due = math.inf
        ManualTicker.made.append(self)

    def set(self, due: float) -> None:
        self.due = min(self.due, due)

    def tick(self, now: float) -> None:
        if now >= self.due - TICK_S / 2:
            self.due = math.inf
            due = self.ring(now)
            if due is not None:
                self.set(due)


@dataclass(frozen=True)
class Message:
    """One publication."""

    subject: bytes
    reply: bytes
    payload: bytes

    @property
    def kind(self) -> int:
        return self.payload[1]


class FakeBus:
    """Both ends' bus. ``queue`` holds what was published and not let through yet."""

    def __init__(self) -> None:
        self.connected = True
        self.congested = False
        self.max_payload = 1024 * 1024
        self.queue: deque[Message] = deque()
        self.log: list[Message] = []
        self.handlers: dict[bytes, Callable[[bytes, bytes, bytes, bytes], None]] = {}
        self.watchers: list[Callable[[bool], None]] = []
        self.writers: list[Callable[[], None]] = []

    def on_connection(self, watcher: Callable[[bool], None]) -> None:
        self.watchers.append(watcher)

    def on_writable(self, writer: Callable[[], None]) -> None:
        self.writers.append(writer)

    @property
    def busy(self) -> bool:
        return self.congested

    def set_congested(self, congested: bool) -> None:
        self.congested = congested
        for writer in self.writers if not congested else ():
            writer()

    def set_connected(self, standing: bool) -> None:
        self.connected = standing
        for watcher in self.watchers:
            watcher(standing)

    def write(self, frame: bytes) -> None:
        line, _, rest = frame.partition(b"\r\n")
        verb, subject, *reply, size = line.split(b" ")
        payload, end = rest[: int(size)], rest[int(size) :]
        assert (verb, end) == (b"PUB", b"\r\n"), frame
        assert len(payload) <= self.max_payload
        if self.connected:
            message = Message(subject, reply[0] if reply else b"", payload)
            self.queue.append(message)
            self.log.append(message)

    def deliver(self, message: Message) -> None:
        """Hand a message over; if nobody listens the server says so to the reply subject."""
        handler = self._handler(message.subject)
        if handler is not None:
            handler(message.subject, message.reply, message.payload, b"")
        elif message.reply and (answering := self._handler(message.reply)) is not None:
            answering(message.reply, b"", b"", NO_RESPONDERS)

    def _handler(self, subject: bytes) -> Callable[[bytes, bytes, bytes, bytes], None] | None:
        parts = subject.split(b".")
        below = (b".".join([*parts[:count], b">"]) for count in range(len(parts) - 1, 0, -1))
        for pattern in (subject, b".".join([*parts[:-1], b"*"]), *below):
            if pattern in self.handlers:
                return self.handlers[pattern]
        return None


class Notes:
    """Telemetry: what it is told, as text."""

    def __init__(self) -> None:
        self.tries: list[str] = []
        self.requests: list[str] = []
        self.served: list[str] = []
        self.judgements: list[Decision] = []
        self.open = 0
        self.begun = 0

    def begin_try(self, exchange: Exchange) -> None:
        self.open += 1
        exchange.traceparent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

    def end_try(self, exchange: Exchange, status: int, flags: str, now: float) -> None:
        self.open -= 1
        assert exchange.sent_at > 0
        self.tries.append(f"{exchange.instance} {status} {flags}".strip())

    def end_request(self, exchange: Exchange, status: int, flags: str, size: int) -> None:
        self.requests.append(f"{status} {flags}".strip())

    def begin_inbound(self, work: Work) -> bytes:
        self.begun += 1
        return work.request.headers + work.peer.certificate_line

    def judged(self, peer: Peer, request: WireRequest, decision: Decision) -> None:
        self.judgements.append(decision)

    def end_inbound(self, work: Work, size: int) -> None:
        self.served.append(f"{work.status} {work.flags}".strip())


class Instance:
    """One instance of a service: agent's inbound, application, and how the caller sees it."""

    def __init__(
        self, world: World, service: ServiceName, name: str, app: Callable[[], Any], **options: Any
    ) -> None:
        self.world = world
        self.name = name
        self.id = SpiffeId.workload("local", service, name)
        self._app = app
        self.app = app()
        self.inbound = self._make(options)
        self._options = options
        self.endpoint = Endpoint(service, name)
        self.endpoint.ready = True

    def _make(self, options: dict[str, Any]) -> Inbound:
        made = Inbound(
            cast(Bus, self.world.bus),
            subjects=self.world.subjects,
            me=self.id,
            application=cast(Application, self.app),
            observer=self.world.notes,
            **options,
        )
        self._listen(made)
        return made

    def _listen(self, inbound: Inbound | None) -> None:
        """Have the bus bring messages to ``inbound``, or to nobody."""
        handlers, subjects = self.world.bus.handlers, self.world.subjects
        for subject in (subjects.relay(self.name), f"{subjects.gone_prefix(self.name)}*"):
            handlers.pop(subject.encode(), None)
        if inbound is not None:
            handlers[subjects.relay(self.name).encode()] = inbound.on_relay
            handlers[f"{subjects.gone_prefix(self.name)}*".encode()] = inbound.on_gone

    def connect(self, *, tell: bool = True) -> None:
        """Have a session stand between the caller and this instance."""
        world = self.world
        keys = [(world.rng.randbytes(32), world.rng.randbytes(12)) for _ in range(2)]
        number = world.rng.getrandbits(62) + 1
        started = world.clock.now
        self.inbound.add_session(
            Session(number, world.id, send=keys[1], receive=keys[0], started=started), "fingerprint"
        )
        self.endpoint.session = Session(number, self.id, send=keys[0], receive=keys[1], started=started)
        head = f"PUB {world.subjects.relay(self.name)} {world.subjects.notice_prefix(ME, 0)}"
        self.endpoint.session.head = head.encode()
        if tell:
            world.upstreams.changed(self.endpoint.service)

    def die(self) -> None:
        """The agent is killed: the bus knows that nobody listens there."""
        self._listen(None)

    def restart(self) -> None:
        """Another process of the same name: it knows nothing of the old one's sessions."""
        self.app = self._app()
        self.inbound = self._make(self._options)

    def freeze(self) -> None:
        """The agent is stopped: messages reach it and nothing comes back."""
        self.world.bus.handlers[self.world.subjects.relay(self.name).encode()] = lambda *_: None

    def thaw(self) -> None:
        self._listen(self.inbound)


class World:
    """The caller ``shop-1``, its bus, and the services that the test adds."""

    def __init__(self, patch: pytest.MonkeyPatch, *, capacity: int = 100) -> None:
        self.clock = Clock()
        ManualTicker.made = []
        ManualTicker.clock = self.clock
        for module in (
            *(access_module, actions_module, inbound_module, outbound_module, streams_module, tries_module),
            *(peer_module, upstream_module, upstreams_module, work_module),
        ):
            patch.setattr(module, "time", self.clock)
        for module in (inbound_module, outbound_module, tries_module, upstreams_module):
            patch.setattr(module, "Ticker", ManualTicker)
        patch.setattr(waiting_module, "Alarm", ManualAlarm)
        self.rng = Random(7)
        self.lot = Lot(2)
        self.bus = FakeBus()
        self.subjects = Subjects()
        self.id = SpiffeId.workload("local", ServiceName("shop"), ME)
        self.notes = Notes()
        self.discovered: list[str] = []
        self.renewed: list[str] = []
        #: Whether a renewed session stands at once.
        self.reconnects = True
        self.instances: dict[str, Instance] = {}
        self.upstreams = Upstreams(Random(1), lambda service: self.discovered.append(str(service)), capacity)
        self.outbound = Outbound(
            cast(Bus, self.bus),
            namespace="default",
            upstreams=self.upstreams,
            snapshot=Snapshot(0, "", {}, {}, {}),
            observer=self.notes,
            renew_session=self._renew,
            gone=self._gone,
            rng=self.lot,
        )
        self.bus.handlers[self.subjects.replies(ME, 0).encode()] = self.outbound.on_reply
        self.listener = Listener(self.outbound.handle, self.outbound.abandon)
        self.clients: list[FakeTransport] = []
        self.revision = 0

    def kill_caller(self, *, told: bool) -> None:
        """The caller's agent is killed; the bus says so to whoever sends it something, or says nothing."""
        for ticker in (self.outbound.tries._ticker, self.outbound.tries._stream_ticker):
            cast(ManualTicker, ticker).interval = math.inf
            cast(ManualTicker, ticker).due = math.inf
        replies = self.subjects.replies(ME, 0).encode()
        del self.bus.handlers[replies]
        if not told:
            self.bus.handlers[replies] = lambda *_: None

    # -- what the members actor does -----------------------------------------------------------------

    def _renew(self, endpoint: Endpoint) -> None:
        self.renewed.append(endpoint.instance)
        if self.reconnects:
            self.instances[endpoint.instance].connect()

    def _gone(self, endpoint: Endpoint, worker: int) -> None:
        endpoint.ready = False
        endpoint.session = None
        self.upstreams.changed(endpoint.service)

    def instance(
        self,
        name: str,
        service: str = "orders",
        *,
        session: bool = True,
        app: Callable[[], Any] = FakeApp,
        **options: Any,
    ) -> Instance:
        """Add an instance that is announced, by default with a session."""
        owner = ServiceName.parse(service)
        made = self.instances[name] = Instance(self, owner, name, app, **options)
        upstream = self.upstreams.upstream(owner)
        upstream.knowledge = Knowledge.KNOWN
        upstream.endpoints[name] = made.endpoint
        if session:
            made.connect(tell=False)
        self.upstreams.changed(owner)
        return made

    def known(self, service: str) -> None:
        """Discovery of a service has ended."""
        owner = ServiceName.parse(service)
        self.upstreams.upstream(owner).knowledge = Knowledge.KNOWN
        self.upstreams.changed(owner)

    def timeout(self, seconds: float, service: str = "orders") -> None:
        """Have a route with this timeout for everything."""
        owner = ServiceName.parse(service)
        plain = Snapshot(0, "", {}, {}, {})
        rule = Rule("timed", Split([(plain.target(owner), 1)], 0.0), timeout=seconds)
        self.outbound.use(Snapshot(1, "", {owner: ServicePolicy(owner, (rule,))}, {}, {}))

    def publish(self, *texts: str) -> None:
        """Have these documents, and no others, be in force."""
        documents = parse_documents("\n---\n".join(texts).encode(), "published.yaml")
        self.revision += 1
        policies = PolicySet(self.revision, {document.key: document for document in documents})
        self.outbound.use(compile_set(policies, Caller(self.id.service), rng=Random(self.revision)))

    def destination(self, service: str = "orders", subset: str | None = None) -> Destination:
        """Return what requests to a service go through; there was one already."""
        key = Target(ServiceName.parse(service), subset).key
        [found] = [d for d in self.upstreams.destinations() if d.target.key == key]
        return found

    # -- what the application does ---------------------------------------------------------------------

    def ask(
        self, method: str = "GET", path: str = "/", body: bytes = b"", host: str = "orders", *lines: str
    ) -> FakeTransport:
        """Send a request over a connection of its own; what is published waits in the bus."""
        client = FakeTransport(Connection(self.listener))
        headers = [*lines, f"Content-Length: {len(body)}"] if body else [*lines]
        client.protocol.data_received(
            request(*headers, line=f"{method} {path} HTTP/1.1", host=f"Host: {host}", body=body)
        )
        return client

    # -- time and messages -------------------------------------------------------------------------------

    def client(self) -> FakeTransport:
        """Connect a client; what arrives from it is read at :meth:`pump`."""
        client = FakeTransport(Connection(self.listener))
        self.clients.append(client)
        return client

    def wires(self) -> Iterator[FakeTransport]:
        """Clients, and the connections to applications that the test plays."""
        yield from self.clients
        for instance in self.instances.values():
            if isinstance(instance.app, WiredApp):
                yield from instance.app.wires

    def pump(self) -> None:
        """Let every message through, also those that answer them, and read what can be read."""
        while self.bus.queue or sum(wire.deliver() for wire in self.wires()):
            while self.bus.queue:
                self.bus.deliver(self.bus.queue.popleft())

    def lose(self, count: int = 1) -> list[Message]:
        """Take the oldest messages out of the bus."""
        return [self.bus.queue.popleft() for _ in range(count)]

    def after(self, seconds: float, step: float = TICK_S) -> None:
        """Let time pass, with a tick each 10 ms or ``step``, and every message let through at each."""
        for _ in range(round(seconds / step)):
            self.tick(step)
            self.pump()

    def tick(self, step: float = TICK_S) -> None:
        """Let 10 ms pass, or ``step``."""
        self.clock.now += step
        for ticker in list(ManualTicker.made):
            ticker.tick(self.clock.now)

    def settled(self) -> None:
        """Nothing is left of any request: neither in flight nor in a counter."""
        assert self.outbound.statistics() | {"late_replies": 0, "bad_frames": 0} == {
            "active": 0,
            "in_flight": 0,
            "streams": 0,
            "waiting": 0,
            "late_replies": 0,
            "bad_frames": 0,
        }
        assert {i.name: i.endpoint.active for i in self.instances.values() if i.endpoint.active} == {}
        assert self.notes.open == 0, "a try that telemetry saw begin did not end"
        assert self.outbound.tries.streams._windows.streams == 0
        assert len(self.outbound.tries.gate) == 0
        assert self.outbound._actions.statistics()["shadows"] == 0
        assert self.outbound._queues._lines == {}, "a line in which nobody stands"
        for destination in self.upstreams.destinations():
            guard = destination.guard
            assert (guard.admission.active, guard.admission.pending) == (0, 0), destination
            assert guard.budget.retries == 0, destination
            for breaker in filter(None, (guard.breaker, *guard._breakers.values())):
                assert breaker._probes == breaker._probes_reported, "a probe of which nobody will hear"

    def over(self) -> None:
        """Nothing is left of any request, also not where they were served."""
        self.settled()
        for instance in self.instances.values():
            inbound = instance.inbound
            assert inbound.statistics()["active"] == inbound.statistics()["streams"] == 0, instance.name
            assert inbound._windows.streams == 0
            assert len(inbound.gate) == 0
        assert self.notes.begun == len(self.notes.served), "work that telemetry saw begin did not end"


def answer_of(client: FakeTransport, methods: str = "") -> Response:
    """Return the one response that a client got."""
    [response] = responses(client.written, methods)
    return response


def outcome(client: FakeTransport) -> str:
    """Return status and flags of the one response, or ``waiting``."""
    if not client.written:
        return "waiting"
    response = answer_of(client)
    return f"{response.status} {response.header('x-busmesh-flags') or ''}".strip()


def outcomes(clients: Iterable[FakeTransport]) -> list[str]:
    return [outcome(client) for client in clients]
