"""What attackers make agents spend: at most ten times what their input is worth, in processor and memory.

Ten times of what has to be said. *Processor:* the same number of bytes of ordinary traffic of the same kind,
as the attacker's bytes go over the wire (a message with its subject and reply, a write with the headers of
its segment): what a byte of the attack costs is divided by what a byte of the ordinary costs. An attack whose
messages are no longer than the ordinary ones is divided message by message as well. *Memory:* the most that
a process holds beyond what it held before, divided by the bytes that came, where they come in volume; where
what is held is the state of connections or handshakes, which are dear for honest clients too, by the state of
as many honest ones and the bytes that came. Envoy calls a hundred times a security bug; the bar here is ten.

Everything is real: processes, bus, applications; figures come from ``/proc``. It needs a machine at rest.
"""

from __future__ import annotations

import json
import queue
import resource
import secrets
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgpack
import pytest

from busmesh.agent.policies import REREAD_S
from busmesh.identity.handshake import Handshake
from busmesh.identity.store import Home
from busmesh.names import ServiceName, SpiffeId
from busmesh.relay.session.accepting import HALF_WAY_MAX
from tests.proofs.flood import INBOX, ROOT, Keys, Kind, attacks, copied, forged, kinds, strangers
from tests.proofs.usage import FRAMING, SEGMENT, Meter, Use, told
from tests.security.rogue import Rogue
from tests.support.bus import NatsServer
from tests.support.client import Caller, count_by
from tests.support.mesh import Instance, Mesh
from tests.threats.stage import HEADER

BAR = 10.0
MIB = 1024 * 1024
#: Resident memory comes and goes in pieces of this order without any cause that could be told.
NOISE = 2 * MIB
#: Seconds of the processor for a message that is taken off the bus and dropped: none is compared with less.
LEAST = 10e-6

_POLICIES = """\
apiVersion: busmesh/v1
kind: RateLimit
metadata: {name: orders}
spec:
  host: orders
  limits: [{name: all, requests: 1000000, scope: mesh}]
---
apiVersion: busmesh/v1
kind: Destination
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 5, sharedEvidence: {quorumPercent: 50}}
"""


@dataclass
class Scene:
    """Two agents, one with an application, an authority, and a rogue."""

    bus: NatsServer
    mesh: Mesh
    application: str
    orders: Instance
    shop: Instance
    rogue: Rogue
    keys: Keys
    meter: Meter

    def flood(self, kind: Kind, waves: int, messages: Sequence[bytes], use: Use) -> None:
        """Send so many waves; what a log keeps of them costs its readers once more."""
        for _ in range(waves):
            self.send(kind, messages, use)
        if kind.kept:
            time.sleep(REREAD_S + 5)

    def send(self, kind: Kind, messages: Sequence[bytes], use: Use) -> None:
        """Send at a pace at which nothing is dropped because too much waits."""
        sent = 0
        for message in messages:
            self.rogue.publish(kind.subject, message, reply=kind.reply)
            use.add(len(message) + len(kind.subject) + len(kind.reply) + FRAMING)
            sent += 20 + len(message) // 1000
            if sent > 1000:
                self.rogue.flush()
                time.sleep(0.02)
                sent = 0
        self.rogue.flush()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Set a scene for each proof: on a bus that asks nobody for a login junk stays in the logs."""
    with ExitStack() as stack:
        bus = stack.enter_context(NatsServer(tmp_path / "bus"))
        mesh = stack.enter_context(Mesh(tmp_path, bus))
        _, application, _ = mesh.recorder("orders-0")
        orders = mesh.agent("orders", "orders-0", "--health-path", "/healthz", application=application)
        shop = mesh.agent("shop", "shop-0", "--upstreams", "orders")
        mesh.publish(*_POLICIES.split("---\n"))
        assert count_by(shop.outbound, "orders", 20) == {"orders-0": 20}
        keys = Keys(Home(mesh.home))
        processes = {"shop": shop.agent.pid, "orders": orders.agent.pid, "authority": mesh.authority.pid}
        yield Scene(
            bus, mesh, application, orders, shop, stack.enter_context(Rogue(bus.port)), keys, Meter(processes)
        )


class Rows:
    """The figures of one threat, and which of them are above the bar."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, float, float, float]] = []
        self.above: list[str] = []

    def add(self, what: str, where: str, ordinary: Use, attack: Use, state: float = 0.0) -> None:
        """Compare two loads; ``state`` is what so many honest ones would hold."""
        least = max(ordinary.per_message(where), LEAST)
        by_message = attack.per_message(where) / least
        by_byte = by_message * ordinary.size / ordinary.count * attack.count / attack.size
        memory = max(0, attack.grown[where] - NOISE) / (attack.size + state)
        self._rows.append((what, where, by_message, by_byte, memory))
        no_longer = attack.size / attack.count <= 1.5 * ordinary.size / ordinary.count
        if by_byte > BAR or memory > BAR or (no_longer and by_message > BAR):
            self.above.append(f"{what} at {where}: {by_message:.1f} {by_byte:.1f} {memory:.1f}")

    def __str__(self) -> str:
        return told(self._rows)


@pytest.mark.timeout(1200)
def proof_of_t18_and_t25_on_every_subject(scene: Scene) -> None:
    """Every subject that agents and the authority listen to; ordinary are messages that count there."""
    rows = Rows()
    for kind in kinds(scene.keys):
        ordinary = [kind.ordinary() for _ in range(kind.ordinarily)]
        with scene.meter.used() as base:
            scene.flood(kind, 1, ordinary, base)
        print(
            f"{kind.name}: {base.size // base.count} bytes, "
            + ", ".join(f"{where} {1e6 * base.per_message(where):.0f} us" for where in kind.heard)
        )
        for attacker, wave in attacks(kind, scene.keys):
            with scene.meter.used() as use:
                scene.flood(kind, max(1, kind.ordinarily // len(wave)), wave, use)
            for where in kind.heard:
                rows.add(f"{kind.name}, from {attacker}", where, base, use)
    print(rows)
    assert rows.above == []


# -- T25: handshakes -------------------------------------------------------------------------------------


def smallest_hello() -> bytes:
    """Return the first flight of a client that offers no more than TLS 1.3 needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def handshakes(
    scene: Scene, target: Instance, number: int, use: Use, *, flight: bytes = b"", end: bool = True
) -> None:
    """Begin so many handshakes with an instance, and end them if asked to; without ``flight`` honest ones."""
    answers: queue.Queue[bytes] = queue.Queue()
    subject, expected = (
        f"{ROOT}.session.{target.name}",
        SpiffeId.workload("local", ServiceName("half"), target.name),
    )
    answered = f"{INBOX.decode()}.{target.name}"
    with Rogue(scene.bus.port, answered, lambda *message: answers.put(message[3])) as rogue:

        def ask(identifier: bytes, data: bytes) -> bytes:
            message = msgpack.packb([1, identifier, data])
            rogue.publish(subject, message, reply=INBOX)
            use.size += len(message) + len(subject) + len(INBOX) + FRAMING
            answer: bytes = msgpack.unpackb(answers.get(timeout=10))[2]
            return answer

        for _ in range(number):
            identifier = secrets.token_bytes(16)
            use.count += 1
            if flight:
                ask(identifier, flight)
                continue
            client = Handshake.client(scene.keys.identity.tls, expected)
            data = ask(identifier, client.feed(b"", time.time()))
            if end:
                ask(identifier, client.feed(data, time.time()))


@pytest.mark.timeout(300)
def proof_of_t25_handshakes(scene: Scene) -> None:
    """What is begun and never ended, as many as one second admits.

    What a handshake holds until it ends is OpenSSL's affair and the same for everybody; so the memory of
    those that strangers leave half-way is compared with that of as many honest ones at the same point. What
    it is beside the bytes that came is told as well, and a bound on their number is what helps.
    """
    rows, uses = Rows(), {}
    own = Handshake.client(scene.keys.identity.tls, scene.keys.orders.id).feed(b"", time.time())
    for what, options in {
        "honest": {},
        "honest, half of them": {"end": False},
        "an agent's hello, again and again": {"flight": own},
        "the smallest hello": {"flight": smallest_hello()},
    }.items():
        # Each with a process of its own: what one has freed, the next would fill without growing.
        target = scene.mesh.agent("half", f"half-{len(uses)}", application=scene.application)
        meter = Meter({"agent": target.agent.pid})
        with meter.used() as warm:
            handshakes(scene, target, 3, warm)
        with meter.used() as use:
            handshakes(scene, target, 250, use, **options)
        uses[what] = use
        held = use.grown["agent"]
        print(
            f"{what}: {use.size // use.count} bytes, {1e6 * use.per_message('agent'):.0f} us;"
            f" held {held // use.count}, {held / use.size:.0f} times the bytes; at most {HALF_WAY_MAX}"
        )
        target.agent.terminate()
        if "flight" in options:
            rows.add(f"half of a handshake: {what}", "agent", uses["honest"], use,
                     uses["honest, half of them"].grown["agent"])  # fmt: skip
    print(rows)
    assert rows.above == []


@pytest.mark.timeout(300)
def proof_of_t18_where_frames_and_answers_go(scene: Scene) -> None:
    """Ordinary is a request there and back, counted by the bytes of its client."""
    rows = Rows()
    with scene.meter.used() as requests, closing(Caller(scene.shop.outbound, "orders")) as caller:
        for _ in range(1000):
            assert caller.call("/")[0] == 200
            requests.add(90 + SEGMENT)
    heard: list[bytes] = []
    with Rogue(scene.bus.port, f"{ROOT}.roll", lambda *message: heard.append(message[1])):
        scene.mesh.run("instances")
    inbox = heard[0].rpartition(b".")[0].replace(b"_operator-root", b"shop-0").decode()
    for name, subject, where in (
        ("relay", f"{ROOT}.relay.orders-0", "orders"),
        ("reply", f"{ROOT}.reply.shop-0.0.orders-0", "shop"),
        ("notice", f"{ROOT}.reply.shop-0.0._77", "shop"),
        ("notice by an instance", f"{ROOT}.reply.shop-0.0._77.orders-0", "shop"),
        ("gone", f"{ROOT}.gone.orders-0.1-1", "orders"),
        ("answer to nothing", f"{inbox}.x", "shop"),
    ):
        kind = Kind(name, subject, (where,), bytes, reply=f"{ROOT}.reply.shop-0.0._1".encode())
        frames = [HEADER.pack(1, number % 13, number, number, number) + bytes(40) for number in range(24)]
        for what, wave in (("who knows nothing", list(strangers(kind))), ("who writes frames", frames)):
            with scene.meter.used() as use:
                for _ in range(max(1, 3000 // len(wave))):
                    scene.send(kind, wave, use)
            rows.add(f"{name}, from {what}", where, requests, use)
    print(rows)
    assert rows.above == []


@pytest.mark.timeout(300)
def proof_of_t19_subjects(scene: Scene) -> None:
    """Reply subjects are matched whole before anything is written there; these are dear to match."""
    rows = Rows()
    evil = {
        "ends wrong": f"{ROOT}.inbox.{'a.' * 1800}!",
        "letters without end": f"{ROOT}.inbox.{'a' * 3700}!",
        "nearly a notice": f"{ROOT}.reply.shop-0.0._{'1' * 3600}.x",
    }
    for kind in kinds(scene.keys):
        if kind.name not in ("roll call", "who?", "handshake", "enrolment"):
            continue
        messages = [kind.ordinary() for _ in range(kind.ordinarily)]
        with scene.meter.used() as base:
            scene.send(kind, messages, base)
        for what, reply in evil.items():
            with scene.meter.used() as use:
                scene.send(replace(kind, reply=reply.encode()), messages, use)
            for where in kind.heard:
                rows.add(f"{kind.name}, with a reply that {what}", where, base, use)
    print(rows)
    assert rows.above == []


@pytest.mark.timeout(300)
def proof_of_t18_commands(scene: Scene) -> None:
    """What commands read off the bus: answers to the roll call, and telemetry, which nobody signs."""
    rows = Rows()
    said = next(kind for kind in kinds(scene.keys) if kind.name == "announcement")
    entry = {"reporter": "source", "destination_service": "orders", "count": 5, "buckets": [[None, 5]]}
    metrics = {"elapsed_s": 1.0, "requests": [entry] * 20}
    numbers = json.dumps(metrics).encode()
    loads = {
        "answers": ([said.ordinary() for _ in range(2000)], {
            "who knows nothing": [*strangers(said)][:72] * 20,
            "who copied a certificate": [*copied(said, scene.keys)] * 80,
            "who forges certificates": [*forged(said, scene.keys)] * 40,
        }),
        "metrics": ([numbers] * 2000, {
            "who knows nothing": [*strangers(said)][:72] * 20,
            "who writes JSON": [json.dumps({**metrics, "requests": [{}] * 3000}).encode(), b"[" * 30_000,
                                json.dumps({"elapsed_s": 1, "requests": [[]] * 4000}).encode()] * 100,
        }),
    }  # fmt: skip
    at_rest = min(_command(scene, "", []).seconds["command"] for _ in range(3))
    for what, (ordinary, hostile) in loads.items():
        base = _command(scene, what, ordinary, at_rest)
        for who, messages in hostile.items():
            rows.add(f"{what}, from {who}", "command", base, _command(scene, what, messages, at_rest))
    print(rows)
    assert rows.above == []


def _command(scene: Scene, what: str, messages: Sequence[bytes], at_rest: float = 0.0) -> Use:
    """Run ``busmesh instances`` while messages come to it; return what it used beyond ``at_rest``."""
    use = Use()

    def answer(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        to = reply if what == "answers" else f"{ROOT}.telemetry.metrics.default.orders.orders-9".encode()
        for message in messages if what else ():
            scene.rogue.publish(to, message)
            use.add(len(message) + len(to) + FRAMING)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Rogue(scene.bus.port, f"{ROOT}.roll", answer):
        scene.mesh.run("instances")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    use.seconds, use.grown = {"command": max(0.0, spent - at_rest)}, {"command": 0}
    return use
