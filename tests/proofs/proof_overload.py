"""Three times as many requests as an application can serve: it goes on serving what it can.

A mesh that lets everything queue serves nobody, for each answer comes too late; one that refuses too much
wastes the application. With limits that fit the application the rest is refused within milliseconds, agents
do not grow, and a second after the load requests are as fast as before. Ten seconds after it there is no
more of anything than before: tasks, sockets, streams, subscriptions, sessions; and of memory at most 2 %.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.proofs.capacity import AT_A_TIME, SECONDS
from tests.proofs.load import drive
from tests.support.bars import bar
from tests.support.bus import NatsServer
from tests.support.memory import MIB, forget_peak, peak, resident
from tests.support.mesh import Instance, Mesh
from tests.support.processes import Process

CAPACITY = round(AT_A_TIME / SECONDS)
LIMITS = ["--limits-max-requests", str(AT_A_TIME), "--limits-max-pending", str(AT_A_TIME)]


def state_of(bus: NatsServer, *agents: Instance) -> dict[str, int]:
    """Return all that a request or connection could leave behind at these agents and at their bus.

    The least of several looks: a health check may have a connection open at any one of them.
    """
    looks = []
    for _ in range(5):
        server = bus.monitor("varz")
        at_bus = {f"the bus's {name}": server[name] for name in ("connections", "subscriptions")}
        looks.append({**at_bus, **_look_at(agents)})
        time.sleep(0.15)
    return {name: min(look[name] for look in looks) for name in looks[0]}


def _look_at(agents: Iterable[Instance]) -> dict[str, int]:
    found: dict[str, int] = {}
    for agent in agents:
        own = Path(f"/proc/{agent.agent.pid}")  # first: a connection that asks for a page is one of these
        links = [_target(link) for link in (own / "fd").iterdir()]
        found[f"{agent.name} sockets"] = sum(link.startswith("socket:") for link in links)
        found[f"{agent.name} threads"] = len(list((own / "task").iterdir()))
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
        found[f"{agent.name} tasks"] = round(agent.metric("busmesh_tasks"))
    return found


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # closed meanwhile
        return ""


@pytest.mark.timeout(180)
def proof_of_overload(tmp_path: Path, nats_server: NatsServer) -> None:
    with (
        Mesh(tmp_path, nats_server) as mesh,
        Process.python("tests.proofs.capacity", directory=tmp_path, name="capacity") as app,
    ):
        instance = mesh.agent("store", "store-0", *LIMITS, application=app.ready()["url"])
        client = mesh.agent("shopper", "shopper-0", "--upstreams", "store")

        drive(client.outbound, "store", 3 * CAPACITY, 2.0)  # what a first load opens and keeps is there
        time.sleep(10.0)
        before = state_of(nats_server, client, instance)
        pids = [client.agent.pid, instance.agent.pid]
        held = [resident(pid) for pid in pids]
        normal = drive(client.outbound, "store", CAPACITY // 5, 3.0)
        print(f"a fifth of the capacity: {normal}")
        runs = [drive(client.outbound, "store", round(CAPACITY * share), 4.0) for share in (0.9, 1.0, 1.2)]
        for run in runs:
            print(f"around the capacity: {run}")
        best = max(run.rate() for run in runs)

        for pid in pids:
            forget_peak(pid)
        loaded = drive(client.outbound, "store", 3 * CAPACITY, 10.0)
        time.sleep(1.0)
        after = drive(client.outbound, "store", CAPACITY // 5, 3.0)
        most = [peak(pid) for pid in pids]
        time.sleep(10.0)
        at_last = state_of(nats_server, client, instance)
        kept = [resident(pid) for pid in pids]

    print(f"three times the capacity: {loaded}")
    print(f"a second later: {after}")
    print(f"goodput {loaded.rate():.0f}/s of {best:.0f}/s at most")
    print(f"memory before {held}, at most {most}, at last {kept}")
    print({name: (count, at_last.get(name)) for name, count in before.items() if count != at_last.get(name)})
    assert set(loaded.answers) == {200, 503}
    assert loaded.errors == 0
    assert loaded.rate() >= 0.9 * best
    assert loaded.p99(503) < bar(0.05)
    assert max(most) < 200 * MIB
    assert max(now / then for then, now in zip(held, kept, strict=True)) <= 1.02, "it has grown for good"
    assert set(after.answers) == {200}
    assert after.p99() < 1.5 * normal.p99() + 0.01
    assert at_last == before
