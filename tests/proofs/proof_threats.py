"""Rows of the threat table in SECURITY.md whose proof takes long or measures time: T20, T23, T25, and S13."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from statistics import median

import pytest

from busmesh.decide.authz.authorizer import Authorizer
from busmesh.decide.request import RequestHead
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.store import Home
from busmesh.names import ServiceName, SpiffeId
from tests.decide.test_authz_paths import VARIANTS
from tests.policy.test_authorization import ROWS, asked, authorizer, caller
from tests.proofs import nonces
from tests.proofs.probe import Probe
from tests.support.bus import NatsServer
from tests.support.memory import resident
from tests.support.mesh import Instance, Mesh
from tests.support.processes import ROOT, Process, clean_environment
from tests.threats.stage import Stage, standing

MIB = 1024 * 1024
RESTARTS, FRAMES = 50, 20_000
#: Messages a second, of which a hundredth more is aimed at so that they are reached.
RATE, FLOOD_S = 5000, 10.0


@pytest.mark.timeout(300)
def proof_of_t20_no_nonce_comes_twice(tmp_path: Path) -> None:
    """A million messages over fifty restarts of both sides, which keep their SVIDs: no nonce comes twice."""
    home, now = Home(tmp_path / "home"), time.time()
    ca = CertificateAuthority.create(nonces.MESH, now)
    home.save_authority(ca)
    home.save_trust(ca.bundle)
    for service, name in (("shop", nonces.CALLER), ("orders", nonces.INSTANCE)):
        svid = ca.issue_svid(SpiffeId.workload(nonces.MESH, ServiceName(service), name), now)
        home.agent(name).save_svid(svid)
    used: set[bytes] = set()
    count = 0
    for _ in range(RESTARTS):
        done = subprocess.run(
            [sys.executable, "-m", "tests.proofs.nonces", str(home.path), str(FRAMES)],
            cwd=ROOT,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            check=True,
        )
        entries = [done.stdout[at : at + nonces.ENTRY] for at in range(0, len(done.stdout), nonces.ENTRY)]
        assert len(entries) == FRAMES
        used.update(entries)
        count += len(entries)
    keys = {entry[:8] for entry in used}
    print(f"{count} frames, {len(keys)} keys, {count - len(used)} nonces used twice")
    assert count >= 1_000_000
    assert len(keys) == 2 * RESTARTS, "a key for each direction and each life"
    assert len(used) == count


def _calm_and_flooded(stage: Stage, *subjects: str) -> tuple[Probe, Probe, dict[str, float]]:
    """Probe under a flood to nobody, which takes as much of this machine, then under one to ``subjects``."""
    probes, sent = [], {}
    for aims in (("busmesh.local.nobody",), subjects):
        junk = Process.python(
            "tests.proofs.junk",
            *(str(stage.bus.port), str(1.01 * RATE), str(FLOOD_S), *aims),
            directory=stage.mesh.directory,
            name=f"junk-{aims[0].rpartition('.')[2]}",
        )
        with junk, Probe(stage.shop.outbound, "orders", "/") as probe:
            sent = junk.event(lambda line: "sent" in line, FLOOD_S + 20)
        probes.append(probe)
        time.sleep(2.0)
    return probes[0], probes[1], sent


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("what", "subjects"),
    [
        ("handshakes", ["busmesh.local.session.orders-0"]),
        ("registrations", ["busmesh.local.member.default.orders.orders-0"]),
        ("enrolments", ["busmesh.local.authority.enrol"]),
    ],
)
def proof_of_t25_floods(what: str, subjects: list[str], tmp_path: Path) -> None:
    """5,000 a second for ten seconds: every request succeeds, and p99 stays below three times as much."""
    with standing(tmp_path) as stage:
        with Probe(stage.shop.outbound, "orders", "/"):
            time.sleep(2.0)
        before = _refused(stage)
        calm, flooded, sent = _calm_and_flooded(stage, *subjects)
        refused = {name: now - before[name] for name, now in _refused(stage).items()}
    rate = sent["sent"] / sent["seconds"]
    print(f"{rate:.0f} {what}/s for {sent['seconds']:.1f} s; refused: {refused}")
    print(f"calm: {len(calm.took)} requests, p99 {1000 * calm.p99():.1f} ms")
    print(f"flooded: {len(flooded.took)} requests, p99 {1000 * flooded.p99():.1f} ms")
    assert rate >= RATE
    assert sent["seconds"] >= FLOOD_S
    assert calm.failed == flooded.failed == []
    assert flooded.p99() < 3 * calm.p99()
    if what != "enrolments":  # what becomes of those the authority counts for itself
        assert refused[what] >= 0.9 * sent["sent"]


def _refused(stage: Stage) -> dict[str, int]:
    instance = stage.orders.page("/members")["statistics"]
    caller_ = stage.shop.page("/members")["statistics"]
    return {
        "handshakes": instance["handshakes"]["refused"],
        "registrations": sum(caller_[name] for name in ("forged", "rejected", "overrun") if name in caller_),
        "enrolments": 0,
    }


@pytest.mark.timeout(180)
def proof_of_t23_who_takes_nothing(tmp_path: Path, nats_server: NatsServer) -> None:
    """A client that reads nothing of 500 MB and an instance that takes nothing of 500 MB hold nobody up."""
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(tmp_path, nats_server))
        deaf, store = (_streaming(mesh, stack, name) for name in ("deaf", "store"))
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "store,deaf")

        def probed() -> Probe:
            with Probe(client.outbound, "store", "/now", interval=0.005) as probe:
                time.sleep(6.0)
            return probe

        with Probe(client.outbound, "deaf", "/now"):
            time.sleep(0.5)
        probed()
        calm = probed()
        agents = {"client": client, "store": store}
        held = {name: resident(agent.agent.pid) for name, agent in agents.items()}
        with _request(client, f"GET /bytes?n={500 * MIB} HTTP/1.1\r\nHost: store\r\n\r\n"):
            unread = probed()
        deaf.agent.signal(signal.SIGSTOP)  # it acknowledges nothing any more
        head = f"POST /sha256 HTTP/1.1\r\nHost: deaf\r\nContent-Length: {500 * MIB}\r\n\r\n"
        with _request(client, head) as upload:
            taken = _sent_at_once(upload)
            untaken = probed()
        grown = {name: resident(agent.agent.pid) - held[name] for name, agent in agents.items()}
        deaf.agent.signal(signal.SIGCONT)
    for name, probe in (("calm", calm), ("never read", unread), ("never taken", untaken)):
        print(f"{name}: {len(probe.took)} requests, p99 {1000 * probe.p99():.1f} ms, failed {probe.failed}")
    print(f"{taken / MIB:.1f} MiB of the upload were taken; grown by {grown} bytes")
    assert calm.failed == unread.failed == untaken.failed == []
    assert taken < 16 * MIB, "what the kernel and one window hold"
    assert max(grown.values()) < 16 * MIB
    assert max(unread.p99(), untaken.p99()) < 2 * calm.p99()


def _streaming(mesh: Mesh, stack: ExitStack, service: str) -> Instance:
    app = Process.python("tests.support.streamer", directory=mesh.directory, name=f"streamer-{service}")
    url = stack.enter_context(app).ready()["url"]
    return mesh.agent(service, f"{service}-0", "--health-path", "/now", application=url)


def _request(client: Instance, head: str) -> closing[socket.socket]:
    host, _, port = client.outbound.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=0.2)
    connection.sendall(head.encode())
    return closing(connection)


def _sent_at_once(connection: socket.socket) -> int:
    """Return how much is taken until nothing is for a moment, before the instance is known to be frozen."""
    sent = 0
    with suppress(TimeoutError, ConnectionError):
        while sent < 500 * MIB:
            sent += connection.send(bytes(MIB))
    return sent


def proof_of_s13_a_decision_takes_50_us() -> None:
    """The dearest of all rows of the table, and of all spellings of a path before a hundred rules."""
    print(f"Python was configured with: {sysconfig.get_config_var('CONFIG_ARGS')}")
    dearest = max(
        (_seconds(made, *asked(str(row.values[1]))), row.id)
        for row in ROWS
        if (made := authorizer(str(row.values[0]))) is not None
    )
    print(f"{len(ROWS)} rows of the table: {1e6 * dearest[0]:.1f} us at most, {dearest[1]}")
    paths = ", ".join(f"/area{number}/*" for number in range(100))
    hundred = authorizer(f"DENY {{rules: [{{to: [{{operation: {{paths: [{paths}, /admin]}}}}]}}]}}")
    assert hundred is not None
    spelled = max(
        (
            _seconds(
                hundred, caller("web"), RequestHead.from_block(b"GET", path.encode("latin-1"), b""), None
            ),
            path,
        )
        for path in VARIANTS
    )
    print(f"{len(VARIANTS)} spellings before 101 paths: {1e6 * spelled[0]:.1f} us at most, {spelled[1]!r}")
    assert max(dearest[0], spelled[0]) <= 50e-6


def _seconds(made: Authorizer, *request: object) -> float:
    """Return what one decision takes: the median of many."""
    took = []
    for _ in range(200):
        began = time.perf_counter_ns()
        made.decide(*request)  # type: ignore[arg-type]  # as `asked` gives them
        took.append(time.perf_counter_ns() - began)
    return median(took) / 1e9
