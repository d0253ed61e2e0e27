"""Three times as many requests as an application can serve: it goes on serving what it can.

A mesh that lets everything queue serves nobody, for each answer comes too late; one that refuses too much
wastes the application. With limits that fit the application the rest is refused within milliseconds, agents
do not grow, and a second after the load everything is as before.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.proofs.capacity import AT_A_TIME, SECONDS
from tests.proofs.load import drive
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh
from tests.support.processes import Process

CAPACITY = round(AT_A_TIME / SECONDS)
LIMITS = ["--limits-max-requests", str(AT_A_TIME), "--limits-max-pending", str(AT_A_TIME)]
MIB = 1024 * 1024


def state_of(*agents: Instance) -> dict[str, int]:
    """Return all that a request or connection could leave behind at these agents.

    The least of several looks: a health check may have a connection open at any one of them.
    """
    looks = []
    for _ in range(5):
        looks.append(_look_at(agents))
        time.sleep(0.15)
    return {name: min(look[name] for look in looks) for name in looks[0]}


def _look_at(agents: Iterable[Instance]) -> dict[str, int]:
    found: dict[str, int] = {}
    for agent in agents:
        statistics = agent.page("/members")["statistics"]
        for part, names in {
            "outbound": ("active", "in_flight", "streams", "waiting"),
            "inbound": ("active", "streams", "sessions"),
            "listener": ("connections", "busy"),
            "application": ("connections", "pending", "connecting"),
            "sessions": tuple(statistics["sessions"]),
        }.items():
            for name in names:
                if name in statistics.get(part, {}):
                    found[f"{agent.name} {part} {name}"] = statistics[part][name]
        bus = agent.page("/config")["bus"]
        for name in ("subscriptions", "waiting", "handler_errors"):
            found[f"{agent.name} bus {name}"] = bus[name]
        own = Path(f"/proc/{agent.agent.pid}")
        links = [_target(link) for link in (own / "fd").iterdir()]
        found[f"{agent.name} sockets"] = sum(link.startswith("socket:") for link in links)
        found[f"{agent.name} threads"] = len(list((own / "task").iterdir()))
    return found


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed meanwhile
        return ""


def resident(agent: Instance) -> int:
    """Return the bytes of memory that an agent holds."""
    status = Path(f"/proc/{agent.agent.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@contextmanager
def most_memory(*agents: Instance) -> Iterator[dict[str, int]]:
    """Keep the most that each agent holds while the context lasts."""
    most: dict[str, int] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for agent in agents:
                most[agent.name] = max(most.get(agent.name, 0), resident(agent))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


@pytest.mark.timeout(180)
def proof_of_overload(tmp_path: Path, nats_server: NatsServer) -> None:
    with (
        Mesh(tmp_path, nats_server) as mesh,
        Process.python("tests.proofs.capacity", directory=tmp_path, name="capacity") as app,
    ):
        instance = mesh.agent("store", "store-0", *LIMITS, application=app.ready()["url"])
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "store")

        drive(client.outbound, "store", CAPACITY // 2, 1.0)  # what a first request opens is open
        time.sleep(10.0)
        before = state_of(client, instance)
        normal = drive(client.outbound, "store", CAPACITY // 5, 3.0)
        print(f"a fifth of the capacity: {normal}")
        runs = [drive(client.outbound, "store", round(CAPACITY * share), 4.0) for share in (0.9, 1.0, 1.2)]
        for run in runs:
            print(f"around the capacity: {run}")
        peak = max(run.rate() for run in runs)

        with most_memory(client, instance) as most:
            loaded = drive(client.outbound, "store", 3 * CAPACITY, 10.0)
            time.sleep(1.0)
            after = drive(client.outbound, "store", CAPACITY // 5, 3.0)
        time.sleep(10.0)
        at_last = state_of(client, instance)

    print(f"three times the capacity: {loaded}")
    print(f"a second later: {after}")
    print(f"goodput {loaded.rate():.0f}/s of {peak:.0f}/s at most; memory {most}")
    print({name: (count, at_last.get(name)) for name, count in before.items() if count != at_last.get(name)})
    assert set(loaded.answers) == {200, 503}
    assert loaded.errors == 0
    assert loaded.rate() >= 0.9 * peak
    assert loaded.p99(503) < bar(0.05)
    assert max(most.values()) < 200 * MIB
    assert set(after.answers) == {200}
    assert after.p99() < 1.5 * normal.p99() + 0.01
    assert at_last == before
