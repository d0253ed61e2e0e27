"""Two busmesh agents on a bus of their own, with every default on, set up as a user would.

``busmesh up`` brings the NATS server and the authority; the agent beside the service and the client-only
agent of the caller are ordinary ``busmesh agent run`` processes, reached through their ready lines.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from benchmarks import proc
from benchmarks.contest import AUTHORITY, BUS, CALLER, SERVICE
from benchmarks.errors import BenchFailed
from benchmarks.http_contestant import HttpContestant, await_answer
from benchmarks.load import Generator
from benchmarks.stand import Process, Stand, free_port, get
from benchmarks.upstream import Upstream

NAME = "busmesh"
#: The agents may wait for the bus, enrol, and start; a first start compiles the modules as well.
_READY_S = 30.0


def service_agent(bus: str, app_port: int, service: str = "echo") -> dict[str, object]:
    """Return the definition of an agent beside the upstream."""
    return _agent(service, bus) | {
        "app": f"http://127.0.0.1:{app_port}",
        "health": {"path": "/healthz"},
    }


def caller_agent(bus: str) -> dict[str, object]:
    """Return the definition of the client-only agent that the load generator talks to."""
    return _agent("caller", bus) | {"upstreams": ["echo"]}


def ready_port(ready: Mapping[str, object], listener: str) -> int:
    """Return the port that an agent's ready line names for ``outbound`` or ``admin``.

    Raises:
        BenchFailed: the line says something else.
    """
    address = ready.get(listener)
    if ready.get("event") == "ready" and isinstance(address, str):
        port = address.rpartition(":")[2]
        if port.isdigit():
            return int(port)
    raise BenchFailed(f"an agent's ready line names no {listener} port: {ready}")


def counted_requests(metrics: str) -> float:
    """Return the sum of ``busmesh_requests_total`` over all its labels, from Prometheus text."""
    lines = (line for line in metrics.splitlines() if line.startswith("busmesh_requests_total{"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def start(stand: Stand, upstream: Upstream, generator: Generator) -> HttpContestant:
    """Start bus, authority and both agents, and wait for the first answer through them.

    Raises:
        BenchFailed: one of them did not become ready; the error quotes its stderr.
    """
    port = free_port()
    bus = f"nats://127.0.0.1:{port}"
    env = {"BUSMESH_HOME": str(stand.directory / "home")}
    up = stand.start_module("busmesh up", "busmesh", "up", "--port", str(port), env=env)
    up.read_event(_READY_S)
    behind = _run_agent(stand, service_agent(bus, upstream.port), env)
    behind_admin = ready_port(behind.read_event(_READY_S), "admin")
    front = _run_agent(stand, caller_agent(bus), env)
    ready = front.read_event(_READY_S)
    outbound = ready_port(ready, "outbound")
    await_answer(front, outbound, "echo")
    _await_count(front, ready_port(ready, "admin"))
    _await_count(behind, behind_admin)
    nats = bus_process(up.pid, proc.processes())
    roles = {front.pid: CALLER, behind.pid: SERVICE, nats: BUS, up.pid: AUTHORITY} | upstream.roles
    another = _starter(stand, bus, upstream.port, env)
    return HttpContestant(NAME, outbound, "echo", roles, generator, upstream, another)


def _starter(stand: Stand, bus: str, app_port: int, env: Mapping[str, str]) -> Callable[[], float]:
    """Return what starts an agent of another service beside the upstream, under a new name each time.

    So each start has everything in it: keys, enrolment, policies, the first health check.
    """
    numbers = itertools.count()

    def start_another() -> float:
        definition = service_agent(bus, app_port, f"another{next(numbers)}")
        began = time.monotonic()
        agent = _run_agent(stand, definition, env)
        agent.read_event(_READY_S)
        took = time.monotonic() - began
        stand.end(agent)
        return took

    return start_another


def _await_count(agent: Process, admin: int) -> None:
    """Wait until an agent's own metrics show that a request passed through it."""
    agent.wait_until(lambda: counted_requests(get(admin, "/metrics")[1].decode()) > 0)


def bus_process(up: int, table: Mapping[int, proc.Stat]) -> int:
    """Return the NATS server among the descendants of ``busmesh up``, to charge it apart."""
    below = {pid: stat for pid, stat in table.items() if stat.command == "nats-server"}
    for pid in below:
        ancestor = pid
        while ancestor in table and ancestor != up:
            ancestor = table[ancestor].parent
        if ancestor == up:
            return pid
    raise BenchFailed("busmesh up has no nats-server process below it")


def _agent(service: str, bus: str) -> dict[str, object]:
    return {
        "apiVersion": "busmesh/v1",
        "kind": "Agent",
        "service": service,
        "instance": f"{service}-0",
        "outbound": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "bus": {"url": bus},
    }


def _run_agent(stand: Stand, definition: Mapping[str, object], env: Mapping[str, str]) -> Process:
    path: Path = stand.directory / f"{definition['instance']}.yaml"
    path.write_text(yaml.safe_dump(dict(definition), sort_keys=False))
    name = f"agent {definition['service']}"
    return stand.start_module(name, "busmesh", "agent", "run", str(path), env=env)
