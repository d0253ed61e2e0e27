"""The floor below any mesh over NATS: plain nats-py request and reply, without HTTP, seal or policy.

A requester with one request in flight per connection of the job, one NATS server, one responder.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.contest import BUS, CALLER, SERVICE, Job, Load
from benchmarks.errors import BenchFailed
from benchmarks.load import load_of_json
from benchmarks.stand import Stand, clean_environment, free_port, get, module_command, need_program

NAME = "bare nats-py"


@dataclass(frozen=True, slots=True)
class Floor:
    """A NATS server and a responder; each drive brings its own requester."""

    name: str
    url: str
    roles: Mapping[int, str]
    load_role: str = CALLER

    def drive(self, job: Job, seconds: float) -> Load:
        argv = module_command(
            "benchmarks.floor_peer", "request", self.url, str(job.connections), str(seconds)
        )
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=clean_environment())
        if done.returncode:
            raise BenchFailed(f"the requester ended with status {done.returncode}: {done.stderr[-500:]}")
        return load_of_json(done.stdout)


def start(stand: Stand, size: int) -> Floor:
    """Start the server and a responder that answers with ``size`` bytes."""
    port, monitor = free_port(), free_port()
    program = need_program("nats-server", hint="pip install '.[demo]'")
    server = stand.start("floor nats", [program, "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor)])
    server.wait_until(lambda: get(monitor, "/healthz")[0] == 200)
    url = f"nats://127.0.0.1:{port}"
    responder = stand.start_module("floor responder", "benchmarks.floor_peer", "respond", url, str(size))
    responder.read_event()
    return Floor(NAME, url, {server.pid: BUS, responder.pid: SERVICE})
